"""Each verdict about a machine that can be caused on this one."""

import errno
import fcntl
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.run import RunConfig
from dpot_scale.data.datasets import open_datasets
from dpot_scale.diagnosis import machine
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.diagnosis.machine import (
    compiler,
    data,
    devices,
    disk,
    locks,
    machine_findings,
    port,
    shared_memory,
    storage,
    versions,
)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return load_run("quickstart", [f"output={tmp_path / 'runs'}", "tracking.mlflow_uri=null"])


def test_nothing_is_wrong_here_and_nothing_is_left_behind(config: RunConfig) -> None:
    findings = list(machine_findings(config))
    assert {one.check for one in findings if one.verdict == "stops"} <= {"/dev/shm", "disk"}
    assert {one.check for one in findings} >= {f"port {number}" for number in (29500, 6379, 8265)}
    assert [one.check for one in findings][:3] == ["versions", "devices", "compiler"]
    assert list(config.output.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = storage(tmp_path / "file" / "runs")
    assert (found.verdict, "Not a directory" in found.found) == ("stops", True)
    assert "DPOT_SCALE_HOME" in found.to_do
    assert locks(tmp_path / "file" / "runs").verdict == "note"


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    assert locks(tmp_path).verdict == "ok"
    monkeypatch.setattr(fcntl, "flock", refuse)
    found = locks(tmp_path)
    assert (found.verdict, found.found) == ("note", "the file system has none")
    assert list(tmp_path.iterdir()) == []


def test_shared_memory_that_is_full(small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shared_memory(small_disk)
    assert (found.verdict, found.found) == ("stops", "0.00 GiB free, 0.06 needed")
    assert "--shm-size" in found.to_do
    assert shared_memory(small_disk / "absent").verdict == "stops"
    monkeypatch.setattr(machine, "SHARED_BYTES", 1000)
    assert shared_memory(small_disk).verdict == "ok"


def test_a_path_without_a_compiler(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiler(config).verdict == "ok"
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = compiler(config)
    assert (found.verdict, found.found) == ("stops", "no C++ compiler")
    monkeypatch.setenv("CXX", "/bin/true -pthread")
    assert compiler(config).found == "true and ninja"
    monkeypatch.delenv("CXX")

    monkeypatch.setattr(machine, "trains_on_gpu", lambda: True)
    assert compiler(config).verdict == "ok", "nothing is compiled for it on GPUs"
    offloads = load_run("quickstart", ["engine.deepspeed=zero3_bf16_offload", "optim.kind=adam"])
    assert compiler(offloads).verdict == "stops", "its Adam is"
    (tmp_path / "c++").symlink_to("/bin/true")
    assert compiler(offloads).found == "c++ and ninja", "the one of this environment"

    compiled = load_run("paper_l", ["engine.deepspeed=zero1_bf16", "engine.compile=true"])
    assert compiler(compiled).found == "no C compiler", "Triton compiles in C"
    (tmp_path / "gcc").symlink_to("/bin/true")
    assert (compiler(compiled).verdict, compiler(compiled).found) == ("ok", "gcc")
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    assert compiler(compiled).found == "no Python.h"
    assert "python3-dev" in compiler(compiled).to_do


def test_gpus_that_are_left_alone_are_no_fault_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    found = devices()
    assert (found.verdict, "DS_ACCELERATOR=cpu leaves GPUs alone" in found.found) == ("ok", True)


def test_hidden_gpus_are_no_fault_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (devices().verdict, "CUDA_VISIBLE_DEVICES" in devices().found) == ("ok", True)


def test_a_disk_without_room_for_checkpoints(small_disk: Path) -> None:
    found = disk(load_run("quickstart", [f"output={small_disk}"]))
    assert found.verdict == "stops"
    assert f"0.0 GiB free in {small_disk}" in found.found


def test_data_that_are_here_damaged_or_absent(tiny_yaml: Path, tmp_path: Path) -> None:
    root = f"data.root={tmp_path}"
    config = load_run(str(tiny_yaml), [root])
    assert data(config).verdict == "ok"
    assert data(config).found.endswith(", the others are solved when a run starts")

    open_datasets(config.data, config.model, progress=print)
    names = list(config.data.weights)
    all_are_there = f"{len(names)} of {len(names)} datasets are in {tmp_path}"
    assert data(config) == Finding("data", "ok", all_are_there)

    imported = load_run(str(tiny_yaml), [root, "data.suite=null"])
    assert data(imported) == data(config)
    index = tmp_path / names[0] / "index.json"
    whole = index.read_text()
    index.write_text("{")
    assert (data(imported).verdict, data(imported).found) == ("stops", "damaged")
    assert "is not a dataset index" in data(imported).to_do
    index.unlink()
    found = data(imported)
    assert (found.verdict, found.found) == ("stops", f"{tmp_path} lacks {names[0]}")
    index.write_text(whole)
    assert data(imported).verdict == "ok"


def test_data_that_a_machine_cannot_read_now_are_not_called_damaged(
    tiny_yaml: Path, tmp_path: Path
) -> None:
    config = load_run(str(tiny_yaml), [f"data.root={tmp_path}"])
    open_datasets(config.data, config.model, progress=print)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0) for _ in range(64)]  # whatever number is free below is taken
    os.close(held[-1])
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[-1], limits[1]))
    try:
        found = data(config)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for one in held[:-1]:
            os.close(one)
    assert (found.verdict, found.found) == ("stops", "cannot be read now"), found
    assert "Too many open files" in found.to_do


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("", 0)) as server:
        number = server.getsockname()[1]
        assert port(number).verdict == "note"
    assert port(number).verdict == "ok"


def test_a_package_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert versions().verdict == "ok"
    monkeypatch.setattr(machine, "PACKAGES", ("torch", "no-such-package"))
    assert versions().found == "no no-such-package"


def test_a_shell_that_may_not_ask_for_enough_open_files() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, ({}, {})); "
        "from dpot_scale.diagnosis.machine import open_files; print(open_files())"
    )

    def said(soft: int, hard: int) -> str:
        command = [sys.executable, "-c", script.format(soft, hard)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    few = said(256, 1024)
    assert "verdict='note', found='1,024 allowed, and no more may be asked for'" in few
    assert "to_do='root raises it: " in few
    assert "verdict='ok', found='5,000 allowed to a training'" in said(256, min(5000, before[1]))

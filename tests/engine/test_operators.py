"""Where the operator is compiled, and the guard of a build that a killed process left behind."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.file_baton import FileBaton

from dpot_scale.engine.operators import (
    HOST_ADAM,
    OPERATOR,
    build_host_adam,
    build_operators,
    build_path,
    own_folder,
    refuse_without_tools,
    remove_abandoned,
)
from dpot_scale.errors import ConfigError

BUILDS = """
import sys, time
from torch.utils.file_baton import FileBaton
FileBaton(sys.argv[1]).try_acquire()
time.sleep(600)
"""


def guard_in(folder: Path, operator: str = OPERATOR) -> Path:
    guard = folder / "py311_cpu" / operator / "lock"
    guard.parent.mkdir(parents=True)
    return guard


@pytest.mark.parametrize("operator", [OPERATOR, HOST_ADAM])
def test_the_guard_of_a_killed_build_is_removed(tmp_path: Path, operator: str) -> None:
    guard = guard_in(tmp_path, operator)
    builder = subprocess.Popen([sys.executable, "-c", BUILDS, str(guard)])
    while not guard.exists():
        assert builder.poll() is None
        time.sleep(0.05)
    remove_abandoned(tmp_path)
    assert guard.exists()  # it is still building
    builder.send_signal(signal.SIGKILL)
    builder.wait()
    remove_abandoned(tmp_path)
    assert not guard.exists()


def test_the_guard_of_a_build_in_this_process_stays(tmp_path: Path) -> None:
    guard = guard_in(tmp_path)
    baton = FileBaton(str(guard))
    assert baton.try_acquire()
    remove_abandoned(tmp_path)
    assert guard.exists()
    baton.release()


def test_two_environments_do_not_share_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch would keep the builds of both in one, and compile anew whenever they take turns."""
    mine = own_folder()
    assert own_folder() == mine
    monkeypatch.setattr("sys.prefix", "/another/environment")
    assert own_folder() != mine
    assert own_folder().parent == mine.parent


def test_a_build_is_announced_once_where_the_user_wants_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    built = tmp_path / OPERATOR / f"{OPERATOR}.so"

    def build() -> None:
        built.parent.mkdir()
        built.touch()

    module = importlib.import_module("deepspeed.comm.torch")  # its attribute is torch itself
    monkeypatch.setattr(module, "build_shm_op", lambda: built.exists() or build())
    build_operators()
    build_operators()
    assert [record.getMessage() for record in caplog.records] == [
        f"compiling {OPERATOR} in {tmp_path}; once, for a minute or two"
    ]


def test_an_environment_that_is_not_activated_builds_by_its_own_ninja(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over ssh; another version of ninja would compile anew what this one has compiled."""
    monkeypatch.setenv("PATH", "/usr/bin")
    own, python = tmp_path / "ninja", tmp_path / "python"
    monkeypatch.setattr("sys.executable", str(python))
    assert build_path() == "/usr/bin", "there is none"
    own.touch()
    assert build_path() == f"{tmp_path}:/usr/bin"
    monkeypatch.setenv("PATH", build_path())
    assert build_path() == f"{tmp_path}:/usr/bin", "once"


def test_a_missing_header_or_compiler_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler -O2")
    with pytest.raises(ConfigError, match=r"no C\+\+ compiler \(no-such-compiler\): apt-get"):
        refuse_without_tools()
    monkeypatch.delenv("CXX")
    refuse_without_tools()
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ConfigError, match=r"no header of Python .*python3-dev"):
        refuse_without_tools()


@pytest.fixture
def broken_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Adam be an operator that DeepSpeed fails to compile, in words of its own."""
    from deepspeed.accelerator import get_accelerator

    class Builder:
        def load(self, *, verbose: bool) -> None:  # noqa: ARG002 - as DeepSpeed names it
            raise ValueError("invalid literal for int() with base 10: '0a'")

    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    accelerator = get_accelerator()
    monkeypatch.setattr(type(accelerator), "create_op_builder", lambda *_: Builder())


@pytest.mark.usefixtures("broken_builder")
def test_an_operator_that_cannot_be_compiled_is_one_sentence(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with pytest.raises(ConfigError, match=r"operator cpu_adam \(invalid literal .*'0a'\): .*unset"):
        build_host_adam()
    assert "compiling cpu_adam" in caplog.text

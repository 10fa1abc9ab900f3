"""benchmarks/first_gpu.py, as it runs on the first GPU that is there for ten minutes."""

import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PROBES = {"machine", "nccl_bound", "nccl_unbound", "device_parts", "data", "gpu_tests"}
PATHS = {
    "zero0_fp32",
    "zero1_bf16_compiled",
    "zero2_bf16",
    "zero3_bf16_launched",
    "zero3_bf16_compiled",
    "zero3_bf16_offload",
    "native_grids",
}
TIMED = {"profile", "eager", "compiled", "sharded", "end_to_end", "precision"}


@pytest.mark.distributed
@pytest.mark.timeout(600)
def test_every_step_runs_on_a_cpu(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "first_gpu.py"
    command = [sys.executable, str(script), "--dry-run", "--out", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert set(re.findall(r"s\] (\w+): ok in", ended.stdout)) == PROBES | PATHS | TIMED
    with tarfile.open(tmp_path / "logs.tar.gz") as logs:
        names = {Path(name).stem for name in logs.getnames()}
        assert names == PROBES | PATHS | TIMED
        profile = logs.extractfile("profile.log")
        assert profile is not None
        assert b"| debug | 1 | bf16 | none |" in profile.read()
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.log" for name in names} | {
        "logs.tar.gz"
    }


def test_a_step_that_fails_or_takes_too_long_is_said(tmp_path: Path) -> None:
    script = REPOSITORY / "benchmarks" / "first_gpu.py"
    options = ["--dry-run", "--out", str(tmp_path), "--seconds", "13"]
    ended = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=False
    )
    assert ended.returncode > 0
    assert re.search("machine: (ok|out of time) in", ended.stdout)  # on a slow one, the latter
    assert "end_to_end: not run: the time was up" in ended.stdout
    assert (tmp_path / "logs.tar.gz").exists()

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpot_scale.checkpoints.weights import load_model
from dpot_scale.checkpoints.weights_file import save_model
from dpot_scale.config.places import RESULT_FILE, WEIGHTS
from dpot_scale.models.dpot.config import DPOTConfig
from dpot_scale.models.dpot.network import DPOT
from dpot_scale.models.dpot.released import read_released
from dpot_scale.weights import main

RELEASED = Path(__file__).parent / "golden" / "official_format_small.pth"


def test_inspect_accounts_for_every_parameter(capsys):
    assert main(["inspect", str(RELEASED)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["width", "64"] in lines
    assert ["blocks", "25,856", "11.4%"] in lines
    assert ["total", "227,315"] in lines
    assert ["blocks", "24", "float32"] in lines


def test_there_and_back(tmp_path):
    ours, released = tmp_path / "new" / "model.safetensors", tmp_path / "model.pth"
    assert main(["import", str(RELEASED), "--out", str(ours)]) == 0
    assert main(["export", str(ours), "--out", str(released)]) == 0
    first, last = load_model(RELEASED), load_model(released)
    assert load_model(ours).config == first.config == last.config
    torch.testing.assert_close(last.state_dict(), first.state_dict(), rtol=0, atol=0)


def test_a_residual_stays_an_export_of_ours(tmp_path, capsys):
    ours, again, released = (
        tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.pth")
    )
    config = DPOTConfig(size="debug", grid=16, patch=4, target="residual")
    save_model(ours, config, DPOT(config).state_dict())
    assert main(["import", str(ours), "--out", str(again)]) == 0
    assert load_model(again).config.target == "residual"
    assert main(["inspect", str(ours)]) == 0
    assert ["target", "residual"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert main(["export", str(ours), "--out", str(released)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: the released .pth format does not know model.target=residual")
    assert len(errors.splitlines()) == 1
    assert not released.exists()


@pytest.mark.parametrize("option", [{"target": "residual"}, {"skip_frames": 2}, {}])
def test_a_run_is_exported_as_a_released_file_where_that_can_hold_it(tmp_path, capsys, option):
    run, released = tmp_path / "run", tmp_path / "model.pth"
    config = DPOTConfig(size="debug", grid=16, patch=4, **option)
    save_model(run / WEIGHTS, config, DPOT(config).state_dict())
    (run / RESULT_FILE).write_text("{}")
    assert main(["export", str(run), "--out", str(released)]) == (2 if option else 0)
    if option:
        refused = "error: the released .pth format does not know model."
        assert capsys.readouterr().err.startswith(refused)
        assert not released.exists()
    else:
        assert read_released(released)[0].dimensions() == config.dimensions()


@pytest.mark.parametrize("command", ["inspect", "import", "export"])
def test_an_unusable_file_is_one_sentence_and_exit_code_2(tmp_path, capsys, command):
    target = tmp_path / "out"
    out = [] if command == "inspect" else ["--out", str(target)]
    assert main([command, str(tmp_path / "absent.pth"), *out]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ")
    assert len(errors.splitlines()) == 1
    assert not target.exists()


@pytest.mark.parametrize("command", ["import", "export"])
@pytest.mark.parametrize("target", ["taken", "taken/model"])
def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path, capsys, command, target):
    taken = tmp_path / "taken"
    taken.mkdir() if target == "taken" else taken.touch()
    assert main([command, str(RELEASED), "--out", str(tmp_path / target)]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: cannot write {tmp_path / target}: ")
    assert len(errors.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == [taken]


@pytest.mark.parametrize("place", ["/proc/model.pth", "/dev/full/model.pth"])
def test_an_export_to_a_place_of_the_system_quotes_no_library(capsys, place):
    assert main(["export", str(RELEASED), "--out", place]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith(f"error: cannot write {place}: ")
    assert "enforce" not in errors


def test_help_names_the_commands():
    program = [sys.executable, "-m", "dpot_scale.weights", "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert all(command in shown for command in ("inspect", "import", "export"))


def test_the_package_imports_no_torch():
    program = "import sys, dpot_scale; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_what_can_be_exported_is_named(capsys, tmp_path):
    assert main(["export", str(tmp_path / "nowhere")]) == 2
    assert "does not exist; give the folder of a run, a checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["import", "export"])
def test_a_full_disk_is_one_sentence_and_leaves_the_file_of_before(
    command: str, tmp_path: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A safetensors export, which `import` writes, and a released file, which `export` writes."""
    source, out = RELEASED, small_disk / "out.safetensors"
    if command == "export":
        source, out = tmp_path / "ours.safetensors", small_disk / "out.pth"
        assert main(["import", str(RELEASED), "--out", str(source)]) == 0
    out.write_text("of before")
    for free in (2**19, 0):  # bytes: full in the middle, and before the first one
        (small_disk / "rest").write_bytes(bytes(2**20 - 2**13 - free))
        capsys.readouterr()
        assert main([command, str(source), "--out", str(out)]) == 2
        lines = capsys.readouterr().err.splitlines()
        (said,) = (line for line in lines if not line.startswith("at work on"))
        assert said.startswith(f"error: cannot write {out}: ")
        assert said.endswith(f" bytes are free in {small_disk}: make room there and start again")
        assert {path.name for path in small_disk.iterdir()} == {out.name, "rest"}
        assert out.read_text() == "of before"
    (small_disk / "rest").unlink()
    assert main([command, str(source), "--out", str(out)]) == 0
    assert load_model(out).config == load_model(RELEASED).config

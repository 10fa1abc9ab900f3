"""What a run leaves in its folder lets later starts see whether they fit."""

import json
import math
from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.places import CHECKPOINTS, MARKER
from dpot_scale.errors import CheckpointError
from dpot_scale.runs import outcome
from dpot_scale.runs.contents import recorded
from dpot_scale.runs.outcome import header, require_same_layout, write_configs
from dpot_scale.runs.resolved import ResolvedRun, identify, resolve
from dpot_scale.runs.tracked import DEEPSPEED_CONFIG
from dpot_scale.tracking.spool import SPOOL

MINE = {"zero_optimization": {"stage": 3, "sub_group_size": 1000}}
RATES = ["optim.kind=adam", "optim.lr=3e-3", "optim.muon_lr=0.02", "optim.reference_width=null"]


def resolved(output: Path, *overrides: str) -> ResolvedRun:
    run = identify(load_run("quickstart", [f"output={output}", *overrides]))
    return resolve(run, world_size=1, on_gpu=False)


def saved(output: Path, *overrides: str) -> None:
    """Leave what a run does that was stopped at a checkpoint."""
    run = resolved(output, *overrides)
    write_configs(run)
    folder = run.config.directory / CHECKPOINTS / "step_000001"
    folder.mkdir(parents=True)
    marker = {
        "format": 2,
        "step": 1,
        "world_size": 1,
        "identity": run.source.identity,
        "files": {"shards/a": {"bytes": 0, "sha256": "0" * 64}},
    }
    (folder / MARKER).write_text(json.dumps(marker))


REPLACED = {
    "zero_optimization": MINE["zero_optimization"]
    | {"offload_optimizer": {"device": "cpu", "ratio": 0.5}},
    "bf16": {"enabled": True},
}
ADAM = "optim.kind=adam"  # where Muon needs not be


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        ("zero3_bf16", "replaced.json", r"sub_group_size=\d+ and this run has 1000"),
        ("replaced.json", "zero3_bf16_offload", r"sub_group_size=1000 and this run has \d+"),
        ("zero2_bf16", "replaced.json", r"stage=1 and this run has 3"),
    ],
)
def test_a_state_that_only_deepspeed_reaches_goes_on_where_it_lies(
    before: str, now: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("replaced.json").write_text(json.dumps(REPLACED))
    later = resolved(tmp_path, f"engine.deepspeed={now}", ADAM)
    require_same_layout(later)
    saved(tmp_path, f"engine.deepspeed={before}", ADAM)
    sentence = rf"was saved with zero_optimization\.{said}: restore"
    with pytest.raises(CheckpointError, match=sentence):
        require_same_layout(later)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("zero3_fp32", "zero0_fp32"),
        ("zero0_fp32", "zero3_fp32"),
        ("zero1_bf16", "zero2_bf16"),
        ("zero1_bf16", "zero3_bf16"),
        ("zero3_bf16", "zero3_bf16_offload"),
        ("zero3_fp32", "mine.json"),
        ("replaced.json", "replaced.json"),
    ],
)
def test_all_others_go_on_under_any_layout(
    before: str, now: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text(json.dumps(MINE))
    Path("replaced.json").write_text(json.dumps(REPLACED))
    saved(tmp_path, f"engine.deepspeed={before}", ADAM)
    require_same_layout(resolved(tmp_path, f"engine.deepspeed={now}", ADAM))


def test_its_configs_say_what_it_is(tmp_path: Path) -> None:
    run = resolved(tmp_path)
    write_configs(run)
    assert load_run(str(run.config.directory / "config.yaml")) == run.config
    assert json.loads((run.config.directory / DEEPSPEED_CONFIG).read_text()) == run.deepspeed
    assert recorded(run.config.directory) == run.source.contents.record()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "peak learning rate 0.003"),
        (["optim.reference_width=64"], "peak learning rate 0.003 = 0.003 x (64 / 64)^0.25"),
        (
            ["optim.reference_width=64", "model.width=1024"],
            "peak learning rate 0.0015 = 0.003 x (64 / 1024)^0.25",
        ),
        (["optim.kind=muon"], "peak learning rate 0.003, of Muon 0.02"),
        (
            ["optim.kind=muon", "optim.reference_width=64", "model.width=1024"],
            "peak learning rate 0.0015 = 0.003 x (64 / 1024)^0.25, "
            "of Muon 0.01 = 0.02 x (64 / 1024)^0.25",
        ),
    ],
)
def test_the_header_says_at_which_rate_the_model_learns(
    overrides: list[str], said: str, tmp_path: Path
) -> None:
    lines = header(resolved(tmp_path, *RATES, *overrides), "").splitlines()
    assert [line.split(maxsplit=1) for line in lines if line.startswith("rates")] == [
        ["rates", said]
    ]


def test_the_header_says_which_grids_are_stretched(tmp_path: Path) -> None:
    run, said = (
        resolved(tmp_path),
        "stretched to 64 x 64 points, each axis by its own factor: a (8 x 4)",
    )
    assert f"\ngrid    {said}" in header(run, said)
    assert "\ngrid" not in header(run, "")


def test_where_deepspeed_does_not_train_nothing_says_that_it_does(tmp_path: Path) -> None:
    fairscale = ["engine.kind=fairscale", "engine.deepspeed=zero0_fp32", "optim.kind=adam"]
    run = resolved(tmp_path, *fairscale)
    write_configs(run)
    assert not (run.config.directory / DEEPSPEED_CONFIG).exists()


def test_a_result_is_made_where_the_record_is_lost(tmp_path: Path) -> None:
    spool = tmp_path / SPOOL
    assert all(math.isnan(number) for number in outcome._recorded(spool)), "nothing is there"
    spool.write_bytes(b"")
    assert all(math.isnan(number) for number in outcome._recorded(spool))
    losses = ({"step": step, "time": 0, "train/loss": loss} for step, loss in ((1, 0.7), (2, 0.5)))
    spool.write_text("".join(json.dumps(record) + "\n" for record in losses))
    assert outcome._recorded(spool)[0] == 0.5

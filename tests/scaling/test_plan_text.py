"""The plan as text and as JSON. The table of presets: test_plan.py."""

import json
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.scaling.plan import on_device, plan
from dpot_scale.scaling.plan_text import Terms, plan_json, plan_table
from dpot_scale.sweep import main
from dpot_scale.terminal import clock

DESIGN = "design=[{ladder: {a: {width: 32}}}, {cooldown: {trunk: 800, at: [400]}}, {seeds: [0, 1]}]"


def read(*words: str, capsys: pytest.CaptureFixture[str]) -> Any:
    assert main(["plan", "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


def test_json_has_every_trial_with_its_price(capsys: pytest.CaptureFixture[str]) -> None:
    found = read(DESIGN, "--device", "h100", "--devices", "8", "--price", "2.5", capsys=capsys)
    sweep = load_sweep("quickstart", [DESIGN])
    trials = {trial.id: trial for trial in plan(sweep, "h100")}
    assert (found["device"], found["workers"], found["trials_at_a_time"]) == ("h100", 2, 4)
    assert [row["id"] for row in found["trials"]] == list(trials)
    for row in found["trials"]:
        trial = trials[row["id"]]
        assert row["factors"] == dict(trial.factors)
        assert row["flops"] == trial.train_flops
        assert row["device_hours"] == pytest.approx(2 * trial.seconds / 3600)
        assert row["cost"] == pytest.approx(2.5 * row["device_hours"])
        assert 0 < row["host_seconds"] == trial.host_seconds < row["seconds"]
        if trial.after is not None:
            assert row["after"] == {"trial": trial.after.trial, "step": trial.after.step}
            assert trials[trial.after.trial].run.seed == trial.run.seed
    assert found["cost"] == pytest.approx(sum(row["cost"] for row in found["trials"]))
    shared = [row["own_flops"] / row["flops"] for row in found["trials"] if row["after"]]
    assert all(0 < share < 1 for share in shared)
    assert found["flops"] == pytest.approx(sum(row["own_flops"] for row in found["trials"]))
    assert found["critical_path_seconds"] <= found["seconds"]
    assert sum(row["after"] is not None for row in found["trials"]) == 2


def test_a_price_a_network_and_a_host_have_columns_where_there_are_some() -> None:
    sweep = load_sweep("quickstart", [])
    plain = plan_table(sweep, plan(sweep)).splitlines()[2].split()
    assert not {"cost", "network", "host"} & set(plain)
    settings = ["ladder={H: {size: H}}", "run.model.grid=128", "resources.workers=64",
                "run.batch={global_batch: 64, micro_batch: 1}"]  # fmt: skip
    large = load_sweep("quickstart", settings)
    terms = Terms(device="h100", price=2.0)
    text = plan_table(on_device(large, "h100"), plan(large, "h100"), terms)
    assert {"cost", "network", "host"} <= set(text.splitlines()[2].split())
    assert "at 2 each; with 1 at a time it takes" in text
    assert json.loads(plan_json(large, plan(large)))["cost"] is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--device", "tpu"], "invalid choice: 'tpu'"),
        (["--devices", "0"], "'0' is no positive whole number"),
        (["--price", "-1"], "'-1' is no positive number"),
        (["--budget", "20"], "'20' is no time: write 90min, 20h or 3d"),
        (["--pirce", "2"], "there is no option '--pirce' (did you mean '--price'?)"),
    ],
)
def test_a_mistake_is_one_sentence(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["plan", *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert sentence in line


def test_devices_that_hold_no_trial_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["--json"], []):
        assert main(["plan", "--devices", "1", *words]) == 2
        assert capsys.readouterr() == (
            "",
            "error: a trial has 2 workers, and --devices=1 holds fewer; give more, or lower "
            "resources.workers\n",
        )


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["status", "--price", "2"], "error: --price goes with `plan`, not with `status`"),
        (["--json"], "error: --json goes with `plan`, not with `run`"),
        (["plan", "--watch"], "error: --watch goes with `status`, not with `plan`"),
    ],
)
def test_an_option_of_another_command_is_refused(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.splitlines() == [sentence]


def test_cpus_are_not_planned_with_fp16(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "run.engine.deepspeed=zero3_fp16"]
    for kind in (["resources.gpus_per_worker=0"], ["--device", "cpu"]):
        assert main([*words, *kind]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: trial E64: engine.deepspeed=zero3_fp16 computes in fp16")
    for kind in ([], ["--device", "h100"], ["resources.gpus_per_worker=1"]):
        assert main([*words, *kind]) == 0


def test_one_is_not_many(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["resources={workers: 1, gpus_per_worker: 1}", "ladder={a: {width: 32}}"]
    assert main(["plan", *words]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "sweep quickstart-sweep: 1 trial of 1 GPU worker each, zero3_fp32"


def test_times_of_a_column_have_one_unit() -> None:
    assert [clock(s) for s in (0.4, 59.6, 3599.6, 86400 * 4)] == [
        "0:00:00",
        "0:01:00",
        "1:00:00",
        "96:00:00",
    ]


def test_json_says_why_trials_were_chosen(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = f"run.output={tmp_path}"
    assert read(place, capsys=capsys)["choice"] is None
    chosen = read("--budget", "20h", place, capsys=capsys)
    assert chosen["choice"].startswith("there is no law to narrow yet")
    assert len(chosen["trials"]) == 4

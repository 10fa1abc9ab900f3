"""The plan: what each trial is and costs, without any heavy import."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dpot_scale.config.identity import Contents
from dpot_scale.config.load import dump, load_sweep, presets
from dpot_scale.engine.memory import GIB, estimate_memory
from dpot_scale.engine.update import update_flops
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.cost import count_flops, count_parameters
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.runs.contents import record
from dpot_scale.scaling.plan import RAY_WORKER, plan
from dpot_scale.scaling.plan_text import plan_table
from dpot_scale.terminal import duration


def test_a_trial_is_priced_by_its_model_and_windows() -> None:
    sweep = load_sweep("quickstart", ["windows=[1600, 800]"])
    trials = plan(sweep)
    assert len(trials) == 2 * len(sweep.ladder)
    assert [t.model_flops for t in trials] == sorted(t.model_flops for t in trials)
    for trial in trials:
        arch = sweep.ladder[trial.label]
        assert trial.parameters == count_parameters(arch).total
        assert trial.run.model == sweep.ladder[trial.label]
        of_model = trial.run.windows * count_flops(arch, KEEP_ALL).training
        of_muon = trial.run.steps * update_flops(arch, trial.run.optim, trial.run.start)
        assert trial.train_flops == of_model + of_muon
        assert (trial.model_flops, trial.update_flops) == (pytest.approx(of_model), of_muon)
        assert of_muon > 0
        assert trial.run.directory == sweep.directory / "trials" / trial.id
    by_size = {(t.label, t.run.windows): t for t in trials}
    for label in sweep.ladder:
        assert by_size[label, 1600].train_flops == 2 * by_size[label, 800].train_flops


def test_a_worker_of_ray_holds_more_than_a_rank_and_its_gpu_does_not() -> None:
    for gpus in (0, 1):
        sweep = load_sweep("quickstart", [f"resources.gpus_per_worker={gpus}"])
        for trial in plan(sweep):
            rank = estimate_memory(
                trial.run.model,
                trial.run.engine,
                trial.run.optim,
                world_size=sweep.resources.workers,
                micro_batch=trial.run.batch.settled_micro_batch,
                on_gpu=gpus > 0,
            )
            extra = 0 if gpus else RAY_WORKER
            assert trial.worker_gib * GIB == pytest.approx(rank.total + extra)


def test_what_a_gpu_would_change_is_said_until_the_cluster_is_known() -> None:
    """And no id depends on it: results of CPUs are continued on GPUs."""
    plans = {
        gpus: plan(load_sweep("quickstart", [f"resources.gpus_per_worker={gpus}"]))
        for gpus in ("auto", "0", "1")
    }
    assert plans["auto"] == plans["0"]
    assert [t.id for t in plans["1"]] == [t.id for t in plans["0"]]
    words = "memory is that of CPU workers; each gets a GPU where the cluster has enough"
    for gpus, kind in (("auto", "2 workers"), ("0", "2 CPU workers"), ("1", "2 GPU workers")):
        text = plan_table(
            load_sweep("quickstart", [f"resources.gpus_per_worker={gpus}"]), plans[gpus]
        )
        assert f"4 trials of {kind} each" in text
        assert (words in text) == (gpus == "auto")


def test_ids_name_the_content() -> None:
    first = [trial.id for trial in plan(load_sweep("quickstart"))]
    assert len(set(first)) == len(first)
    assert first == [trial.id for trial in plan(load_sweep("quickstart"))]
    # Where results go and what is logged is not content; the seed is.
    elsewhere = load_sweep("quickstart", ["run.output=elsewhere", "run.tracking.log_every=3"])
    assert first == [trial.id for trial in plan(elsewhere)]
    assert not set(first) & {t.id for t in plan(load_sweep("quickstart", ["run.seed=1"]))}


def test_more_workers_mean_less_memory_and_time_each() -> None:
    two = plan(load_sweep("quickstart", ["resources.workers=2", "run.batch.micro_batch=2"]))
    four = plan(load_sweep("quickstart", ["resources.workers=4", "run.batch.micro_batch=2"]))
    for a, b in zip(two, four, strict=True):
        assert b.worker_gib < a.worker_gib
        assert b.seconds < a.seconds
        assert b.id == a.id, "the numbers do not depend on the workers"


def test_a_range_of_workers_is_priced_by_the_most_and_must_fit_on_the_least() -> None:
    settings = ["run.batch={global_batch: 8, micro_batch: 2}", "run.engine.deepspeed=zero3_fp32"]
    one, four, both = (
        plan(load_sweep("quickstart", [*settings, f"resources.workers={workers}"]), "h100")
        for workers in (1, 4, "[1,4]")
    )
    for least, most, trial in zip(one, four, both, strict=True):
        assert least.id == most.id == trial.id
        assert trial.seconds == most.seconds
        assert trial.sending_seconds == most.sending_seconds
        assert trial.worker_gib == least.worker_gib > most.worker_gib
        assert trial.together_gib == max(least.worker_gib, 4 * most.worker_gib)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        (
            "resources.workers=3",
            r"trial E64: batch.global_batch=\d+ is not a multiple of the 3 workers: take 2, or, "
            r"for a new run, batch.global_batch=\d+",
        ),
        (
            "resources.workers=[1,3]",
            r"trial E64: batch.global_batch=\d+ is not a multiple of the 3 workers: take 2, or, ",
        ),
        (
            "windows=[100]",
            r"trial E64: config sweep quickstart-sweep: windows=100 is not a multiple of",
        ),
        ("run.engine.deepspeed=zero3_fp23", "did you mean 'zero3_fp32'"),
        ("ladder.Ti.heads=5", r"ladder.Ti.heads=5: must be a divisor of width=512"),
        ("ladder.E64.heads=5", r"ladder.E64.heads=5: must be a divisor of width=64"),
    ],
)
def test_what_would_stop_a_trial_stops_the_plan(override: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        plan(load_sweep("quickstart", [override]))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", presets("sweep"))
def test_every_sweep_preset_has_a_plan_that_prints(name: str) -> None:
    sweep = load_sweep(name)
    trials = plan(sweep)
    text = plan_table(sweep, trials)
    assert all(trial.id in text for trial in trials)
    assert f"{trials[-1].parameters:,}" in text
    assert max(map(len, text.splitlines())) <= 120


def test_durations_are_for_people() -> None:
    assert [duration(s) for s in (5, 130, 3600 * 3, 86400 * 4)] == [
        "5 s",
        "2.2 min",
        "3.0 h",
        "4.0 d",
    ]


def test_planning_imports_no_accelerator_stack() -> None:
    code = (
        "import sys; from dpot_scale.sweep import main; main(['plan']);"
        "heavy = {'torch', 'deepspeed', 'ray', 'mlflow'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_trial_keeps_the_name_under_which_it_was_begun(tmp_path: Path) -> None:
    """Other versions named the same trial after another hash."""
    sweep = load_sweep("quickstart", [f"run.output={tmp_path}"])
    first, second, *_ = plan(sweep)
    for trial, ending in ((first, "0f1e2d"), (second, "3c4b5a")):
        folder = trial.run.output / f"{trial.id[:-6]}{ending}"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(dump(trial.run) if trial is first else "{")
    again = plan(sweep)
    assert again[0].id == f"{first.id[:-6]}0f1e2d"
    assert again[0].run.directory == first.run.output / again[0].id
    assert again[1].id == second.id, "nobody knows what that folder holds"
    other = plan(load_sweep("quickstart", [f"run.output={tmp_path}", "run.seed=1"]))
    assert other[0].id not in (first.id, again[0].id)
    read = dict.fromkeys(first.contents.datasets, "0123456789ab")
    record(again[0].run.directory, Contents(datasets=read))
    assert plan(sweep)[0].id == first.id, "it was begun with other data"


def test_the_law_preset_takes_shorter_and_longer_lengths_later() -> None:
    """Each is a trial more, and those that there were keep their ids."""
    law = load_sweep("law")
    (before,) = [entry.cooldown for entry in law.factors if entry.cooldown]
    kept = [e.model_dump() for e in law.factors if e.kind != "cooldown"]
    more = {"cooldown": {"trunk": before.trunk, "at": [1024, *before.at]}}
    wider = load_sweep("law", [f"design={json.dumps([*kept, more])}"])
    old, new = ({trial.id for trial in plan(sweep)} for sweep in (law, wider))
    assert old < new
    assert len(new - old) == 14

"""What follows from the config of a run, found without torch."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from dpot_scale.config.load import load_run, presets
from dpot_scale.config.places import resolve_run_paths
from dpot_scale.config.strategy import OFFLOADS
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.family import DPOTFamily
from dpot_scale.runs.resolved import ResolvedRun, identify, require_trainable, resolve


@pytest.mark.parametrize("name", presets("run"))
def test_every_preset_resolves_for_its_workers(name: str, tmp_path: Path) -> None:
    """For as many as fill its batch at once, and for one; on CPUs and on GPUs."""
    run = identify(resolve_run_paths(load_run(name), tmp_path))
    batch = run.config.batch
    full = batch.global_batch // batch.settled_micro_batch
    for world_size in (1, full):
        for on_gpu in (False, True):
            resolved = resolve(run, world_size=world_size, on_gpu=on_gpu)
            assert resolved.accumulation_steps == full // world_size
            assert resolved.config.windows == run.config.steps * batch.global_batch
            assert resolved.deepspeed["train_batch_size"] == batch.global_batch
            assert resolved.train_flops > 0
            assert resolved.memory.total > 0


@pytest.mark.parametrize("offload", OFFLOADS)
def test_a_run_whose_state_lies_on_a_disk_can_be_read_and_not_trained(
    offload: str, tmp_path: Path
) -> None:
    """DeepSpeed reads the gradients of large matrices wrongly there, and no moments at a start."""
    zero = {"stage": 3, offload: {"device": "nvme", "nvme_path": "auto"}}
    strategy = {"name": "mine", "settings": {"zero_optimization": zero, "bf16": {"enabled": True}}}
    saved = load_run("quickstart").model_dump(mode="json", exclude={"optim", "model"})
    saved["engine"] |= {"deepspeed": strategy, "nvme_path": "/nvme"}  # as earlier versions did
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(saved))
    run = identify(load_run(str(tmp_path / "config.yaml"), ["model.size=debug"]))
    resolved = resolve(run, world_size=1, on_gpu=True)
    with pytest.raises(ConfigError, match=r"mine keeps training state on a disk .*; use cpu"):
        require_trainable(resolved)


def test_a_family_without_matrices_is_refused_under_muon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DPOTFamily, "matrices", ())
    run = identify(load_run("quickstart"))
    with pytest.raises(ConfigError, match=r"the family dpot names none: set optim\.kind=adam"):
        resolve(run, world_size=1, on_gpu=False)


def test_a_run_on_several_grids_has_the_flops_of_their_mean_and_the_memory_of_the_largest() -> None:
    def on(grid: str, *overrides: str) -> ResolvedRun:
        run = identify(load_run("quickstart", [f"model.grid={grid}", *overrides]))
        return resolve(run, world_size=1, on_gpu=False)

    suite = load_run("quickstart").data.suite
    assert suite is not None
    coarse, *others = suite.datasets
    datasets = {name: recipe.model_dump() for name, recipe in suite.datasets.items()}
    datasets[coarse]["grid"] = 128
    weights = dict.fromkeys(suite.datasets, 1)
    data = [f"data.suite={{name: own, datasets: {datasets}}}", f"data.weights={weights}"]
    native = on("64", *data, "data.shapes=native")
    fine, usual = on("128", *data), on("64", *data)
    share = 1 / (1 + len(others))
    expected = share * fine.flops.training + (1 - share) * usual.flops.training
    assert native.flops.training == pytest.approx(expected, rel=1e-12)
    assert native.memory.activations == fine.memory.activations > usual.memory.activations
    assert native.parameters == usual.parameters


def test_no_preset_needs_torch_to_resolve() -> None:
    code = (
        "import sys; from dpot_scale.config.load import load_run, presets;"
        "from dpot_scale.runs.resolved import identify, resolve;"
        "[resolve(identify(load_run(name)), world_size=1, on_gpu=True) for name in presets('run')];"
        "heavy = {'torch', 'deepspeed', 'ray', 'mlflow'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_flops_of_a_training_hold_those_of_its_updates() -> None:
    """One number for the plan, for the meter of a run, and for its result."""
    run = identify(load_run("quickstart"))
    batch, steps = run.config.batch.global_batch, run.config.steps
    for stage, share in (("zero0_fp32", 1), ("zero3_fp32", 2)):
        engine = load_run("quickstart", [f"engine.deepspeed={stage}"]).engine
        sharded = replace(run, config=run.config.model_copy(update={"engine": engine}))
        found = resolve(sharded, world_size=2, on_gpu=False)
        assert found.update_flops > 0
        assert (
            found.train_flops == found.flops.training * batch * steps + found.update_flops * steps
        )
        assert found.train_flops_per_window * run.config.windows == pytest.approx(found.train_flops)
        of_model = batch * found.flops.computed / 2
        assert found.step_flops == pytest.approx(of_model + found.update_flops / share)
    adam = resolve(
        identify(load_run("quickstart", ["optim.kind=adam"])), world_size=2, on_gpu=False
    )
    assert adam.train_flops == adam.flops.training * batch * steps

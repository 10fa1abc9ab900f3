"""Configs from presets, files and overrides, laid over each other."""

from pathlib import Path

import pytest
import yaml

from dpot_scale.config.load import (
    PRESETS,
    dump,
    is_of_sweep,
    load_run,
    load_suite,
    load_sweep,
    presets,
    says,
)
from dpot_scale.config.model import FAMILIES, laid_over
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.strategy import read_strategy
from dpot_scale.data.catalog import CATALOG
from dpot_scale.errors import ConfigError
from dpot_scale.scaling.plan import plan


@pytest.mark.parametrize("name", presets("run"))
def test_every_run_preset_loads_and_its_dump_loads_back(name: str, tmp_path: Path) -> None:
    run = load_run(name)
    file = tmp_path / "resolved.yaml"
    file.write_text(dump(run))
    assert load_run(str(file)) == run
    assert run.name == name


@pytest.mark.parametrize("name", presets("sweep"))
def test_every_sweep_preset_loads_and_its_dump_loads_back(name: str, tmp_path: Path) -> None:
    sweep = load_sweep(name)
    file = tmp_path / "resolved.yaml"
    file.write_text(dump(sweep))
    assert load_sweep(str(file)) == sweep


@pytest.mark.parametrize("name", presets("suite"))
def test_every_suite_preset_loads(name: str) -> None:
    assert load_suite(name).datasets


def test_quickstart_mixes_what_its_suite_generates() -> None:
    run = load_run("quickstart")
    assert run.data.suite is not None
    assert set(run.data.weights) == set(run.data.suite.datasets)


@pytest.mark.parametrize("size", ["ti", "s", "m", "l", "h"])
def test_the_paper_presets_repeat_trajectories_for_1000_epochs(size: str) -> None:
    """As many windows as 1000 epochs have, less than a batch; L weighs one dataset less."""
    run = load_run(f"paper_{size}")
    assert run.data.sampling == "repeat"
    visits = sum(CATALOG[name].train * weight for name, weight in run.data.weights.items())
    assert 0 <= 1000 * visits - run.windows < run.batch.global_batch


def test_the_improved_preset_has_the_shares_of_the_paper() -> None:
    paper, improved = load_run("paper_ti").data, load_run("improved").data
    assert improved.weights == {
        name: CATALOG[name].train * weight / 1000 for name, weight in paper.weights.items()
    }


def test_unknown_preset_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'quickstart'"):
        load_run("quikstart")
    with pytest.raises(ConfigError, match="No such file"):
        load_run(str(tmp_path / "none.yaml"))
    twice = tmp_path / "twice.yaml"
    twice.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="'name' appears twice"):
        load_run(str(twice))
    listing = tmp_path / "list.yaml"
    listing.write_text("- 1\n")
    with pytest.raises(ConfigError, match="must hold a mapping"):
        load_run(str(listing))


def test_a_file_that_extends_itself_or_has_no_simple_keys(tmp_path: Path) -> None:
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text(f"extends: {one}\n")
    with pytest.raises(ConfigError, match=r"one\.yaml extends itself"):
        load_run(str(one))
    one.write_text(f"extends: {other}\n")
    other.write_text(f"extends: {one}\n")
    with pytest.raises(ConfigError, match=r"one\.yaml extends itself"):
        load_run(str(one))
    one.write_text("? [a]\n: 1\n")
    with pytest.raises(ConfigError, match=r"is not valid YAML: .* unhashable key"):
        load_run(str(one))


def test_overrides_reach_every_level_and_leave_the_rest() -> None:
    base = load_run("quickstart")
    run = load_run("quickstart", ["model.size=S", "optim.lr=1e-4", "data.weights={a: 2}"])
    assert (run.model.size, run.optim.lr, run.data.weights) == ("S", 1e-4, {"a": 2.0})
    assert run.batch == base.batch


def test_a_trial_that_is_shorter_than_its_warm_up_is_one_sentence(tmp_path: Path) -> None:
    sweep = load_sweep("quickstart", ["run.optim.warmup.windows=64", "windows=[32]"])
    with pytest.raises(ConfigError, match=r"optim\.warmup\.windows=64 is longer than the run"):
        plan(resolve_sweep_paths(sweep, tmp_path))


def test_what_a_file_extends_is_sought_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: quickstart\nseed: 7\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nname: mine\n")
    assert load_run(str(tmp_path / "mine.yaml")).seed == 7
    (tmp_path / "sweep.yaml").write_text("extends: quickstart\nrun: {extends: base.yaml}\n")
    assert load_sweep(str(tmp_path / "sweep.yaml")).run.seed == 7


def test_extends_lays_one_file_over_another(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: quickstart\nname: mine\nmodel: {depth: 3}\n")
    run = load_run(str(file))
    assert (run.name, run.model.depth, run.model.grid) == ("mine", 3, 64)


def test_ladder_entries_are_laid_over_the_shared_model() -> None:
    sweep = load_sweep("quickstart", ["run.model.history=6"])
    assert len(sweep.ladder) >= 4
    assert {model.history for model in sweep.ladder.values()} == {6}


def test_the_files_that_a_run_names_are_inlined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is saved of it needs no other file, on another machine or after these were changed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.json").write_text('{"zero_optimization": {"stage": 1}}')
    (tmp_path / "suite.yaml").write_text(dump(load_suite("quickstart")))
    overrides = ["engine.deepspeed=mine.json", "data.suite=suite.yaml"]
    run = load_run("quickstart", overrides)
    sweep = load_sweep("quickstart", [f"run.{override}" for override in overrides])
    for file, content in (("run.yaml", dump(run)), ("sweep.yaml", dump(sweep))):
        (tmp_path / file).write_text(content)
    (tmp_path / "mine.json").unlink()
    (tmp_path / "suite.yaml").unlink()
    again = load_run("run.yaml")
    assert again == run
    assert load_sweep("sweep.yaml") == sweep
    assert (again.engine.deepspeed.name, again.engine.deepspeed.stage) == ("mine.json", 1)
    assert again.data.suite == load_suite("quickstart")


def test_what_is_inlined_can_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text(dump(load_run("quickstart")))
    overrides = ["engine.deepspeed=zero1_bf16", "data.suite=paper-mini"]
    again = load_run(str(tmp_path / "run.yaml"), overrides)
    assert again.engine.deepspeed == read_strategy("zero1_bf16")
    assert again.data.suite == load_suite("paper-mini")
    (tmp_path / "mine.yaml").write_text("extends: run.yaml\nengine: {deepspeed: zero0_fp32}\n")
    assert load_run(str(tmp_path / "mine.yaml")).engine.deepspeed == read_strategy("zero0_fp32")


def test_paper_presets_follow_the_published_recipe() -> None:
    run = load_run("paper_ti")
    assert (run.batch.global_batch, run.optim.lr, run.objective.noise) == (120, 1e-3, 5e-4)
    assert run.optim.cycle_momentum
    assert not run.optim.decoupled_weight_decay
    assert list(run.data.weights.values()) == [8, 2, 8, 1, 1, 1, 1, 20, 20, 1, 3, 1]
    large = load_run("paper_l")
    assert (large.batch.global_batch, large.objective.noise) == (200, 5e-5)
    assert large.data.weights["swe_pdb"] == 15


@pytest.mark.parametrize(
    ("size", "per_gpu", "noise"),
    [("Ti", 15, 5e-4), ("S", 15, 5e-4), ("M", 20, 5e-4), ("L", 25, 5e-5), ("H", 25, 5e-5)],
)
def test_the_paper_presets_have_no_part_of_our_recipe(
    size: str, per_gpu: int, noise: float
) -> None:
    """Hao et al., section 4 and appendix; every field of the recipe, whatever its default is."""
    run = load_run(f"paper_{size.lower()}")
    own = {"target": "frame", "skip_frames": 0, "normalize": False}
    assert run.model.model_dump(include={"size", *own}) == {"size": size, **own}
    assert run.objective.model_dump() == {
        "noise": noise, "noise_unit": "norm", "unroll": 1, "supervise_padding": True,
    }  # fmt: skip
    # The paper sums the loss over the windows of a GPU, and we average.
    divided = {"weight_decay": 1e-6 / per_gpu, "eps": 1e-8 / per_gpu}
    optim = run.optim.model_dump()
    found = {key: optim.pop(key) for key in divided}
    assert found == pytest.approx(divided, rel=1e-3)
    of_muon = {key for key in optim if key.startswith("muon_")}
    assert {key: value for key, value in optim.items() if key not in of_muon | {"decay"}} == {
        "kind": "adam", "lr": 1e-3, "reference_width": None, "betas": (0.95, 0.9),
        "decoupled_weight_decay": False, "gradient_clipping": 0, "schedule": "one_cycle",
        "warmup": {"share": 0.2}, "initial_lr_ratio": 1e-4, "final_lr_ratio": 1e-8,
        "cycle_momentum": True,
    }  # fmt: skip
    assert (run.data.normalize, run.data.strides, run.data.mask_points) == ("none", (1,), False)
    assert run.batch.model_dump() == {"global_batch": 8 * per_gpu, "micro_batch": per_gpu}


def test_quickstart_has_the_recipe_of_improved() -> None:
    quickstart, improved = load_run("quickstart"), load_run("improved")
    # Its batches are small, and want lower rates.
    rates = {"lr": improved.optim.lr / 2, "muon_lr": improved.optim.muon_lr / 2}
    assert quickstart.optim == improved.optim.model_copy(update=rates)
    assert quickstart.objective == improved.objective
    file = PRESETS / "run" / "improved.yaml"
    own = set(yaml.safe_load(file.read_text())["model"])
    assert own >= {"target", "normalize", "skip_frames"}
    assert quickstart.model.model_dump(include=own) == improved.model.model_dump(include=own)
    assert quickstart.data.normalize == improved.data.normalize


def test_dump_is_plain_yaml() -> None:
    assert yaml.safe_load(dump(load_run("quickstart")))["model"]["grid"] == 64


BOMB = "\n".join(
    ["a0: &a0 [1, 2, 3, 4, 5, 6, 7, 8, 9]"]
    + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
)
MERGE_BOMB = "\n".join(
    ["a0: &a0 {x: 1, y: 2}"]
    + [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]
)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name: " + "[" * 5000 + "]" * 5000, "nested more than 30 levels deep"),
        ("name: " + "[" * 5000, "nested more than 30 levels deep"),
        ("name: " + "[" * 40 + "]" * 40, "nested more than 30 levels deep"),
        ("name: &a [*a]", "nested more than 30 levels deep"),
        ("a: &a {name: *a}", "nested more than 30 levels deep"),
        (BOMB, "its aliases stand for more than 100,000 values"),
        (MERGE_BOMB, "its aliases stand for more than 100,000 values"),
    ],
)
def test_a_file_that_breaks_the_parser_is_one_sentence(
    text: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    for load in (load_run, load_sweep, load_suite):
        with pytest.raises(ConfigError, match=rf"{path} is not valid YAML: .*{reason}"):
            load(str(path))


def test_an_override_that_breaks_the_parser_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="is not valid YAML"):
        load_run("quickstart", ["name=" + "[" * 5000])


def test_aliases_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("extends: quickstart\nname: &n alias\ntracking: {experiment: *n}\n")
    assert load_run(str(path)).tracking.experiment == "alias"


def test_a_config_of_the_other_kind_is_told(tmp_path: Path) -> None:
    of_sweep, of_run = tmp_path / "sweep.yaml", tmp_path / "run.yaml"
    of_sweep.write_text(dump(load_sweep("quickstart")))
    of_run.write_text(dump(load_run("quickstart")))
    with pytest.raises(ConfigError, match=r"of a sweep, as it has 'ladder'; .*scale.sweep`"):
        load_run(str(of_sweep))
    with pytest.raises(ConfigError, match=r"is that of a run, as it has 'batch'; .*scale.train`"):
        load_sweep(str(of_run))


def test_an_unknown_family_is_one_sentence() -> None:
    known = r"must be 'dpot' or 'vit' or 'fno' \(did you mean"
    with pytest.raises(ConfigError, match=rf"model.family=dpt: {known}"):
        load_run("quickstart", ["model.family=dpt"])
    with pytest.raises(ConfigError, match=rf"ladder.Ti.family=dpt: {known}"):
        load_sweep("quickstart", ["ladder.Ti.family=dpt"])


def test_a_family_on_the_command_line_drops_the_size_of_the_one_below(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "end_to_end"))
    monkeypatch.setitem(FAMILIES, "toy", "toy_family")
    overrides = ["model.width=3", "model.family=toy", "model.grid=32"]  # in any order
    model = load_run("quickstart", overrides).model
    assert model.model_dump() == {
        "family": "toy", "space_dims": 2, "grid": 32, "channels": 2, "history": 10, "horizon": 1,
        "target": "residual", "width": 3, "depth": 2,
    }  # fmt: skip
    sweep = load_sweep("quickstart", ["run.model.family=toy", "ladder={a: {width: 4}}"])
    assert sweep.ladder["a"].dimensions() == model.dimensions() | {"grid": 64, "width": 4}
    with pytest.raises(
        ConfigError, match=r"unknown key 'model.widht' \(did you mean 'model.width'\?\)"
    ):
        load_run("quickstart", ["model.family=toy", "model.widht=3"])
    with pytest.raises(ConfigError, match=r"unknown key 'model.size'"):
        load_run("quickstart", ["model.family=toy", "model.size=S"])


def test_what_another_family_has_not_is_dropped_below_it() -> None:
    shared = {"family": "dpot", "grid": 64, "size": "S"}
    assert laid_over(shared, {"family": "other", "depth": 3}) == {
        "family": "other", "grid": 64, "depth": 3,
    }  # fmt: skip
    assert laid_over({"size": "S"}, {"family": "dpot"}) == {"family": "dpot", "size": "S"}


def test_whether_a_command_line_says_a_value() -> None:
    for override in ("tracking.mlflow_uri=null", "tracking={mlflow_uri: x}", "tracking="):
        assert says(["seed=1", override], "tracking.mlflow_uri")
    for override in ("tracking.experiment=a", "name=tracking.mlflow_uri=", "track=1"):
        assert not says([override], "tracking.mlflow_uri")


def test_whether_a_config_is_that_of_a_sweep(tmp_path: Path) -> None:
    assert all(is_of_sweep(name) for name in set(presets("sweep")) - set(presets("run")))
    assert not any(is_of_sweep(name) for name in presets("run"))
    assert is_of_sweep("gpu"), "its sentence offers `gpus`"
    assert not is_of_sweep("papr_l")
    assert not is_of_sweep("nothing_like_any")
    (tmp_path / "run.yaml").write_text("extends: quickstart\nname: a\n")
    (tmp_path / "sweep.yaml").write_text("extends: law\nname: b\n")
    (tmp_path / "more.yaml").write_text("extends: sweep.yaml\nmax_attempts: 1\n")
    (tmp_path / "whole.yaml").write_text("extends: quickstart\nrun: {seed: 1}\n")
    found = {path.stem: is_of_sweep(str(path)) for path in tmp_path.iterdir()}
    assert found == {"run": False, "sweep": True, "more": True, "whole": True}

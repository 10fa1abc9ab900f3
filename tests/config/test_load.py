"""Configs: presets, overrides, and one clear sentence per mistake."""

from pathlib import Path

import pytest
import yaml

from dpot_scale.config.load import dump, load_run, load_suite, load_sweep, presets
from dpot_scale.config.schema import config_hash
from dpot_scale.data.catalog import CATALOG
from dpot_scale.errors import ConfigError


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
    assert set(run.data.weights) == set(load_suite(run.data.suite).datasets)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.sise=S"], "unknown key 'model.sise' (did you mean 'size'?)"),
        (["model.size=Tii"], "model.size='Tii'"),
        (["model.size=Tii"], "did you mean 'Ti'?"),
        (["batch.global_batch=many"], "batch.global_batch='many'"),
        (["optim.lr=-1"], "optim.lr=-1"),
        (["windows=100"], "windows=100 is not a multiple of batch.global_batch=16"),
        (["model"], "is not of the form key.sub=value"),
        (["name.x=1"], "'name' is a value, not a section"),
        (["optim.lr=[1"], "is not valid YAML"),
        (["data.sampling=repeat", "data.weights={a: 1.5}"], "weights.a=1.5 is not a whole number"),
        (["data.strides=[1, 2, 1]"], "strides=[1, 2, 1] names one twice"),
        (["data.strides=[0]"], "data.strides.0=0"),
        (["data.normalize=instance"], "data.normalize='instance'"),
    ],
)
def test_a_mistake_is_one_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run("quickstart", overrides)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


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


def test_a_batch_that_does_not_divide_shows_the_arithmetic() -> None:
    batch = load_run("quickstart").batch
    assert batch.accumulation_steps(world_size=1) == 2
    assert batch.accumulation_steps(world_size=2) == 1
    with pytest.raises(ConfigError, match=r"8 x 3 = 24"):
        batch.accumulation_steps(world_size=3)


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


def test_overrides_reach_every_level_and_leave_the_rest() -> None:
    base = load_run("quickstart")
    run = load_run("quickstart", ["model.size=S", "optim.lr=1e-4", "data.weights={a: 2}"])
    assert (run.model.size, run.optim.lr, run.data.weights) == ("S", 1e-4, {"a": 2.0})
    assert run.batch == base.batch


def test_extends_lays_one_file_over_another(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: quickstart\nname: mine\nmodel: {depth: 3}\n")
    run = load_run(str(file))
    assert (run.name, run.model.depth, run.model.grid) == ("mine", 3, 64)


def test_ladder_entries_are_laid_over_the_shared_model() -> None:
    sweep = load_sweep("quickstart", ["run.model.history=6"])
    assert len(sweep.ladder) >= 4
    assert {model.history for model in sweep.ladder.values()} == {6}
    with pytest.raises(ConfigError, match=r"ladder\.E64: unknown key 'widht'"):
        load_sweep("quickstart", ["ladder.E64.widht=3"])


def test_hash_names_the_content() -> None:
    run = load_run("quickstart")
    assert config_hash(run) == config_hash(load_run("quickstart"))
    assert config_hash(run) != config_hash(load_run("quickstart", ["seed=1"]))


def test_paper_presets_follow_the_published_recipe() -> None:
    run = load_run("paper_ti")
    assert (run.batch.global_batch, run.optim.lr, run.objective.noise) == (120, 1e-3, 5e-4)
    assert run.optim.cycle_momentum
    assert not run.optim.decoupled_weight_decay
    assert list(run.data.weights.values()) == [8, 2, 8, 1, 1, 1, 1, 20, 20, 1, 3, 1]
    large = load_run("paper_l")
    assert (large.batch.global_batch, large.objective.noise) == (200, 5e-5)
    assert large.data.weights["swe_pdb"] == 15


def test_dump_is_plain_yaml() -> None:
    assert yaml.safe_load(dump(load_run("quickstart")))["model"]["grid"] == 64

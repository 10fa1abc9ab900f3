"""Configs: presets, overrides, and one clear sentence per mistake."""

from pathlib import Path

import pytest
import yaml

from dpot_scale.config.load import dump, load_run, load_suite, load_sweep, presets
from dpot_scale.config.places import anchored
from dpot_scale.config.run import Length
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


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.sise=S"], "unknown key 'model.sise' (did you mean 'size'?)"),
        (["model.size=Tii"], "model.size=Tii: must be 'debug', 'Ti', 'S', 'M', 'L' or 'H' "),
        (["model.size=Tii"], "did you mean 'Ti'?"),
        (["lr=3e-4"], "unknown key 'lr' (did you mean 'optim.lr'?)"),
        (["batch.global_batch=many"], "batch.global_batch=many: must be a whole number"),
        (["batch.micro_batch=2.5"], "batch.micro_batch=2.5: must be a whole number or 'auto'"),
        (["optim.lr=-1"], "optim.lr=-1: must be more than 0"),
        (["optim.lr=true"], "optim.lr=true: must be a number"),
        (["windows=yes"], "windows=yes: must be a number"),
        (["optim.lr=.inf"], "optim.lr=.inf: must be a finite number"),
        (["data.weights={a: .nan}"], "data.weights.a=.nan: must be a finite number"),
        (["optim.lr="], "'optim.lr' has no value; it must be a number"),
        (["optim.warmup=3"], "optim.warmup=3: must be a section, as {key: value}"),
        (["optim.warmup.share=2"], "optim.warmup.share=2: must be at most 1"),
        (
            ["optim.decay={windows: 4, share: 0.1}"],
            "optim.decay: give either {windows: NUMBER} or {share: FRACTION}",
        ),
        (
            ["windows=64", "optim.warmup.windows=65"],
            "optim.warmup.windows=65 is longer than the run, windows=64; give fewer, or a share of",
        ),
        (["optim=3"], "optim=3: must be a section, as {key: value}"),
        (["optim.lr=3,0"], "optim.lr=3,0: must be a number"),
        (["seed=99999999999999999999"], "seed=99999999999999999999: must be less than 2147483648"),
        (["name=off"], "name=off: must be text, in quotes where YAML reads something else"),
        (["name=.."], "name=..: must be only letters"),
        (["name=-x"], "name=-x: must be only letters"),
        (["name=2020-99-99"], "the value of override 'name=2020-99-99' is not valid YAML"),
        (["data.weights={a: 1, a: 2}"], "is not valid YAML"),
        (["windows=100"], "windows=100 is not a multiple of batch.global_batch=16"),
        (["model"], "is not of the form key.sub=value"),
        (["name.x=1"], "'name' is a value, not a section"),
        (["optim.lr=[1"], "is not valid YAML"),
        (["data.sampling=repeat", "data.weights={a: 1.5}"], "weights.a=1.5 is not a whole number"),
        (["data.strides=[1, 2, 1]"], "strides=[1, 2, 1] names one twice"),
        (["data.strides=[0]"], "data.strides.0=0: must be at least 1"),
        (["data.strides=[]"], "data.strides=[]: must be at least 1 entry long"),
        (["data.strides=2"], "data.strides=2: must be a list"),
        (["data.normalize=instance"], "data.normalize=instance: must be 'none' or 'dataset'"),
        (["lr=1", "optim.lr=no", "model.depth=x"], "(and 2 more)"),
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


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("run=3", "run=3: must be a section"),
        ("run.model=3", "run.model=3: must be a section"),
        ("ladder=[a]", "ladder=[a]: must be a section"),
        ("ladder={a: Ti}", "ladder.a='Ti': must be a section"),
        ("ladder={}", "ladder={}: must be at least 1 entry long"),
        ("ladder={../a: {size: Ti}}", "the key '../a' of 'ladder' must be only letters"),
        ("ladder={1: {size: Ti}}", "the key 1 of 'ladder' must be text"),
        ("windows=16", "windows=16: must be a list"),
        ("windows=[16, 16]", "windows=[16, 16] names one twice"),
        ("model.size=S", "unknown key 'model' (did you mean 'run.model'?)"),
        ("run.model.sise=S", "unknown key 'run.model.sise' (did you mean 'size'?)"),
        ("ladder.E64.widht=3", "unknown key 'ladder.E64.widht' (did you mean 'width'?)"),
    ],
)
def test_a_mistake_in_a_sweep_is_one_sentence(override: str, sentence: str, tmp_path: Path) -> None:
    """As an override and as a line of a file."""
    with pytest.raises(ConfigError) as caught:
        load_sweep("quickstart", [override])
    assert sentence in str(caught.value)
    key, _, value = override.partition("=")
    if "." not in key:
        file = tmp_path / "sweep.yaml"
        file.write_text(f"extends: quickstart\n{key}: {value}\n")
        with pytest.raises(ConfigError, match=r"^config "):
            load_sweep(str(file))


def test_overrides_reach_every_level_and_leave_the_rest() -> None:
    base = load_run("quickstart")
    run = load_run("quickstart", ["model.size=S", "optim.lr=1e-4", "data.weights={a: 2}"])
    assert (run.model.size, run.optim.lr, run.data.weights) == ("S", 1e-4, {"a": 2.0})
    assert run.batch == base.batch


@pytest.mark.parametrize("preset", ["quickstart", "paper_ti"])  # the latter names its warm-up
@pytest.mark.parametrize(
    ("override", "warmup"),
    [
        ("optim.warmup.windows=64", Length(windows=64)),
        ("optim.warmup.share=0.3", Length(share=0.3)),
        ("optim.warmup={windows: 64}", Length(windows=64)),
        ("optim.warmup_fraction=0.1", Length(share=0.1)),
    ],
)
def test_a_length_replaces_the_one_below_it(preset: str, override: str, warmup: Length) -> None:
    assert load_run(preset, [override]).optim.warmup == warmup


def test_shares_are_read_as_older_configs_spell_them(tmp_path: Path) -> None:
    older, newer = tmp_path / "older.yaml", tmp_path / "newer.yaml"
    older.write_text("extends: quickstart\noptim: {warmup_fraction: 0.1, decay_fraction: 0.3}\n")
    newer.write_text(f"extends: {older}\noptim: {{warmup: {{windows: 64}}}}\n")
    optim = load_run(str(older)).optim
    assert (optim.warmup, optim.decay) == (Length(share=0.1), Length(share=0.3))
    optim = load_run(str(newer)).optim
    assert (optim.warmup, optim.decay) == (Length(windows=64), Length(share=0.3))


def test_a_trial_that_is_shorter_than_its_warm_up_is_one_sentence(tmp_path: Path) -> None:
    sweep = load_sweep("quickstart", ["run.optim.warmup.windows=64", "windows=[32]"])
    with pytest.raises(ConfigError, match=r"optim\.warmup\.windows=64 is longer than the run"):
        plan(anchored(sweep, tmp_path))


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


@pytest.mark.parametrize(
    ("deepspeed", "sentence"),
    [
        ("{name: mine, settings: {zero_optimisation: {}}}", "mine: DeepSpeed has no key"),
        ("{name: mine}", "'engine.deepspeed.settings' is missing"),
        ("3", "engine.deepspeed=3: must be a section"),
    ],
)
def test_a_mistake_in_an_inlined_strategy_is_one_sentence(deepspeed: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_run("quickstart", [f"engine.deepspeed={deepspeed}"])
    assert sentence in str(caught.value)


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


@pytest.mark.parametrize(
    "uri",
    [
        "http://user:s3cret@host:5000",
        "HTTPS://s3cret@host",
        "http://user:s3c#ret@host",
        "https://host/prefix?token=s3cret",
        "postgresql://user:s3cret@host/mlflow",
        "mysql+pymysql://user:s3/cret@host/mlflow",
        "postgresql://host/mlflow?user=me&password=s3cret",
        "mssql+pyodbc:///?odbc_connect=UID%3Dme%3BPWD%3Ds3cret",
    ],
)
def test_a_secret_in_the_address_of_mlflow_is_refused_and_not_repeated(uri: str) -> None:
    for load, key in ((load_run, "tracking"), (load_sweep, "run.tracking")):
        with pytest.raises(ConfigError) as refused:
            load("quickstart", [f"{key}.mlflow_uri={uri}"])
        said = str(refused.value)
        assert "mlflow_uri may" in said
        assert "MLFLOW_TRACKING_PASSWORD" in said or "mlflow server --backend-store-uri" in said
        assert not any(part in said for part in ("s3c", "cret"))


@pytest.mark.parametrize(
    "uri",
    [
        "http://host:5000",
        "https://host/prefix",
        "sqlite:////home/me@work/pass:word/mlflow.db",
        "postgresql://user@host:5432/mlflow",
        "databricks://profile",
    ],
)
def test_an_address_of_mlflow_without_a_secret_is_taken(uri: str) -> None:
    assert load_run("quickstart", [f"tracking.mlflow_uri={uri}"]).tracking.mlflow_uri == uri


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

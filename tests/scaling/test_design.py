"""What each entry of a design makes of a run, and that a mistake names its point."""

import json
import time
from itertools import product
from pathlib import Path

import pytest
import yaml

from dpot_scale.config.load import dump, load_sweep
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.dpot.cost import count_flops
from dpot_scale.models.family import KEEP_ALL
from dpot_scale.scaling.design import points_of
from dpot_scale.scaling.plan import plan
from dpot_scale.scaling.sizes import TOLERANCE, Measure, measured
from dpot_scale.training.schedule import Schedule

LADDER = "ladder: {a: {width: 32}, b: {width: 64}}"


def designed(*entries: str, rules: str = "{}", overrides: tuple[str, ...] = ()) -> SweepConfig:
    """The quickstart sweep with a design of its own, of `run.model` alone if it has no ladder."""
    design = [yaml.safe_load(entry) for entry in entries]
    settings = [f"design={json.dumps(design)}", f"rules={rules}", *overrides]
    if not any("ladder" in entry for entry in design):
        settings.append("ladder=null")
    return load_sweep("quickstart", settings)


def test_entries_multiply() -> None:
    sweep = designed(
        LADDER, "grid: {run.optim.lr: [1e-3, 3e-3]}", "windows: [800, 1600]", "seeds: [0, 1]"
    )
    points = points_of(sweep)
    assert {
        (p.run.model.own_width(), p.run.optim.lr, p.run.windows, p.run.seed) for p in points
    } == set(product((32, 64), (1e-3, 3e-3), (800, 1600), (0, 1)))
    assert len(points) == 16
    assert points[0].factors == {"size": "a", "optim.lr": 1e-3, "windows": 800, "seed": 0}
    assert {point.label for point in points} >= {"a-lr0.001-s0", "b-lr0.003-s1"}
    assert len({trial.id for trial in plan(sweep)}) == 16


def test_a_design_without_a_ladder_or_a_length_has_those_of_the_run() -> None:
    (point,) = points_of(load_sweep("quickstart", ["ladder=null", "windows=null", ONE_SEED]))
    sweep = load_sweep("quickstart")
    assert point.run.model == sweep.run.model
    assert point.run.windows == sweep.run.windows
    assert point.label == "s7"


ONE_SEED = "design=[{seeds: [7]}]"


def test_a_design_is_laid_over_a_ladder_and_windows_below(tmp_path: Path) -> None:
    """What it does not name stays: seeds are added to the ladder of the preset."""
    file = tmp_path / "more.yaml"
    file.write_text("extends: quickstart\nname: more\ndesign: [{seeds: [0, 1]}]")
    assert [entry.kind for entry in load_sweep(str(file)).factors] == ["ladder", "seeds", "windows"]
    file.write_text(f"extends: quickstart\nname: more\ndesign: [{{{LADDER}}}, {{windows: [80]}}]")
    assert {(p.label, p.run.windows) for p in points_of(load_sweep(str(file)))} == {
        ("a", 80),
        ("b", 80),
    }
    longer = load_sweep(str(file), ["windows=[160]"])
    assert {point.run.windows for point in points_of(longer)} == {160}


def test_a_saved_sweep_has_the_same_trials(tmp_path: Path) -> None:
    sweep = designed(
        LADDER,
        "ablation: {quiet: {run.objective.noise: 0}}",
        "isoflop: {budgets: [1e+11]}",
        rules="{weight_decay: {power: 1, of: width, at: 64, value: 0.1}}",
    )
    (tmp_path / "sweep.yaml").write_text(dump(sweep))
    again = load_sweep(str(tmp_path / "sweep.yaml"))
    assert again == sweep
    assert plan(again) == plan(sweep)


def test_the_old_spelling_gives_the_same_ids() -> None:
    old = load_sweep("quickstart", ["windows=[800]"])
    models = {label: model.model_dump() for label, model in old.ladder.items()}  # type: ignore[union-attr]
    new = designed(f"ladder: {json.dumps(models)}", "windows: [800]")
    assert [trial.id for trial in plan(new)] == [trial.id for trial in plan(old)]


def test_an_ablation_changes_one_thing_at_a_time() -> None:
    sweep = designed(
        "ablation: {quiet: {run.objective.noise: 0}, adam: {run.optim.kind: adam, run.seed: 3}}"
    )
    base, quiet, adam = points_of(sweep)
    assert [p.label for p in (base, quiet, adam)] == ["base", "quiet", "adam"]
    assert base.run.objective == sweep.run.objective
    assert quiet.run == base.run.model_copy(update={"objective": quiet.run.objective})
    assert quiet.run.objective.noise == 0
    assert (adam.run.optim.kind, adam.run.seed) == ("adam", 3)


def test_equal_flops_give_each_model_its_length() -> None:
    sweep = designed(LADDER, "isoflop: {budgets: [1e+11, 4e+11]}")
    for point in points_of(sweep):
        spent = point.run.windows * count_flops(point.run.model, KEEP_ALL).training  # type: ignore[arg-type]
        batch = point.run.batch.global_batch / point.run.windows
        assert spent == pytest.approx(point.factors["flops"], rel=batch)
    with pytest.raises(ConfigError, match=r"trial a: isoflop: 1000 FLOPs are less than one batch"):
        points_of(designed(LADDER, "isoflop: {budgets: [1000]}"))


def test_a_branch_trains_as_its_trunk_until_it_decays() -> None:
    sweep = designed(LADDER, "cooldown: {trunk: 3200, at: [800, 1600, 3200]}")
    points = points_of(sweep)
    assert [(p.label, p.run.windows) for p in points] == list(
        product(("a", "b"), (800, 1600, 3200))
    )
    trials = {trial.id: trial for trial in plan(sweep)}
    branches = [trial for trial in trials.values() if trial.after]
    assert len(branches) == 4
    for branch in branches:
        assert branch.after is not None
        trunk = trials[branch.after.trial]
        step = branch.after.step
        assert trunk.run.windows == 3200
        assert trunk.run.model == branch.run.model
        assert step in trunk.run.checkpoint.keep_at
        assert trunk.run.checkpoint.is_milestone(step)
        ours, theirs = Schedule.of(branch.run), Schedule.of(trunk.run)
        shared = [ours.at(number) == theirs.at(number) for number in range(branch.run.steps)]
        assert shared == [True] * (step + 1) + [False] * (branch.run.steps - step - 1)
        # Only what it does not share is paid for.
        assert branch.seconds < trunk.seconds


@pytest.mark.parametrize(
    ("entries", "rules", "overrides", "sentence"),
    [
        (
            [LADDER, "grid: {run.optim.lr: [1e-3, -1]}"],
            "{}",
            (),
            "trial a-lr-1: config sweep quickstart-sweep: optim.lr=-1: must be more than 0",
        ),
        (["grid: {run.optim.rate: [1]}"], "{}", (), "unknown key 'optim.rate'"),
        (["grid: {optim.lr: [1]}"], "{}", (), "'optim.lr' is no field of the run"),
        (["grid: {}"], "{}", (), "grid={}: must be at least 1 entry long"),
        (["grid: {run.name: [a, b]}"], "{}", (), "run.name cannot differ"),
        (
            ["grid: {run.batch.global_batch: [8, 12]}"],
            "{}",
            (),
            "trial global_batch12: .* is not a mult",
        ),
        (["families: {of: [dpot, vitt]}"], "{}", (), "there is no family 'vitt'"),
        (
            ["cooldown: {trunk: 800, at: [80]}"],
            "{}",
            ("run.optim.warmup.windows=400",),
            "is longer than the run",
        ),
        (
            ["cooldown: {trunk: 800, at: [400]}"],
            "{lr: {power: {of: windows, at: 8, value: 1e-3, power: -0.1}}}",
            (),
            "let it follow width or parameters",
        ),
        (["ablation: {same: {run.seed: 0}}"], "{}", (), "the trials base .* and same .* are the"),
    ],
)
def test_a_mistake_names_its_point(
    entries: list[str], rules: str, overrides: tuple[str, ...], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        plan(designed(*entries, rules=rules, overrides=overrides))
    assert "\n" not in str(caught.value)


def test_hundreds_of_trials_are_planned_at_once() -> None:
    sweep = designed(
        "ladder: {parameters: [2e5, ..., 1e7]}",
        "grid: {run.optim.lr: [1e-3, 3e-3, 5e-3], run.optim.kind: [adam, muon]}",
        "seeds: [0, 1, 2, 3]",
        "windows: [800, 1600, 3200]",
    )
    started = time.process_time()
    trials = plan(sweep)
    assert len(trials) == 504
    assert time.process_time() - started < 2


@pytest.mark.parametrize("match", ["flops", "parameters"])
def test_families_are_matched(match: Measure) -> None:
    ladder = "ladder: {a: {width: 96}, b: {width: 192}}"
    sweep = designed(ladder, f"families: {{of: [dpot, vit, fno], match: {match}}}")
    points = points_of(sweep)
    assert [point.label for point in points] == [
        f"{size}-{family}" for size in ("a", "b") for family in ("dpot", "vit", "fno")
    ]
    for number in (0, 3):
        reference, *others = (point.run.model for point in points[number : number + 3])
        assert reference.own_width() == (96, 192)[number // 3]
        for model in others:
            assert model.grid == reference.grid
            wanted = measured(reference, match)
            assert measured(model, match) == pytest.approx(wanted, rel=TOLERANCE)


def test_less_data_repeat_more_often() -> None:
    points = points_of(designed("data: {trajectories: [4, 16]}"))
    assert [point.run.data.trajectories for point in points] == [4, 16]
    assert [point.factors["trajectories"] for point in points] == [4, 16]
    assert len({point.run.windows for point in points}) == 1


def test_many_factors_still_name_a_folder() -> None:
    many = {
        f"f{number}": {"run.seed": number, "run.objective.noise": 0.1} for number in range(1, 3)
    }
    entries = [f"ablation: {json.dumps({f'{key}{40 * chr(120)}': v for key, v in many.items()})}"]
    entries += [f"grid: {{run.optim.{name}: [0.5, 0.25]}}" for name in LONG_NAMES]
    trials = plan(designed(*entries))
    assert len({trial.id for trial in trials}) == 3 * 2 ** len(LONG_NAMES)
    assert max(len(trial.id) for trial in trials) < 200


LONG_NAMES = (
    "initial_lr_ratio",
    "final_lr_ratio",
    "muon_momentum",
    "gradient_clipping",
    "weight_decay",
)


def test_a_start_is_one_of_several(tmp_path: Path) -> None:
    (tmp_path / "big").mkdir()
    sweep = designed(f"start: {{scratch: null, big: {tmp_path / 'big'}}}")
    scratch, big = points_of(sweep)
    assert scratch.run.start.source is None
    assert big.run.start.source == tmp_path / "big"
    assert len({trial.id for trial in plan(sweep)}) == 2


@pytest.mark.parametrize(
    "design",
    [
        "[{start: {given: weights.pth, scratch: null}}, {windows: [800]}]",
        "[{grid: {run.start.source: [weights.pth]}}, {windows: [800]}]",
        "[{ablation: {given: {run.start.source: weights.pth}}}, {windows: [800]}]",
    ],
)
def test_weights_that_a_design_names_are_sought_from_here(
    design: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray's workers have a working directory of their own."""
    monkeypatch.chdir(tmp_path)
    sweep = load_sweep("quickstart", ["ladder=null", "windows=null", f"design={design}"])
    sources = {point.run.start.source for point in points_of(sweep)}
    assert tmp_path / "weights.pth" in sources
    assert sources <= {tmp_path / "weights.pth", None}

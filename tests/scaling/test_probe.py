"""Rates that a probe finds: the fit to its trials, and a sweep that waits for it."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import exp, log
from pathlib import Path

import pytest

from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.errors import ConfigError, RecordError
from dpot_scale.scaling import launcher
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.driver import run_sweep
from dpot_scale.scaling.endings import AttemptFailedError
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.makespan import makespan
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.probe import best_rate, fit_rates
from dpot_scale.scaling.rates import RATES, read_rates
from dpot_scale.sweep import main
from tests.results import finish

# The best rate of a model of width W, and how fast its error rises beside it.
BEST, POWER, RISE = 2e-3, -0.3, 0.2
PROBE = "{windows: 320, rates: [5e-4, 1e-3, 2e-3, 4e-3, 8e-3], ladder: {a: {width: 32}, b: {width: 64}, c: {width: 128}}}"  # noqa: E501
NO_SERVICES = ["run.tracking.mlflow_uri=null", "run.data.suite=null", "max_attempts=1"]


@pytest.fixture(autouse=True)
def no_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command find the data that `probed` finds: none."""
    monkeypatch.chdir(tmp_path)


def settings(folder: Path, probe: str = PROBE, *more: str) -> list[str]:
    rules, ladder = f"rules={{lr: {{probe: {probe}}}}}", "ladder={A: {width: 64}, B: {width: 256}}"
    return [*NO_SERVICES, f"run.output={folder}", rules, ladder, "windows=[800]", *more]


def probed(folder: Path, probe: str = PROBE, *more: str) -> SweepConfig:
    return resolve_sweep_paths(load_sweep("quickstart", settings(folder, probe, *more)), folder)


def error_of(trial: Trial) -> float:
    width = trial.run.model.own_width()
    assert width is not None
    return 0.1 * exp(RISE * log(trial.run.settled_optim.lr / (BEST * (width / 64) ** POWER)) ** 2)


class Workers:
    """A cluster in this process, on which a trial is what `train` makes of it."""

    def __init__(self, train: Callable[[Trial], bool]) -> None:
        self.cluster = Cluster(resources=ResourcesConfig(gpus_per_worker=0), trials=2)
        self.begun: list[str] = []
        self._train = train

    def wait_for_room(self, sizes: Sequence[int], *_: object) -> int:
        return sizes[0]

    def free_workers(self) -> int:
        return 0

    def train(self, trial: Trial, *_: int) -> bool:
        self.begun.append(trial.id)
        return self._train(trial)

    def abandon(self) -> None:
        pass


@pytest.fixture
def submit(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Workers]:
    """Run a sweep as its command does, on workers that train nothing."""

    def submit(
        sweep: SweepConfig, train: Callable[[Trial], bool] = lambda t: finish(t, error_of(t))
    ) -> Workers:
        workers = Workers(train)
        monkeypatch.setattr(launcher, "ray_launcher", lambda _: nullcontext(workers))
        run_sweep(sweep, plan(sweep), print, preset="a preset")
        return workers

    return submit


def test_the_vertex_of_a_parabola_is_the_best_rate() -> None:
    for best in (1.1e-3, 2e-3, 2.7e-3):
        errors = {rate: exp(log(rate / best) ** 2) for rate in (5e-4, 1e-3, 2e-3, 4e-3, 8e-3)}
        assert best_rate("a", errors) == pytest.approx(best)
    # A rate at which it diverged, far from the best, bends no parabola.
    errors = {rate: exp(log(rate / 2e-3) ** 2) for rate in (5e-4, 1e-3, 2e-3, 4e-3)}
    assert best_rate("a", errors | {3.2e-2: 1e9}) == pytest.approx(2e-3)


@pytest.mark.parametrize(
    ("errors", "sentence"),
    [
        ({1e-3: 0.1, 2e-3: 0.2, 4e-3: 0.3}, "the least rate that finished, 0.001, is the best"),
        ({1e-3: 0.3, 2e-3: 0.2, 4e-3: 0.1}, "the greatest rate that finished, 0.004, is the best"),
        ({1e-3: 0.3}, "add lower `rates`: the trials that there are stay"),
        ({1e-3: 0.101, 2e-3: 0.1, 4e-3: 0.101}, "differs by less than 2% from rate 0.001 to 0.004"),
        ({}, "no trial has finished"),
    ],
)
def test_no_best_rate_is_said_with_its_reason(errors: dict[float, float], sentence: str) -> None:
    with pytest.raises(ConfigError, match=f"^rules.lr.probe: of the model small .*{sentence}"):
        best_rate("small", errors)


@pytest.mark.parametrize("of", ["width", "parameters"])
def test_the_law_of_the_best_rates_is_found(of: str, tmp_path: Path) -> None:
    sweep = probed(tmp_path, PROBE.replace("windows", f"of: {of}, windows"))
    probe = [trial for trial in plan(sweep) if trial.role == "probe"]
    assert len(probe) == 15
    for trial in probe:
        finish(trial, error_of(trial))
    rates = fit_rates(sweep, probe)
    if of == "width":
        assert rates.power == pytest.approx(POWER, abs=1e-3)
    for trial in probe:
        width = trial.run.model.own_width()
        assert width is not None
        expected = pytest.approx(BEST * (width / 64) ** POWER, rel=2e-3 if of == "width" else 0.05)
        assert rates.rate(trial.run.model) == expected


def test_best_rates_that_follow_no_power_are_refused(tmp_path: Path) -> None:
    sweep = probed(tmp_path)
    best = {"a": 1e-3, "b": 4e-3, "c": 1e-3}
    probe = [trial for trial in plan(sweep) if trial.role == "probe"]
    for trial in probe:
        finish(trial, exp(log(trial.run.optim.lr / best[str(trial.factors["size"])]) ** 2))
    with pytest.raises(ConfigError, match=r"best rates follow no power of width: .*64: 0\.004"):
        fit_rates(sweep, probe)


def test_a_sweep_waits_for_its_probe_and_takes_its_rates(
    tmp_path: Path, submit: Callable[..., Workers], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = probed(tmp_path)
    before = plan(sweep)
    roles = [trial.role for trial in before]
    assert roles == 15 * ["probe"] + 2 * ["unprobed"]
    assert [t.id for t in before[15:]] == ["A_w800_??????", "B_w800_??????"]
    assert makespan(before, 2) == makespan(before[:15], 2) + makespan(before[15:], 2)
    assert main(["plan", *settings(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "optim.lr is probed first, by 15 trials for " in shown
    given = sweep.run.optim
    for trial in before[:15]:
        assert trial.run.optim.reference_width is None
        assert trial.run.optim.lr == trial.factors["optim.lr"]
        ratio = trial.run.optim.muon_lr / trial.run.optim.lr
        assert ratio == pytest.approx(given.muon_lr / given.lr, rel=1e-3)

    first = submit(sweep)
    assert sorted(first.begun[:15]) == sorted(trial.id for trial in before[:15])
    after = plan(sweep)
    assert sorted(first.begun[15:]) == sorted(trial.id for trial in after[15:])
    assert [trial.id for trial in after[:15]] == [trial.id for trial in before[:15]]
    for trial in after[15:]:
        width = trial.run.model.own_width()
        assert width is not None
        assert trial.role == "point"
        assert "?" not in trial.id
        rate = BEST * (width / 64) ** POWER
        assert trial.run.settled_optim.lr == pytest.approx(rate, rel=2e-3)
        assert trial.run.optim.lr == trial.run.settled_optim.lr
    assert main(["plan", *settings(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "^-0.3, Muon's in the ratio of the run: probed 20" in shown
    report = (sweep.directory / "report.md").read_text()
    assert "2 of 2 trials finished" in report
    assert "^-0.3, Muon's in the ratio of the run: probed 20" in report
    assert "probe-" not in report

    (sweep.directory / "report.md").unlink()
    kept = (sweep.directory / RATES).read_bytes()
    assert submit(sweep).begun == []
    assert (sweep.directory / RATES).read_bytes() == kept


def test_rates_are_found_once(tmp_path: Path, submit: Callable[..., Workers]) -> None:
    """More seeds get the same, whatever became of the trials of the probe."""
    submit(probed(tmp_path))
    wider = probed(tmp_path, PROBE, "design=[{seeds: [0, 1]}]")
    probe = [trial for trial in plan(wider) if trial.role == "probe"]
    finish(probe[0], 1e-9)
    (probe[1].run.directory / "result.json").unlink()
    begun = submit(wider).begun
    assert len(begun) == 4
    rates = {(t.label[0], t.run.optim.lr) for t in plan(wider) if t.role == "point"}
    assert len(rates) == 2


def test_a_probe_at_its_edge_is_widened_and_keeps_its_trials(
    tmp_path: Path, submit: Callable[..., Workers]
) -> None:
    low = PROBE.replace(", 4e-3, 8e-3", "")
    with pytest.raises(ConfigError, match=r"greatest rate that finished, 0\.002, is the best"):
        submit(probed(tmp_path, low))
    assert len([t for t in plan(probed(tmp_path, low)) if t.role == "unprobed"]) == 2
    assert len(submit(probed(tmp_path)).begun) == 6 + 2
    # Rates that were of no use may go, too: the laws have no point of them.
    narrow = PROBE.replace("5e-4, ", "")
    other = tmp_path / "other"
    with pytest.raises(ConfigError, match="is the best"):
        submit(probed(other, low))
    assert main(["status", *settings(other, narrow)]) == 0
    assert len(submit(probed(other, narrow)).begun) == 6 + 2


def test_a_rate_that_diverges_is_left_out(tmp_path: Path, submit: Callable[..., Workers]) -> None:
    def train(trial: Trial) -> bool:
        if trial.run.optim.lr > 5e-3:
            raise AttemptFailedError("it diverged", is_final=True)
        return finish(trial, error_of(trial))

    sweep = probed(tmp_path)
    begun = submit(sweep, train).begun
    rates = read_rates(sweep.directory)
    assert rates is not None
    assert rates.power == pytest.approx(POWER, abs=1e-3)
    assert len(begun) == 17
    assert submit(sweep, train).begun == [], "what failed is not tried again"
    failed = [e.trial for e in Journal(sweep.directory).entries() if e.event == "failed"]
    assert len(failed) == 3


def test_commands_say_what_waits_for_the_probe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = settings(tmp_path)
    sweep = probed(tmp_path)
    sweep.directory.mkdir()
    probe = plan(sweep)[0]
    Journal(sweep.directory).record(probe.id, "started", attempt=1)
    assert main(["status", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("after the probe, which finds its rate")
    assert main(["cancel", "A_w800_??????", *words]) == 2
    assert "has no id before its rate is probed" in capsys.readouterr().err
    assert main(["plan", "--budget", "20h", *words]) == 2
    assert "are not probed yet: run the trials of its probe first" in capsys.readouterr().err
    (sweep.directory / RATES).write_text("{}")
    with pytest.raises(RecordError, match=f"{RATES} does not hold the rates of a probe; remove it"):
        plan(sweep)


@pytest.mark.parametrize(
    ("probe", "more", "sentence"),
    [
        (PROBE.replace("b: {width: 64}, c: {width: 128}", ""), [], "two models at least say how"),
        (
            PROBE.replace("[5e-4, 1e-3, 2e-3, 4e-3, 8e-3]", "[1e-3, 2e-3]"),
            [],
            "rates=[1e-3, 2e-3]: must be at least 3",
        ),
        (
            PROBE.replace("320", "321"),
            [],
            "rules.lr.probe: trial a-lr0.0005: config sweep quickstart",
        ),
        (PROBE, ["design=[{grid: {run.optim.muon_lr: [0.1]}}]"], "a rule sets run.optim.muon_lr"),
        (
            PROBE.replace("width: 32", "widht: 32"),
            [],
            "did you mean 'rules.lr.probe.ladder.a.width'?",
        ),
        (PROBE, ["design=[{families: {of: [dpot, fno]}}]"], "trial A-fno: rules.lr.probe has mod"),
        (
            PROBE.replace("b: {width: 64", "b: {family: fno, width: 8"),
            [],
            "dpot, whose rates say nothing of a fno",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    probe: str, more: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        plan(probed(tmp_path, probe, *more))
    assert sentence in str(refused.value)

"""The driver of a sweep: holds its lock, makes its data, runs the trials that are left, reports."""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from dpot_scale.config.data import DataConfig
from dpot_scale.config.load import dump
from dpot_scale.config.places import SWEEP_CONFIG, in_job
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import shortened, this_command
from dpot_scale.files import write_whole
from dpot_scale.runs.archived import complete_archives
from dpot_scale.runs.contents import read_contents, record
from dpot_scale.runs.result import read_result
from dpot_scale.scaling.earlier import earlier_trials
from dpot_scale.scaling.fitting import require_fit
from dpot_scale.scaling.journal import hold_sweep
from dpot_scale.scaling.plan import Trial, named, plan
from dpot_scale.scaling.plan_text import plan_table
from dpot_scale.scaling.probe import fit_rates
from dpot_scale.scaling.rates import save_rates
from dpot_scale.scaling.report.text import REPORT
from dpot_scale.scaling.report.write import publish, write_report
from dpot_scale.terminal import under_way
from dpot_scale.tracking.missing import catch_up
from dpot_scale.tracking.mlflow_run import MlflowRun, record_life
from dpot_scale.tracking.parameters import described, differing, sweep_parameters
from dpot_scale.tracking.spool import SPOOL
from dpot_scale.tracking.trained_on import trained_on

if TYPE_CHECKING:
    from dpot_scale.scaling.cluster import Cluster


def run_sweep(
    sweep: SweepConfig, trials: Sequence[Trial], say: Callable[[str], None], *, preset: str
) -> Mapping[str, str]:
    """Run what is left of a sweep and report; a sweep that has ended is only shown, without Ray.

    Args:
        sweep: The sweep, with absolute paths: workers have another working directory.
        trials: Its plan.
        say: Takes one line of text for the user at a time.
        preset: What the sweep was read from: a preset or a file.

    Returns:
        Why each failed trial failed.

    Raises:
        UserError: another process runs the sweep, the data cannot be made, there is no cluster at
            RAY_ADDRESS, or it is too small for one trial.
        KeyboardInterrupt: Ctrl-C or SIGTERM ended it; it says how to continue.
    """
    say(plan_table(sweep, trials))
    say(f"\nresults go to {sweep.directory}\n")
    if any(trial.role == "point" for trial in trials):
        # The rates are known: a trial of the probe that failed is not tried again.
        trials = [trial for trial in trials if trial.role == "point"]
    has_ended = all(read_result(trial.run.directory) is not None for trial in trials)
    if has_ended and (sweep.directory / REPORT).exists():
        for trial in trials:
            say(f"{trial.id}: finished before")
        _catch_up(sweep, trials, say)
        with under_way("writing the report"):
            report = write_report(sweep, _pooled(sweep))
        say(f"\n{report.summary}")
        return {}
    with _interrupts():
        return _run(sweep, trials, say, preset, has_ended=has_ended)


@contextmanager
def _interrupts() -> Iterator[None]:
    """Treat SIGTERM, by which `ray job stop` and schedulers end a driver, as Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        again = f"ray job submit --working-dir . -- {this_command()}"
        command = again if in_job() else this_command()
        raise KeyboardInterrupt(f"interrupted; to continue: {shortened(command)}") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _run(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    say: Callable[[str], None],
    preset: str,
    *,
    has_ended: bool,
) -> Mapping[str, str]:
    # Torch and Ray load for seconds: after what is shown without them.
    with under_way("loading torch and Ray"):
        from dpot_scale.cluster.connection import require_cluster
        from dpot_scale.runs.start import require_source
        from dpot_scale.scaling.controller import Controller
        from dpot_scale.scaling.launcher import ray_launcher

    require_cluster()  # before anything is written
    for trial in trials:
        # A branch begins at its trunk, which needs them.
        if trial.after is None and read_result(trial.run.directory) is None:
            require_source(trial.run)
    with under_way("reading what the data hold"):
        contents = read_contents(sweep.run, sweep.directory)
    failures: Mapping[str, str] = {}
    with hold_sweep(sweep):
        write_whole(sweep.directory / SWEEP_CONFIG, dump(sweep))
        record(sweep.directory, contents)
        run = MlflowRun(
            sweep.directory,
            sweep,
            sweep.run.tracking,
            name=sweep.name,
            params=sweep_parameters(sweep, differing([trial.run for trial in trials])),
            tags={"sweep": sweep.name, "preset": preset, "design": described(sweep)},
            datasets=trained_on(sweep.run.data, contents),
        )
        if not has_ended:
            with ray_launcher(sweep) as launcher:
                _require_room(sweep, trials, launcher.cluster)
                _make_data(trials, say)
                with record_life(run):

                    def control(trials: Sequence[Trial]) -> Mapping[str, str]:
                        controller = Controller(
                            sweep=sweep, trials=trials, parent_run=run, launcher=launcher, say=say
                        )
                        return controller.run()

                    failures = _train(sweep, trials, control, say)
                    run.has_failed = bool(failures)
        _catch_up(sweep, trials, say)
        pooled = _pooled(sweep)
        has_results = any(read_result(trial.run.directory) is not None for trial in pooled)
        with under_way("writing the report"):
            report = write_report(sweep, pooled) if has_results else None
            if report is not None:
                publish(report, sweep)
    if report is not None:
        say(f"\n{report.summary}")
    return failures


def _require_room(sweep: SweepConfig, trials: Sequence[Trial], cluster: "Cluster") -> None:
    """Make sure that the cluster can train what is left, before anything is spent on it.

    What has trained before fits, whatever the estimate says.

    Raises:
        ConfigError: a trial does not fit into the memory of the nodes, or they cannot compute in
            its precision.
    """
    settled = sweep.model_copy(update={"resources": cluster.resources})
    if cluster.resources != sweep.resources:
        trials = named(plan(settled), [trial.id for trial in trials])
    new = [trial for trial in trials if not (trial.run.directory / SPOOL).exists()]
    require_fit(settled, new, None, cluster.nodes)


def _train(
    sweep: SweepConfig,
    trials: Sequence[Trial],
    control: Callable[[Sequence[Trial]], Mapping[str, str]],
    say: Callable[[str], None],
) -> Mapping[str, str]:
    """Run trials, those of a probe first; return why each failed one did.

    Raises:
        ConfigError: the probe does not show the rates of the others.
    """
    failures = control([trial for trial in trials if trial.role != "unprobed"])
    waiting = {(t.label, t.run.windows) for t in trials if t.role == "unprobed"}
    if not waiting:
        return failures
    rates = fit_rates(sweep, [trial for trial in trials if trial.role == "probe"])
    save_rates(sweep.directory, rates)
    probed = [
        trial
        for trial in plan(sweep)
        if trial.role == "point" and (trial.label, trial.run.windows) in waiting
    ]
    say(f"\n{plan_table(sweep, probed)}\n")
    return {**failures, **control(probed)}


def _catch_up(sweep: SweepConfig, trials: Sequence[Trial], say: Callable[[str], None]) -> None:
    """Send to MLflow and to the archive what they did not take when trials ended."""
    catch_up([sweep.directory, *(trial.run.directory for trial in trials)])
    complete_archives([trial.run for trial in trials], say)


def _pooled(sweep: SweepConfig) -> tuple[Trial, ...]:
    """Return all trials of a sweep, finished ones of earlier designs among them."""
    trials = plan(sweep)
    return (*trials, *earlier_trials(sweep, trials))


def _make_data(trials: Sequence[Trial], say: Callable[[str], None]) -> None:
    """Solve what is missing of their suites, on the cluster that the sweep is connected to.

    On a cluster that others fill, its tasks would wait without end: then it is done here.
    """
    from dpot_scale.cluster.solving import has_room, ray_tasks
    from dpot_scale.data.generation.suite import generate_suite
    from dpot_scale.data.generation.workers import threads

    made: list[DataConfig] = []
    for data in (trial.run.data for trial in trials):
        if data.suite is not None and data not in made:
            workers = partial(ray_tasks, say) if has_room() else threads
            generate_suite(data.suite, data.root, progress=say, workers=workers)
            made.append(data)

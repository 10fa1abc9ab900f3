"""What people see of a finished sweep in a browser: MLflow's pages and the report.

Every page is kept as a picture in `build/screenshots`, for people to look at.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.cluster import solving
from dpot_scale.config.load import load_sweep
from dpot_scale.config.places import resolve_sweep_paths
from dpot_scale.config.sweep import ResourcesConfig, SweepConfig
from dpot_scale.runs.resolved import identify
from dpot_scale.runs.result import read_result
from dpot_scale.runs.run import run_training
from dpot_scale.scaling import launcher
from dpot_scale.scaling.cluster import Cluster
from dpot_scale.scaling.driver import run_sweep
from dpot_scale.scaling.plan import Trial, plan
from dpot_scale.scaling.report.results import best_trial, finished_trials
from dpot_scale.tracking.mlflow_client import read_run_id
from dpot_scale.tracking.mlflow_page import WORKFLOW, review
from tests.conftest import free_port

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]

SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
WINDOW = {"width": 1440, "height": 900}
DRAWN = "[...document.querySelectorAll('[data-chart]')].every((e) => 'drawn' in e.dataset)"
MOVED = "(text) => document.querySelector('.player output').innerText != text"
PATIENCE = 120_000  # milliseconds: MLflow's server and its pages start slowly
SWEEP = """
name: ladder
run:
  extends: {run}
  tracking: {{mlflow_uri: sqlite:///mlflow.db, experiment: tests}}
design:
  - ladder: {{E16: {{width: 16}}, E24: {{width: 24, heads: 3}}, E32: {{width: 32}}}}
  - windows: [96]
  - seeds: [0, 1]
resources: {{workers: 1, gpus_per_worker: 0}}
"""


class Here:
    """A launcher that trains in this process, a trial after the other."""

    cluster = Cluster(resources=ResourcesConfig(workers=1, gpus_per_worker=0), trials=1)

    def wait_for_room(
        self, sizes: Sequence[int], give_up: Callable[[], bool], say: Callable[[str], None]
    ) -> int | None:
        assert callable(say)
        return None if give_up() else sizes[0]

    def free_workers(self) -> int:
        return 0

    def train(self, trial: Trial, attempt: int, workers: int) -> bool:
        assert (attempt, workers) == (1, 1)
        run_training(identify(trial.run), opens_mlflow_run=False)
        return True

    def abandon(self) -> None:
        pass


@contextmanager
def trains_here(_: SweepConfig) -> Iterator[Here]:
    yield Here()


@dataclass(frozen=True)
class Finished:
    sweep: SweepConfig
    trials: Sequence[Trial]

    def run_id(self, folder: Path) -> str:
        found = read_run_id(folder)
        assert found is not None
        return found


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_yaml: Path) -> Finished:
    """A sweep of six trials, trained through the controller; only its cluster is this process."""
    home = tmp_path_factory.mktemp("browser")
    (home / "sweep.yaml").write_text(SWEEP.format(run=tiny_yaml))
    overrides = ["run.output=runs", "run.data.root=data"]
    sweep = resolve_sweep_paths(load_sweep(str(home / "sweep.yaml"), overrides), home)
    trials = plan(sweep)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launcher, "ray_launcher", trains_here)
        patch.setattr(solving, "has_room", lambda: False)
        assert run_sweep(sweep, trials, print, preset="a test") == {}
    return Finished(sweep, trials)


@pytest.fixture(scope="module")
def server(finished: Finished) -> Iterator[str]:
    """The address of MLflow, started by the command that the sweep prints."""
    command, link = review(finished.sweep.directory, finished.sweep.run.tracking, page="experiment")
    port = free_port()
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = subprocess.Popen(
        f"exec env {command.removeprefix('curves: ')} --port {port}",
        shell=True,
        cwd=finished.sweep.directory,
        env=environment,
        start_new_session=True,
    )
    try:
        _wait_for(f"http://127.0.0.1:{port}/health", process)
        yield re.sub(r":\d+/", f":{port}/", link.split()[-1], count=1)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def _wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < deadline:
        assert process.poll() is None
        with suppress(OSError):
            urllib.request.urlopen(address, timeout=5).read()
            return
        time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = "pages are looked at where Debian's chromium and the package playwright are installed"
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip(reason)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    page = browser.new_page(viewport=WINDOW)
    page.set_default_timeout(PATIENCE)
    yield page
    page.close()


def shows(page: Any, *texts: str) -> None:
    """Wait until all texts can be seen, without a click or a turn of the wheel."""
    for text in texts:
        page.get_by_text(text).locator("visible=true").first.wait_for()


def keep(page: Any, name: str, *, whole: bool = False) -> None:
    page.wait_for_timeout(1500)  # charts move into their places
    page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=whole)


def test_the_report_needs_no_network_and_draws_all_charts(finished: Finished, page: Any) -> None:
    said, asked = list[str](), list[str]()
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    address = (finished.sweep.directory / "report.html").as_uri()
    page.goto(address)
    page.wait_for_function(DRAWN)
    best = best_trial(finished_trials(finished.trials))
    assert best is not None
    shows(page, "ladder", f"{best.result.mean_rel_l2:.4f}", "6 of 6")
    assert page.locator(".conclusion").is_visible()
    assert page.locator("[data-chart=law] svg").is_visible()
    lead = page.locator(".player output")
    before = lead.inner_text()
    page.wait_for_function(MOVED, arg=before)
    keep(page, "report", whole=True)
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [address]


def test_the_report_prints(finished: Finished, page: Any) -> None:
    page.goto((finished.sweep.directory / "report.html").as_uri())
    page.wait_for_function(DRAWN)
    page.emulate_media(media="print")
    page.pdf(path=SCREENSHOTS / "report.pdf", prefer_css_page_size=True, print_background=True)
    assert (SCREENSHOTS / "report.pdf").stat().st_size > 10_000
    assert not page.locator(".controls").is_visible()


def test_the_printed_link_opens_on_the_runs(finished: Finished, server: str, page: Any) -> None:
    page.goto(server)
    best = best_trial(finished_trials(finished.trials))
    assert best is not None
    shows(page, best.trial.id, str(best.result.mean_rel_l2)[:5])
    keep(page, "experiment")


def _of_run(server: str, run: str, place: str = "") -> str:
    start, _, _ = server.partition("/runs")
    return f"{start}/runs/{run}{place}?{WORKFLOW}"


def test_the_sweep_has_its_report(finished: Finished, server: str, page: Any) -> None:
    page.goto(_of_run(server, finished.run_id(finished.sweep.directory)))
    shows(page, "ladder", "held-out rollout error")
    keep(page, "parent")


def test_a_trial_has_its_numbers(finished: Finished, server: str, page: Any) -> None:
    trial = finished.trials[-1]
    result = read_result(trial.run.directory)
    assert result is not None
    run = finished.run_id(trial.run.directory)
    page.goto(_of_run(server, run))
    shows(page, trial.id, "final/rel_l2", "over persistence")
    place = page.get_by_text("over persistence").locator("visible=true").first.bounding_box()
    assert place["y"] < WINDOW["height"], "the errors stand above the fold"
    keep(page, "child")
    page.goto(_of_run(server, run, "/system-metrics"))
    shows(page, "system/node_0/cpu_percent")
    keep(page, "child_system")


@pytest.mark.parametrize("chart", ["Scatter Plot", "Parallel Coordinates Plot"])
def test_trials_are_compared(chart: str, finished: Finished, server: str, page: Any) -> None:
    runs = [finished.run_id(trial.run.directory) for trial in finished.trials]
    start, _, rest = server.partition("#/experiments/")
    experiment = rest.partition("/")[0]
    listed = "%22,%22".join(runs)
    page.goto(
        f"{start}#/compare-runs?runs=[%22{listed}%22]&experiments=[%22{experiment}%22]&{WORKFLOW}"
    )
    shows(page, finished.trials[0].id)
    page.get_by_role("tab", name=chart).click()
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    keep(page, f"compare_{chart.split()[0].lower()}")


def test_a_link_leads_from_the_sweep_to_the_charts_of_its_trials(
    finished: Finished, server: str, page: Any
) -> None:
    page.goto(_of_run(server, finished.run_id(finished.sweep.directory)))
    link = page.get_by_role("link", name="Charts of all trials").first
    start, _, _ = server.partition("#/")
    page.goto(start + link.get_attribute("href"))
    shows(page, "Held-out error", "model/params vs. final/rel_l2", finished.trials[0].id)
    page.locator(".js-plotly-plot .main-svg").first.wait_for()
    keep(page, "charts")


def test_the_report_is_among_the_artifacts(finished: Finished, server: str, page: Any) -> None:
    run = finished.run_id(finished.sweep.directory)
    page.goto(_of_run(server, run, "/artifacts/report/report.html"))
    shows(page, "report.html")
    keep(page, "artifacts")

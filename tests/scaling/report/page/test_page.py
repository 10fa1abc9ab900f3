"""The page from results with known numbers."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dpot_scale.config.sweep import SweepConfig
from dpot_scale.runs.result import read_result, save_result
from dpot_scale.scaling.journal import Journal
from dpot_scale.scaling.plan import Trial
from dpot_scale.scaling.report.analysis import Analysis, analyze
from dpot_scale.scaling.report.blocks import markdown
from dpot_scale.scaling.report.page.content import content_of
from dpot_scale.scaling.report.page.page import render
from dpot_scale.scaling.report.page.parts import round_numbers
from dpot_scale.scaling.report.results import Finished, finished_trials
from dpot_scale.scaling.report.text import PAGE, report_blocks
from dpot_scale.scaling.report.write import write_report
from dpot_scale.tracking.spool import SPOOL

Planned = Callable[..., tuple[SweepConfig, tuple[Trial, ...]]]
Finish = Callable[..., None]
KeepFrames = Callable[..., None]
LARGEST = 5_000_000


class Page(HTMLParser):
    """The words that a page shows, its charts and the elements it is made of."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.source = source
        self.words: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._inside: list[str] = []
        self.charts: dict[str, Any] = {}
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(dict(attrs).get("type") or tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("script", "style"):
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.words.append(data)
        elif self._inside[-1] == "application/json":
            self.charts = json.loads(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page_of(sweep: SweepConfig, trials: tuple[Trial, ...]) -> Page:
    """The page without the pictures that lie beside it as files, too."""
    finished = finished_trials(trials)
    arms = analyze(finished)
    blocks = report_blocks(sweep, trials, finished, arms)
    content = content_of(sweep, trials, finished, arms, blocks, stills={})
    return Page(render(content, trials, arms))


def drawn(page: Page, chart: str, mark: str) -> list[dict[str, Any]]:
    """The rows of the layers of a kind."""
    layers = [one for one in page.charts[chart]["layer"] if one.get("mark", {}).get("type") == mark]
    return [row for one in layers for row in one["data"]["values"]]


def test_the_page_begins_with_the_conclusion_and_draws_the_law(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 3.0 * trial.parameters**-0.2, lead_times=(0.1, 0.2))
    page = page_of(sweep, trials)
    law = "rel_l2 = 3 N^-0.200"
    assert law in page.text
    assert page.text.index(law) < page.text.index("Error against model size")
    assert "exponent of size 0.2 95 %" in page.text
    assert "trials finished 4 of 4" in page.text
    shown = {(row["size"], row["trial"]): row["error"] for row in drawn(page, "law", "point")}
    assert shown == {
        (trial.parameters, trial.id): pytest.approx(3.0 * trial.parameters**-0.2)
        for trial in trials
    }
    (found,) = analyze(finished_trials(trials))
    line = drawn(page, "law", "line")
    assert [row["error"] for row in line] == pytest.approx(
        [3.0 * row["size"] ** -0.2 for row in line], rel=1e-3
    )
    assert drawn(page, "law", "area")
    assert {"dataset-0", "dataset-1", "lead-0", "lead-1"} <= page.charts.keys()
    persistence = found.shown.result.mean_persistence_rel_l2
    assert f"{persistence:.4f}" in page.text


def test_it_needs_no_other_file(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.2)
    page = page_of(sweep, trials)
    policy = next(a["content"] for tag, a in page.elements if a.get("http-equiv"))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "form")
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag


def test_words_from_outside_stay_words(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    evil = "</script><script>alert('x')</script><img src=http://evil/x>|`*"
    for trial in trials[1:]:
        finish(trial, 3.0 * trial.parameters**-0.2, lead_times=(0.1, 0.2))
        result = read_result(trial.run.directory)
        assert result is not None
        named = {
            key: {evil if name == "dr" else name: value for name, value in one.items()}
            for key, one in (
                ("evaluation", result.evaluation),
                ("datasets", result.datasets),
                ("lead_times", result.lead_times),
            )
        }
        save_result(trial.run.directory, result.model_copy(update=named))
    Journal(sweep.directory).record(trials[0].id, "started", attempt=1)
    Journal(sweep.directory).record(trials[0].id, "failed", attempt=1, reason=evil)
    page = page_of(sweep, trials)
    assert f"failed: {evil}" in page.text
    assert [tag for tag, _ in page.elements].count("script") == 3
    sources = [attributes.get("src") or "" for _, attributes in page.elements]
    assert not [source for source in sources if "evil" in source]
    assert page.charts, "the data are whole"
    finished = finished_trials(trials)
    report = markdown(report_blocks(sweep, trials, finished, analyze(finished)))
    assert "\\|`*" in report, "no cell of a table ends early"


def test_failed_trials_are_told_with_their_reasons_and_curves(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    failed, *others = trials
    for trial in others:
        finish(trial, 0.2)
    for trial in trials:
        trial.run.directory.mkdir(parents=True, exist_ok=True)
        records = [
            {"step": step, "time": 0.0, "train/loss": 1.0 / step, "eval/mean/rel_l2": 0.5 / step}
            for step in (1, 2, 3)
        ]
        text = "".join(json.dumps(record) + "\n" for record in records)
        (trial.run.directory / SPOOL).write_text(text)
    Journal(sweep.directory).record(failed.id, "started", attempt=1)
    Journal(sweep.directory).record(failed.id, "failed", attempt=1, reason="it diverged")
    page = page_of(sweep, trials)
    assert f"{failed.id} failed: it diverged" in page.text
    assert "1 failed or cancelled, 0 not ended" in page.text
    batch = failed.run.batch.global_batch
    for chart, first in (("curve-loss", 1.0), ("curve-held_out", 0.5)):
        rows = page.charts[chart]["data"]["values"]
        assert {row["trial"] for row in rows} == {trial.id for trial in trials}
        own = [row for row in rows if row["trial"] == failed.id]
        assert [row["windows"] for row in own] == [batch, 2 * batch, 3 * batch]
        assert own[0]["value"] == first
    assert failed.id not in {row["trial"] for row in drawn(page, "law", "point")}


def test_one_trial_has_a_page_without_a_law(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.2)
    page = page_of(sweep, trials)
    assert "a power law needs at least 3" in page.text
    assert "exponent" not in page.text
    assert "3 not ended" in page.text
    assert not drawn(page, "law", "line")
    assert "compute" not in page.charts
    assert "No frames" in page.text
    assert "no recorded curves" in page.text


def test_forecasts_that_are_all_lost_have_a_page(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], float("nan"))
    finish(trials[1], float("inf"))
    page = page_of(sweep, trials)
    assert "not finite" in page.text
    assert "best held-out rel_l2" not in page.text


def test_arms_have_each_their_law_and_colour(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    design = "design=[{ablation: {quiet: {run.objective.noise: 0.1}}}]"
    sweep, trials = planned(tmp_path, design)
    for trial in trials:
        power = -0.2 if trial.factors["ablation"] == "base" else -0.1
        finish(trial, 3.0 * trial.parameters**power)
    page = page_of(sweep, trials)
    arms = analyze(finished_trials(trials))
    assert len(arms) == 2
    for found in arms:
        assert f"exponent of size: {found.arm}" in page.text
    names = {row["name"] for row in drawn(page, "law", "point")}
    assert names == {found.arm for found in arms}
    assert f"At {arms[0].main}. Held-out rollout error" in page.text
    assert {row["name"] for row in drawn(page, "law", "area")} == names


def test_arms_of_unlike_lengths_are_named_with_theirs(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    design = "design=[{ablation: {quiet: {run.objective.noise: 0.1}}}]"
    sweep, trials = planned(tmp_path, design, "windows=[800, 1600]")
    for trial in trials:
        if (trial.factors["ablation"] == "base") == (trial.run.windows == 800):
            finish(trial, 3.0 * trial.parameters**-0.2)
    names = {row["name"] for row in drawn(page_of(sweep, trials), "law", "point")}
    assert names == {"base, 800 windows", "quiet, 1,600 windows"}


def test_many_arms_and_lengths_stay_clear(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    families = "design=[{families: {of: [vit, dpot, fno], match: parameters}}]"
    sweep, trials = planned(tmp_path, families, "windows=[800, 1600, 3200]")
    for trial in trials:
        error = 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4
        finish(trial, error, lead_times=(0.1, 0.2))
    page = page_of(sweep, trials)
    of_each_chart = [
        list(dict.fromkeys(row["name"] for row in drawn(page, chart, "point")))
        for chart in ("law", "compute", "best-size", "dataset-0", "lead-0")
    ]
    assert of_each_chart == [["dpot", "fno", "vit"]] * 5
    largest = {max(one.main.trials, key=_parameters).trial.id for one in _arms(trials)}
    assert {row["trial"] for row in drawn(page, "lead-0", "point")} == largest
    first, _, folded = page.text.partition("All lengths")
    assert "3,200" in first.partition("Errors beside persistence")[2]
    assert " 1,600 " not in first.partition("Errors beside persistence")[2]
    assert " 1,600 " in folded.partition("Each dataset")[0]


def test_an_arm_without_a_best_size_leaves_the_colours_of_the_others(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    families = "design=[{families: {of: [dpot, fno, vit], match: parameters}}]"
    sweep, trials = planned(tmp_path, families, "windows=[800, 1600, 3200]")
    for trial in trials:
        of_size = 0.0 if trial.run.model.family == "dpot" else 8 * trial.parameters**-0.4
        finish(trial, 0.01 + of_size + 2 * trial.run.windows**-0.4)
    page = page_of(sweep, trials)
    colors = {chart: _colors(page, chart) for chart in ("law", "best-size")}
    assert list(colors["best-size"]) == ["fno", "vit"]
    assert colors["best-size"].items() < colors["law"].items()


def _colors(page: Page, chart: str) -> dict[str, str]:
    """The colours of the names of a chart."""
    scales = [
        layer.get("encoding", {}).get("color", {}).get("scale")
        for layer in page.charts[chart]["layer"]
    ]
    scale = next(scale for scale in scales if scale)
    return dict(zip(scale["domain"], scale["range"], strict=True))


def _parameters(entry: Finished) -> int:
    return entry.result.parameters


def _arms(trials: tuple[Trial, ...]) -> list[Analysis]:
    return analyze(finished_trials(trials))


def test_a_long_axis_has_ticks_at_even_distances() -> None:
    assert round_numbers(0.12, 0.4) == []  # Vega chooses
    assert round_numbers(1e5, 4e6)[:4] == [1e5, 2e5, 5e5, 1e6]
    assert round_numbers(2.4e10, 4e13)[:5] == [1e10, 3e10, 1e11, 3e11, 1e12]
    assert round_numbers(1e10, 1e16) == [10.0**power for power in range(10, 17)]


def test_sizes_and_lengths_show_what_flops_buy(
    tmp_path: Path, finish: Finish, planned: Planned
) -> None:
    sweep, trials = planned(tmp_path, "windows=[800, 1600, 3200, 6400]")
    for trial in trials:
        finish(trial, 0.01 + 8 * trial.parameters**-0.4 + 2 * trial.run.windows**-0.4)
    page = page_of(sweep, trials)
    most = max(trial.train_flops for trial in trials)
    frontier = [row["flops"] for row in drawn(page, "compute", "line") if "low" in row]
    assert max(frontier) == pytest.approx(10 * most, rel=1e-5)
    sizes = [row["flops"] for row in drawn(page, "best-size", "line")]
    assert max(sizes) == pytest.approx(10 * most, rel=1e-5)
    assert len(drawn(page, "compute", "point")) == len(trials)


def test_equal_flops_show_their_parabolas(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path, "windows=null", "design=[{isoflop: {budgets: [1e12, 1e13]}}]")
    sizes = sorted(trial.parameters for trial in trials)
    middle = (sizes[0] * sizes[-1]) ** 0.5
    for trial in trials:
        away = max(trial.parameters / middle, middle / trial.parameters)
        finish(trial, 0.1 * away**0.1)
    page = page_of(sweep, trials)
    assert len({row["name"] for row in drawn(page, "isoflop", "point")}) == 2
    assert drawn(page, "isoflop", "line")


def test_amounts_of_data_are_drawn(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path, "design=[{data: {trajectories: [2, 4]}}, {seeds: [0, 1]}]")
    for trial in trials:
        finish(trial, 0.4 / float(trial.factors["trajectories"]))
    page = page_of(sweep, trials)
    assert {row["amount"] for row in drawn(page, "amount", "point")} == {2.0, 4.0}


def test_seeds_have_an_interval(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path, "design=[{seeds: [0, 1]}]")
    for trial in trials:
        finish(trial, 0.2 if trial.run.seed else 0.1)
    page = page_of(sweep, trials)
    assert f"{0.02**0.5:.4f}" in page.text, "the geometric mean"


def test_the_best_model_moves_and_all_sizes_stand_beside_each_other(
    tmp_path: Path, finish: Finish, planned: Planned, keep_frames: KeepFrames
) -> None:
    sweep, trials = planned(tmp_path)
    for trial in trials:
        finish(trial, 3.0 * trial.parameters**-0.2)
        keep_frames(trial, "ns")
    write_report(sweep, trials)
    page = Page((sweep.directory / PAGE).read_text())
    assert len(page.source.encode()) < LARGEST
    assert f"The best model, {trials[-1].label} at" in page.text
    (rollout,) = [a for tag, a in page.elements if (a.get("class") or "") == "rollout"]
    leads = json.loads(rollout["data-leads"] or "")
    assert leads[0] == "+1 frame, t = 0.5"
    assert leads[-1] == "+5 frames, t = 2.5"
    shown = [a["alt"] for tag, a in page.elements if tag == "img" and a.get("alt")]
    assert shown == ["truth of u", "forecast of u", "|error| of u", "forecasts of ns"]
    assert "x from 0 to 2, y from 0 to 1" in page.text
    for suffix in ("png", "pdf"):
        assert (sweep.directory / f"forecasts_ns.{suffix}").stat().st_size > 1000
    assert (
        "![forecasts of ns by all sizes](forecasts_ns.png)"
        in (sweep.directory / "report.md").read_text()
    )


def test_how_to_do_it_again_is_told(tmp_path: Path, finish: Finish, planned: Planned) -> None:
    sweep, trials = planned(tmp_path)
    finish(trials[0], 0.2)
    page = page_of(sweep, trials)
    assert "python -m dpot_scale.sweep run --config sweep.yaml" in page.text
    assert re.search(r"torch \d+\.\d+", page.text)
    assert "name: quickstart-sweep" in page.text

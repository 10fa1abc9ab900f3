"""An evaluation from its request to its table, files and MLflow runs."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dpot_scale.engine.collectives import on_main
from dpot_scale.engine.peers import lost_peers_named
from dpot_scale.engine.runtime import PATIENCE
from dpot_scale.errors import ConfigError
from dpot_scale.evaluation.details import Details
from dpot_scale.evaluation.frames import save_frames
from dpot_scale.evaluation.inputs import Look, Request, Source
from dpot_scale.evaluation.pictures import (
    DPI,
    fields_figure,
    growth_figure,
    save_movies,
    spectra_figure,
)
from dpot_scale.evaluation.scores import SCORES_FILE, Comparison, Scores
from dpot_scale.evaluation.tables import csv_text, headline, latex_table, metric_table
from dpot_scale.evaluation.weights import Evaluated, evaluate_sources, world_of_evaluation
from dpot_scale.files import write_whole
from dpot_scale.terminal import print_line
from dpot_scale.tracking.mlflow_scores import log_scores

CSV_FILE = "scores.csv"
LATEX_FILE = "scores.tex"


@lost_peers_named(PATIENCE, "start the evaluation again")
def report(sources: Sequence[Source], request: Request, look: Look, out: Path) -> None:
    """Score models, print the table, write the files and add them to the MLflow runs. Collective.

    Args:
        sources: The weights.
        request: What is scored how.
        look: How the scores are shown.
        out: The folder of the files.

    Raises:
        CheckpointError: weights cannot be used.
        ConfigError: the config describes another model, a dataset does not suit it, or the folder
            cannot be written.
        DataError: a dataset is missing, or too short to forecast.
    """
    world = world_of_evaluation()
    say = print_line if world.is_main else _say_nothing
    found = evaluate_sources(sources, request, world, say)

    def finish() -> None:
        files = save_evaluation(out, found, look)
        scores = {name: one.scores for name, one in found.items()}
        print_line(metric_table(scores, look.metric))
        for line in _unreached(found, request.wanted.leads):
            print_line(line)
        for source in sources:
            _track(source, scores[source.name], files)
        of = ", ".join(str(one.weights) for one in scores.values())
        print_line(f"scores and figures of {of}: {out}")

    on_main(finish, world, out)


def _say_nothing(line: str) -> None:
    del line


def _unreached(found: Mapping[str, Evaluated], leads: Sequence[int]) -> Iterator[str]:
    """Yield which of the lead times that were asked for no figure of a dataset can show."""
    first = next(iter(found.values()))
    for dataset, evaluation in first.evaluations.items():
        reached = len(evaluation.rel_l2_L)
        beyond = [str(lead) for lead in leads if lead > reached]
        if beyond:
            yield f"not shown of {dataset}: lead times {', '.join(beyond)}; its last is {reached}"


def _track(source: Source, scores: Scores, files: list[Path]) -> None:
    """Add the scores of a model to the MLflow run that trained it, if there is one."""
    run_id, uri = source.mlflow_run, source.mlflow_uri
    if run_id is not None and uri is not None and log_scores(uri, run_id, headline(scores), files):
        print_line(f"added to the MLflow run {run_id} of {source.name}")


def save_evaluation(out: Path, found: Mapping[str, Evaluated], look: Look) -> list[Path]:
    """Write scores, tables and figures into a folder, which is made; return the files.

    Args:
        out: The folder.
        found: The models and how they did, by their names.
        look: How they are shown.

    Raises:
        ConfigError: the folder cannot be written.
    """
    scores = {name: one.scores for name, one in found.items()}
    content: Scores | Comparison = next(iter(scores.values()))
    if len(scores) > 1:
        content = Comparison(sources=scores)
    try:
        out.mkdir(parents=True, exist_ok=True)
        figures = _save_figures(out, found, look)
        if len(found) == 1:  # as a run keeps them
            save_frames(out, next(iter(found.values())).evaluations)
        texts = {
            SCORES_FILE: content.model_dump_json(indent=2) + "\n",
            CSV_FILE: csv_text(scores),
            LATEX_FILE: latex_table(scores, look.metric),
        }
        for name, text in texts.items():
            write_whole(out / name, text)
    except OSError as error:
        raise ConfigError(f"cannot write to {out}: {error.strerror}") from error
    return [*(out / name for name in texts), *figures]


def _save_figures(out: Path, found: Mapping[str, Evaluated], look: Look) -> list[Path]:
    datasets: dict[str, dict[str, Details]] = {}
    for name, one in found.items():
        for dataset, evaluation in one.evaluations.items():
            assert evaluation.details is not None
            datasets.setdefault(dataset, {})[name] = evaluation.details
    figures = {"error_growth": growth_figure(datasets)}
    files = []
    for dataset, sources in datasets.items():
        figures[f"rollout_{dataset}"] = fields_figure(dataset, sources)
        figures[f"spectra_{dataset}"] = spectra_figure(dataset, sources)
        files += save_movies(out, dataset, sources)
    for name, figure in figures.items():
        files.append(out / f"{name}.{look.figures}")
        figure.savefig(files[-1], dpi=DPI)
    return files

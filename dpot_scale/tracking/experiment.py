"""What people see when they open our experiment in MLflow: what it is, columns and charts."""

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from dpot_scale.tracking import names
from dpot_scale.tracking.names import REL_L2, final_key, score_key

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

VIEW = "dpot_scale"  # in the link, `viewStateShareKey`
SHARED = "mlflow.sharedViewState."  # begins the tags of an experiment that hold views
VIEW_TAG = f"{SHARED}{VIEW}"
NOTE_TAG = "mlflow.note.content"
DESCRIPTION = """\
Trainings and scaling experiments of PDE foundation models with dpot_scale.

**Which run is what.** A run with child runs is a sweep. Each child is a trial of it: a model of one
size, trained on so many windows. The sweep has the best error and the numbers of the fitted law;
its description is the report with the figures. Other runs are single trainings.

**What the numbers are.** `final/rel_l2` is the held-out error at the end: norm of the error / norm
of the truth over a whole rollout, mean over datasets; lower is better. `final/over_persistence` is
that over the error of repeating the last known frame: below 1 beats it. `final/DATASET/rel_l2` is
of one dataset; `one_step` has the true frames before every forecast. `law/exponent` is the power of
the parameters by which the error falls, `law/exponent_low` and `law/exponent_high` its 95 %
interval. `law/predicted` is what the smaller sizes foretell for the largest one, `law/measured`
what that one reached.

**Where to look.** The table sorts all trials and sweeps by error. The charts have error against
parameters and FLOPs, and the curves. Any curve can be drawn against `data/windows` or
`compute/train_flops` instead of steps. The tag `stop` says in a word why a run ended, `stop_reason`
in a sentence.
"""

COLUMN_WIDTH = 140  # pixels: for `final/over_persistence`
FINAL, ONE_STEP = final_key(REL_L2), final_key(names.ONE_STEP_REL_L2)
OVER_PERSISTENCE = final_key(names.OVER_PERSISTENCE)
HELD_OUT = score_key(names.MEAN)
COLUMNS = (
    ("metrics", FINAL),
    ("metrics", OVER_PERSISTENCE),
    ("metrics", ONE_STEP),
    ("params", "size"),
    ("metrics", names.PARAMETERS),
    ("metrics", names.WINDOWS),
    ("metrics", names.TRAIN_FLOPS),
    ("metrics", names.LAW_EXPONENT),
    ("tags", "sweep"),
    ("tags", "stop"),
    ("metrics", names.SECONDS),
    ("metrics", names.PEAK_GIB),
    ("metrics", names.WINDOWS_PER_SECOND),
    ("attributes", "Dataset"),
    ("attributes", "Models"),
    ("attributes", "Source"),
)


def describe(mlflow_client: "MlflowClient", experiment: str) -> None:
    """Give an experiment its description, unless it has one, and the view that our links open."""
    from mlflow.exceptions import MlflowException

    tags = mlflow_client.get_experiment(experiment).tags
    wanted = {NOTE_TAG: tags.get(NOTE_TAG) or DESCRIPTION, VIEW_TAG: json.dumps(_view())}
    for key, text in wanted.items():
        if tags.get(key) != text:
            with suppress(MlflowException):  # of runs that begin at once, one does it
                mlflow_client.set_experiment_tag(experiment, key, text)


def share_charts(mlflow_client: "MlflowClient", experiment: str, sweep: str) -> str:
    """Give an experiment the view of the trials of a sweep alone; return what links to its charts.

    MLflow's own page of compared runs begins with axes that it chooses, and no address says others.

    Args:
        mlflow_client: The client of the server that has both.
        experiment: The id of the experiment.
        sweep: The id of the run of the sweep.
    """
    trials = f"tags.`mlflow.parentRunId` = '{sweep}'"
    # Otherwise charts begin with the first ten.
    view = {**_view(), "searchFilter": trials, "runsHiddenMode": "SHOW_ALL"}
    mlflow_client.set_experiment_tag(experiment, f"{SHARED}{sweep}", json.dumps(view))
    return f"#/experiments/{experiment}/runs?viewStateShareKey={sweep}&compareRunsMode=CHART"


def _view() -> dict[str, object]:
    """Return the state of the page of runs, as MLflow 3 shares it between people.

    Sorted by a metric, trials stand beside their sweeps: only sorted by date they are folded into
    them.
    """
    columns = [f"{kind}.`{name}`" for kind, name in COLUMNS]
    return {
        "orderByKey": f"metrics.`{FINAL}`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": columns,
        "columnWidths": dict.fromkeys(columns, COLUMN_WIDTH),
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "isReordered": True, "columns": 2}
            for name in ("Held-out error", "Training")
        ],
        "compareRunCharts": _charts(),
        "isAccordionReordered": True,
        "hideEmptyCharts": True,
    }


def _charts() -> list[dict[str, object]]:
    error, training = "Held-out error", "Training"
    return [
        _scatter(error, names.PARAMETERS, FINAL),
        _scatter(error, names.TRAIN_FLOPS, FINAL),
        _bar(error, FINAL),
        _line(error, HELD_OUT, names.WINDOWS),
        _line(error, HELD_OUT, names.TRAIN_FLOPS),
        {
            "type": "PARALLEL",
            "uuid": "parallel",
            "metricSectionId": error,
            "selectedParams": ["size"],
            "selectedMetrics": [names.PARAMETERS, names.WINDOWS, names.TRAIN_FLOPS, FINAL],
            "showAllRuns": True,
        },
        _line(training, names.LOSS, names.WINDOWS),
        _line(training, names.GRADIENT_NORM, names.WINDOWS),
        _line(training, names.WINDOWS_PER_SECOND, names.WINDOWS),
    ]


def _scatter(section: str, x: str, y: str) -> dict[str, object]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    card = {"type": "SCATTER", "uuid": f"{y} by {x}", "metricSectionId": section}
    return {**card, **axes, "runsCountToCompare": 100, "displayName": f"{y} by {x}"}


def _bar(section: str, metric: str) -> dict[str, object]:
    return {"type": "BAR", "uuid": metric, "metricSectionId": section, "metricKey": metric}


def _line(section: str, y: str, x: str) -> dict[str, object]:
    return {
        "type": "LINE",
        "uuid": f"{y} by {x}",
        "displayName": f"{y} by {x}",
        "metricSectionId": section,
        "metricKey": y,
        "selectedMetricKeys": [y],
        "xAxisKey": "metric",
        "selectedXAxisMetricKey": x,
        "useGlobalXaxisKey": False,
        "scaleType": "log",
        "xAxisScaleType": "linear",
        "lineSmoothness": 0,
        "useGlobalLineSmoothing": True,
        "range": {},
        "runsCountToCompare": 100,
    }

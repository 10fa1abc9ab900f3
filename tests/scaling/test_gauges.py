"""What Prometheus gets to see of a trial, from a gauge that stands in for Ray's."""

import json
import re
from pathlib import Path

import pytest
import yaml

from dpot_scale.scaling import gauges
from dpot_scale.scaling.gauges import NAME, shown_metrics
from dpot_scale.tracking import names

MONITORING = Path(__file__).parents[2] / "cluster" / "monitoring"


class Gauge:
    """Keeps the last value for each set of tags."""

    def __init__(self, name: str, *_: str, tag_keys: tuple[str, ...]) -> None:
        assert (name, tag_keys) == (NAME, ("run", "metric"))
        shown.clear()

    def set(self, value: float, tags: dict[str, str]) -> None:
        shown[tags["run"], tags["metric"]] = value


shown: dict[tuple[str, str], float] = {}


@pytest.fixture(autouse=True)
def instead_of_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gauges, "Gauge", Gauge)


def test_the_newest_value_of_each_metric_is_shown(tmp_path: Path) -> None:
    spool = tmp_path / "trial" / "metrics.jsonl"
    with shown_metrics(spool.parent):  # before there is a spool
        spool.parent.mkdir()
        records = [
            {"step": 1, "time": 1.0, "train/loss": 3.0, "perf/mfu": 0.3},
            {"step": 2, "time": 2.0, "train/loss": float("nan")},
            {"step": 0, "time": 3.0, "final/rel_l2": 0.5},
        ]
        spool.write_text("".join(json.dumps(record) + "\n" for record in records) + '{"step": 3')
    expected = ("step", "train/loss", "perf/mfu", "final/rel_l2")
    assert shown.keys() == {("trial", key) for key in expected}
    assert (shown["trial", "step"], shown["trial", "perf/mfu"]) == (2, 0.3)
    assert shown["trial", "train/loss"] != shown["trial", "train/loss"]


def test_the_dashboard_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((MONITORING / "grafana_dashboard.json").read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    ours = [query for query in queries if f"ray_{NAME}" in query]
    known = {value for key, value in vars(names).items() if key.isupper()} | {"step"}
    for query in ours:
        (metric,) = re.findall(r'metric=~?"([^"]+)"', query)
        assert metric in known or metric == "(eval|valid)/.*/rel_l2"
        # Each attempt has a worker of its own, and so a series of its own.
        assert query.startswith(("max by (run) (", "max by (run, metric) ("))
    assert len(ours) >= 6
    assert len(queries) > len(ours), "and some of Ray's own"
    places = [panel["gridPos"] for panel in dashboard["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places), "side by side"
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(places)


def test_prometheus_finds_the_nodes_where_ray_lists_them() -> None:
    config = yaml.safe_load((MONITORING / "prometheus.yaml").read_text(encoding="utf-8"))
    (job,) = config["scrape_configs"]
    (discovery,) = job["file_sd_configs"]
    assert discovery["files"] == ["/tmp/ray/prom_metrics_service_discovery.json"]
    assert discovery["refresh_interval"] == "15s", "a node that joins is seen at once"
    (pods,) = yaml.safe_load_all((MONITORING / "podmonitor.yaml").read_text(encoding="utf-8"))
    assert pods["spec"]["podMetricsEndpoints"] == [{"port": "metrics", "interval": "15s"}]

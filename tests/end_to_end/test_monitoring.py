"""What Prometheus gets from a node of Ray, held against what the dashboard of Grafana asks for."""

import json
import re
import time
import urllib.request
from pathlib import Path

import pytest
import ray

from dpot_scale.cluster.connection import connection
from dpot_scale.tracking import names

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

DASHBOARD = Path(__file__).parents[2] / "cluster/monitoring/grafana_dashboard.json"
ON_GPUS = {"ray_node_gpus_utilization"}  # which a node without them does not have
SCORE = "eval/dr_pdb_generated/rel_l2"


def test_a_node_shows_what_the_dashboard_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(variable, "")  # so that it is afterwards what it was before
        monkeypatch.delenv(variable)
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    asked = {name for query in queries for name in re.findall(r"ray_\w+", query)} - ON_GPUS
    metrics = [one for query in queries for one in re.findall(r'metric=~?"([^"]+)"', query)]
    spool = tmp_path / "trial" / "metrics.jsonl"
    spool.parent.mkdir()
    record = {"step": 7, "time": 1.0, SCORE: 0.5}
    record |= {key: 2.0 for key in vars(names).values() if key in metrics}
    spool.write_text(json.dumps(record) + "\n")

    def show(folder: Path, ended: Path) -> None:
        from dpot_scale.scaling.gauges import shown_metrics

        with shown_metrics(folder):
            while not ended.exists():
                time.sleep(0.2)

    with connection(1, object_store_memory=100 * 2**20):
        shown = ray.remote(num_cpus=1)(show).remote(spool.parent, tmp_path / "ended")
        address = f"http://127.0.0.1:{ray.nodes()[0]['MetricsExportPort']}/metrics"
        deadline, lines = time.monotonic() + 200, list[str]()
        while not any('metric="step"' in line for line in lines) and time.monotonic() < deadline:
            time.sleep(1)
            with urllib.request.urlopen(address) as response:
                lines = response.read().decode().splitlines()
        (tmp_path / "ended").touch()
        ray.get(shown)
    ours = {
        (found[1], float(line.rpartition(" ")[2]))
        for line in lines
        if 'run="trial"' in line and (found := re.search(r'metric="([^"]+)"', line))
    }
    for metric in metrics:
        assert any(re.fullmatch(metric, name) for name, _ in ours), metric
    assert ours >= {("step", 7.0), (SCORE, 0.5)}
    assert {re.split(r"[{ ]", line)[0] for line in lines} >= asked

"""The files of cluster/ against what their programs publish of their form, each by its own checker.

What KubeRay and Prometheus' operator add to Kubernetes is held against the shapes in
test_manifests.py; the pods in it are Kubernetes' own, and are looked at here too.
"""

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

CLUSTER = Path(__file__).parents[2] / "cluster"
COMPOSE = CLUSTER / "mlflow/compose.yaml"
KUBERNETES = [*CLUSTER.glob("kuberay/*.yaml"), CLUSTER / "mlflow/kubernetes.yaml"]
VERSION = "1.37"  # of Kubernetes
OPERATORS = ("ray.io/v1", "monitoring.coreos.com/v1")


def against_compose(file: Path) -> subprocess.CompletedProcess[str]:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema is not installed")
    words = ["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(file)]
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)


def test_the_compose_specification_accepts_the_stack_of_mlflow() -> None:
    done = against_compose(COMPOSE)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("restart: unless", "restarts: unless"),
        ("retries: 12", "retries: [12]"),
        ("service_healthy", "healthy"),
    ],
)
def test_it_would_find_a_mistake(right: str, wrong: str, tmp_path: Path) -> None:
    text = COMPOSE.read_text(encoding="utf-8")
    assert right in text
    mistaken = tmp_path / "compose.yaml"
    mistaken.write_text(text.replace(right, wrong, 1))
    assert against_compose(mistaken).returncode == 1


def of_kubernetes(path: Path) -> Iterator[dict[str, Any]]:
    """What Kubernetes itself knows of a file: its documents, and the pods of a Ray cluster."""
    for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
        if document["apiVersion"] not in OPERATORS:
            yield document
            continue
        ray = document["spec"].get("rayClusterSpec", document["spec"])
        for group in (ray["headGroupSpec"], *ray["workerGroupSpecs"]):
            template = copy.deepcopy(group["template"])
            name = {"name": group.get("groupName", "head")}
            yield {"apiVersion": "v1", "kind": "Pod", "metadata": name, **template}


@pytest.fixture
def accepted() -> Callable[[dict[str, Any]], object]:
    """Kubernetes' own check of a document; it raises."""
    checker = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    )
    return lambda document: checker.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_accepts_its_documents_and_pods(
    path: Path, accepted: Callable[[dict[str, Any]], object]
) -> None:
    found = list(of_kubernetes(path))
    assert found
    for document in found:
        accepted(document)


def test_kubernetes_would_find_a_mistake(accepted: Callable[[dict[str, Any]], object]) -> None:
    for mistake in ({"restartPolicies": "Never"}, {"terminationGracePeriodSeconds": "600"}):
        pod = next(of_kubernetes(CLUSTER / "kuberay/rayjob.yaml"))
        pod["spec"] |= mistake
        with pytest.raises(Exception, match=next(iter(mistake))):
            accepted(pod)


def test_prometheus_accepts_its_config(tmp_path: Path) -> None:
    tool = shutil.which("promtool") or pytest.skip("Prometheus is not installed")
    config = CLUSTER / "monitoring/prometheus.yaml"
    mistaken = tmp_path / "prometheus.yaml"
    mistaken.write_text(config.read_text(encoding="utf-8").replace("file_sd", "files_sd"))
    for file, code in ((config, 0), (mistaken, 1)):
        done = subprocess.run(
            [tool, "check", "config", str(file)], capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr


def test_grafana_knows_every_field_of_the_dashboard() -> None:
    """Its types leave out what they do not know, and fill in what is not said."""
    models = pytest.importorskip(
        "grafana_foundation_sdk.models.dashboard", reason="grafana-foundation-sdk is not installed"
    )
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins

    register_default_plugins()
    given = json.loads((CLUSTER / "monitoring/grafana_dashboard.json").read_text(encoding="utf-8"))

    def lost(dashboard: Any) -> list[str]:
        read = models.Dashboard.from_json(dashboard)
        return missing(dashboard, json.loads(JSONEncoder().encode(read)))

    assert lost(given) == []
    given["panels"][0]["fieldConfig"]["default"] = {}
    assert lost(given) == [".panels[0].fieldConfig.default"]


def missing(given: Any, read: Any, path: str = "") -> list[str]:
    """The places of what is given and not read, or read as something else."""
    if isinstance(given, dict) and isinstance(read, dict):
        pairs = [(f"{path}.{name}", one, read.get(name)) for name, one in given.items()]
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        both = zip(given, read, strict=True)
        pairs = [(f"{path}[{i}]", one, other) for i, (one, other) in enumerate(both)]
    else:
        return [] if given == read else [path]
    return [place for where, one, other in pairs for place in missing(one, other, where)]

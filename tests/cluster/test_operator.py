"""KubeRay's operator would accept the files of cluster/kuberay/, their options included.

The rules are those by which KubeRay's main branch of August 2026 refuses a RayJob or RayCluster, as
far as they concern fields that are in use here or that people add: their names, sizes, ends, and
how a job is submitted. `problems` (shapes.py) checks beside this that each field exists.
"""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

KUBERAY = Path(__file__).parents[2] / "cluster/kuberay"
FILES = sorted(KUBERAY.glob("ray*.yaml"))
LONGEST_CLUSTER = 53  # a pod's name begins with it
LONGEST_JOB = LONGEST_CLUSTER - 6  # the name of its cluster has five more letters and a hyphen
MODES = {"K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"}
ALONE = {"num-cpus", "num-gpus", "memory", "resources"}  # in rayStartParams, or as `resources`


def refusals(document: dict[str, Any]) -> list[str]:
    """Why the operator refuses a document: nothing if it accepts it."""
    name, spec = document["metadata"]["name"], document["spec"]
    longest = LONGEST_JOB if document["kind"] == "RayJob" else LONGEST_CLUSTER
    found = [] if len(name) <= longest else [f"name: more than {longest} characters"]
    if not re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name):
        found.append("name: no label of RFC 1035")
    if document["kind"] == "RayCluster":
        return [*found, *of_cluster(spec)]
    return [*found, *of_job(spec), *of_cluster(spec.get("rayClusterSpec"), made_for_a_job=True)]


def of_job(spec: dict[str, Any]) -> Iterator[str]:
    """How it is submitted, tried again and removed."""
    mode, retries = spec.get("submissionMode", "K8sJobMode"), spec.get("backoffLimit", 0)
    removed, after = spec.get("shutdownAfterJobFinishes"), spec.get("ttlSecondsAfterFinished", 0)
    selector, strategy = spec.get("clusterSelector"), spec.get("deletionStrategy")
    head = (spec.get("rayClusterSpec") or {}).get("headGroupSpec", {"template": {"spec": {}}})
    rules = {
        "suspend: without shutdownAfterJobFinishes": spec.get("suspend") and not removed,
        "ttlSecondsAfterFinished: negative": after < 0,
        "ttlSecondsAfterFinished: without shutdownAfterJobFinishes": after > 0 and not removed,
        "rayClusterSpec: neither it nor clusterSelector": not selector
        and "rayClusterSpec" not in spec,
        "clusterSelector: names no ray.io/cluster": selector and not selector.get("ray.io/cluster"),
        "clusterSelector: with suspend": selector and spec.get("suspend"),
        "clusterSelector: with SidecarMode": selector and mode == "SidecarMode",
        "clusterSelector: with backoffLimit": selector and retries > 0,
        "submissionMode: unknown": mode not in MODES,
        "InteractiveMode: with backoffLimit": mode == "InteractiveMode" and retries > 0,
        "SidecarMode: with a submitter": mode == "SidecarMode"
        and {"submitterPodTemplate", "submitterConfig"} & spec.keys(),
        "SidecarMode: the head may start again": mode == "SidecarMode"
        and head["template"]["spec"].get("restartPolicy", "Never") != "Never",
        "backoffLimit: negative": retries < 0,
        "activeDeadlineSeconds: not positive": spec.get("activeDeadlineSeconds", 1) <= 0,
        "preRunningDeadlineSeconds: not positive": spec.get("preRunningDeadlineSeconds", 1) <= 0,
        "deletionRules: with shutdownAfterJobFinishes": removed
        and (strategy or {}).get("deletionRules"),
        "runtimeEnvYAML: no mapping": not isinstance(
            yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict
        ),
    }
    yield from (rule for rule, broken in rules.items() if broken)


def of_cluster(ray: dict[str, Any] | None, *, made_for_a_job: bool = False) -> Iterator[str]:
    """Its groups, its autoscaler and its token."""
    if ray is None:
        return
    grows, options = ray.get("enableInTreeAutoscaling", False), ray.get("autoscalerOptions", {})
    version = tuple(map(int, ray.get("rayVersion", "0").split(".")))
    token = ray.get("authOptions", {}).get("mode") == "token"
    second = grows and options.get("version") == "v2"
    rules = {
        "upgradeStrategy: of a job's cluster": made_for_a_job and "upgradeStrategy" in ray,
        "authOptions: needs rayVersion 2.52 or newer": token and version < (2, 52),
        "idleTimeoutSeconds: negative": options.get("idleTimeoutSeconds", 0) < 0,
        "autoscaler v2: without enableInTreeAutoscaling": not grows
        and variable(ray, "RAY_enable_autoscaler_v2") in ("1", "true"),
        "autoscaler v2: both as version and as variable": "version" in options
        and variable(ray, "RAY_enable_autoscaler_v2") is not None,
        "RAY_REDIS_ADDRESS: without gcsFaultToleranceOptions": "gcsFaultToleranceOptions" not in ray
        and variable(ray, "RAY_REDIS_ADDRESS") is not None,
    }
    yield from (rule for rule, broken in rules.items() if broken)
    yield from of_group(ray["headGroupSpec"], "head", never_again=second)
    for group in ray.get("workerGroupSpecs", []):
        yield from of_group(group, group["groupName"], never_again=second)
        yield from of_size(group, grows=grows, second=second)


def of_group(group: dict[str, Any], name: str, *, never_again: bool) -> Iterator[str]:
    """The pods of a group."""
    pod, parameters = group["template"]["spec"], group.get("rayStartParams", {})
    rules = {
        "no container": not pod.get("containers"),
        "resources twice": ALONE & parameters.keys() and group.get("resources"),
        "labels among rayStartParams": "labels" in parameters,
        "starts again under autoscaler v2": never_again
        and pod.get("restartPolicy", "Never") != "Never",
    }
    yield from (f"{name}: {rule}" for rule, broken in rules.items() if broken)


def of_size(group: dict[str, Any], *, grows: bool, second: bool) -> Iterator[str]:
    """How many workers a group has."""
    least, most = group.get("minReplicas"), group.get("maxReplicas")
    rules = {
        "minReplicas and maxReplicas are needed": not grows and None in (least, most),
        "negative replicas": min(least or 0, most or 0) < 0,
        "minReplicas above maxReplicas": None not in (least, most) and least > most,
        "suspended while it may grow": grows and group.get("suspend"),
        "idleTimeoutSeconds without autoscaler v2": "idleTimeoutSeconds" in group and not second,
    }
    yield from (f"{group['groupName']}: {rule}" for rule, broken in rules.items() if broken)


def variable(ray: dict[str, Any], name: str) -> str | None:
    """A variable in the environment of the head."""
    containers = ray["headGroupSpec"]["template"]["spec"].get("containers") or [{}]
    values = [one["value"] for one in containers[0].get("env", []) if one["name"] == name]
    return values[0] if values else None


def read(path: Path, *, options: bool = False) -> dict[str, Any]:
    """The document of a file; with options, the lines that begin with # and no space count too."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"^( *)#(?! )", r"\1", text, flags=re.M) if options else text
    document: dict[str, Any] = yaml.safe_load(text)
    return document


@pytest.mark.parametrize("options", [False, True])
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_operator_accepts_it(path: Path, options: bool) -> None:
    document = read(path, options=options)
    assert refusals(document) == []
    ray = document["spec"].get("rayClusterSpec", document["spec"])
    for group in ray["workerGroupSpecs"]:
        # It accepts others, and then has fewer or more nodes than the file says.
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    grows = any(group["maxReplicas"] > group["minReplicas"] for group in ray["workerGroupSpecs"])
    assert grows == ray.get("enableInTreeAutoscaling", False)
    assert ("autoscalerOptions" in ray) == grows


SELECTED = {"clusterSelector": {"ray.io/cluster": "dpot-scale"}}
INTERACTIVE = {"submissionMode": "InteractiveMode", "backoffLimit": 1}


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"shutdownAfterJobFinishes": False}, "ttlSecondsAfterFinished: without shutdown"),
        ({"ttlSecondsAfterFinished": -1}, "ttlSecondsAfterFinished: negative"),
        (
            {"ttlSecondsAfterFinished": 0, "suspend": True, "shutdownAfterJobFinishes": False},
            "suspend: without shutdownAfterJobFinishes",
        ),
        ({"rayClusterSpec": ...}, "rayClusterSpec: neither it nor clusterSelector"),
        ({"clusterSelector": {"name": "x"}}, "clusterSelector: names no ray.io/cluster"),
        (SELECTED | {"suspend": True}, "clusterSelector: with suspend"),
        (SELECTED | {"backoffLimit": 2}, "clusterSelector: with backoffLimit"),
        (SELECTED | {"submissionMode": "SidecarMode"}, "clusterSelector: with SidecarMode"),
        ({"submissionMode": "Kubernetes"}, "submissionMode: unknown"),
        (INTERACTIVE, "InteractiveMode: with backoffLimit"),
        (
            {"submissionMode": "SidecarMode", "submitterPodTemplate": {}},
            "SidecarMode: with a submitter",
        ),
        ({"backoffLimit": -1}, "backoffLimit: negative"),
        ({"activeDeadlineSeconds": 0}, "activeDeadlineSeconds: not positive"),
        ({"preRunningDeadlineSeconds": 0}, "preRunningDeadlineSeconds: not positive"),
        ({"deletionStrategy": {"deletionRules": [{}]}}, "deletionRules: with shutdown"),
        ({"runtimeEnvYAML": "- a list"}, "runtimeEnvYAML: no mapping"),
    ],
)
def test_a_job_that_the_operator_refuses_is_found(changes: dict[str, Any], reason: str) -> None:
    job = read(KUBERAY / "rayjob.yaml")
    spec = {name: value for name, value in (job["spec"] | changes).items() if value is not ...}
    assert [one for one in refusals(job | {"spec": spec}) if one.startswith(reason)]


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ("rayVersion", "2.51.0", "authOptions: needs rayVersion 2.52 or newer"),
        ("enableInTreeAutoscaling", False, "autoscaler v2: without enableInTreeAutoscaling"),
        ("autoscalerOptions.version", "v2", "autoscaler v2: both as version and as variable"),
        ("autoscalerOptions.idleTimeoutSeconds", -1, "idleTimeoutSeconds: negative"),
        ("headGroupSpec.template.spec.containers", [], "head: no container"),
        ("headGroupSpec.template.spec.restartPolicy", "Always", "head: starts again under"),
        ("headGroupSpec.resources", {"cpu": "4"}, "head: resources twice"),
        ("workerGroupSpecs.0.rayStartParams.labels", "a=b", "gpu: labels among rayStartParams"),
        ("workerGroupSpecs.0.minReplicas", 9, "gpu: minReplicas above maxReplicas"),
        ("workerGroupSpecs.0.minReplicas", -1, "gpu: negative replicas"),
        ("workerGroupSpecs.0.suspend", True, "gpu: suspended while it may grow"),
    ],
)
def test_a_cluster_that_the_operator_refuses_is_found(place: str, value: Any, reason: str) -> None:
    cluster = copy.deepcopy(read(KUBERAY / "raycluster_autoscaling.yaml"))
    if reason.startswith("autoscaler v2"):
        (container,) = cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
        container["env"] = [{"name": "RAY_enable_autoscaler_v2", "value": "1"}]
    *folders, last = place.split(".")
    target = cluster["spec"]
    for folder in folders:
        target = target[int(folder) if folder.isdigit() else folder]
    target[last] = value
    assert [one for one in refusals(cluster) if one.startswith(reason)]


def test_a_name_that_leaves_no_room_for_those_of_pods_is_found() -> None:
    job = read(KUBERAY / "rayjob.yaml")
    assert refusals(job | {"metadata": {"name": "x" * 48}}) == ["name: more than 47 characters"]
    assert refusals(job | {"metadata": {"name": "1x"}}) == ["name: no label of RFC 1035"]

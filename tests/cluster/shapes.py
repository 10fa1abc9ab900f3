"""The fields of Kubernetes, KubeRay and Compose that cluster/ uses, and a strict check of them.

A shape is a type, a list with the shape of its items, or a dict of fields; a field that ends in `!`
is required, and `*` is any name. What a shape does not name is refused, so a misspelt field is
found here and not ignored by a server.
"""

import re
from typing import Any

Shape = Any
QUANTITY = re.compile(r"\d+(m|Mi|Gi|Ti)?")


def problems(value: Any, shape: Shape, path: str = "") -> list[str]:
    """What is wrong with a value, as `path: sentence`."""
    match shape:
        case dict():
            return _of_fields(value, shape, path)
        case list():
            if not isinstance(value, list):
                return [f"{path}: is no list"]
            found = (problems(item, shape[0], f"{path}[{i}]") for i, item in enumerate(value))
            return [problem for one in found for problem in one]
        case set():
            return [] if value in shape else [f"{path}: {value!r} is none of {sorted(shape)}"]
        case re.Pattern():
            text = value if isinstance(value, str) else ""
            return [] if shape.fullmatch(text) else [f"{path}: {value!r} is malformed"]
        case type():
            return [] if type(value) is shape else [f"{path}: {value!r} is no {shape.__name__}"]
    raise AssertionError(shape)


def _of_fields(value: Any, shape: dict[str, Shape], path: str) -> list[str]:
    if not isinstance(value, dict):
        return [f"{path}: is no mapping"]
    fields = {name.removesuffix("!"): inner for name, inner in shape.items()}
    required = {name.removesuffix("!") for name in shape if name.endswith("!")}
    found = [f"{path}.{name}: is missing" for name in sorted(required - value.keys())]
    for name, item in value.items():
        inner = fields.get(name, fields.get("*"))
        if inner is None:
            found.append(f"{path}.{name}: is unknown")
        else:
            found += problems(item, inner, f"{path}.{name}")
    return found


LABEL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")  # RFC 1035
LABELS = {"*": str}
METADATA = {"name!": LABEL, "labels": LABELS}
KEY = {"name!": LABEL, "key!": str}
RESOURCES = {
    "cpu": QUANTITY,
    "memory": QUANTITY,
    "nvidia.com/gpu": QUANTITY,
    "rdma/ib": QUANTITY,
    "vpc.amazonaws.com/efa": QUANTITY,
}
PROBE = {
    "httpGet": {"path!": str, "port!": int},
    "exec": {"command!": [str]},
    "periodSeconds": int,
    "failureThreshold": int,
}
CONTAINER = {
    "name!": LABEL,
    "image!": re.compile(r"[\w./-]+:[\w.-]+"),
    "command": [str],
    "args": [str],
    "env": [{"name!": str, "value": str, "valueFrom": {"secretKeyRef!": KEY}}],
    "ports": [{"name!": LABEL, "containerPort!": int}],
    "resources!": {"requests!": RESOURCES, "limits!": RESOURCES},
    "securityContext!": {
        "allowPrivilegeEscalation!": bool,
        "capabilities!": {"drop!": [str]},
    },
    "volumeMounts": [{"name!": LABEL, "mountPath!": str, "subPath": str}],
    "readinessProbe": PROBE,
    "livenessProbe": PROBE,
}
POD = {
    "metadata": {"labels": LABELS},
    "spec!": {
        "restartPolicy": {"Never"},
        "terminationGracePeriodSeconds": int,
        "securityContext!": {
            "runAsNonRoot!": bool,
            "runAsUser!": int,
            "fsGroup!": int,
            "fsGroupChangePolicy!": {"OnRootMismatch"},
            "seccompProfile!": {"type!": {"RuntimeDefault"}},
        },
        "imagePullSecrets": [{"name!": LABEL}],
        "runtimeClassName": LABEL,
        "tolerations": [{"key!": str, "operator!": {"Exists"}, "effect!": {"NoSchedule"}}],
        "hostNetwork": bool,
        "dnsPolicy": {"ClusterFirstWithHostNet"},
        "initContainers": [CONTAINER],
        "containers!": [CONTAINER],
        "volumes": [
            {
                "name!": LABEL,
                "persistentVolumeClaim": {"claimName!": LABEL},
                "emptyDir": {"medium": {"Memory"}, "sizeLimit!": QUANTITY},
                "configMap": {"name!": LABEL},
            }
        ],
    },
}
PARAMETERS = {"num-cpus": str, "dashboard-host": str, "metrics-export-port": str}
RAY_CLUSTER = {
    "rayVersion!": re.compile(r"\d+\.\d+\.\d+"),
    "authOptions!": {"mode!": {"token"}},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version!": {"v2"},
        "idleTimeoutSeconds": int,
        "resources!": {"requests!": RESOURCES, "limits!": RESOURCES},
    },
    "headGroupSpec!": {"rayStartParams!": PARAMETERS, "template!": POD},
    "workerGroupSpecs!": [
        {
            "groupName!": LABEL,
            "replicas!": int,
            "minReplicas!": int,
            "maxReplicas!": int,
            "rayStartParams!": PARAMETERS,
            "template!": POD,
        }
    ],
}
CLAIM = {
    "accessModes!": [{"ReadWriteOnce", "ReadWriteMany"}],
    "storageClassName": str,
    "resources!": {"requests!": {"storage!": QUANTITY}},
}
SELECTOR = {"matchLabels!": LABELS}
RULES = {"matchExpressions!": [{"key!": str, "operator!": {"In"}, "values!": [str]}]}
STATEFUL = {
    "serviceName!": LABEL,
    "replicas!": int,
    "selector!": SELECTOR,
    "template!": POD,
    "volumeClaimTemplates!": [{"metadata!": METADATA, "spec!": CLAIM}],
}
SPECS = {
    ("ray.io/v1", "RayCluster"): RAY_CLUSTER,
    ("ray.io/v1", "RayJob"): {
        "entrypoint!": str,
        "backoffLimit!": int,
        "shutdownAfterJobFinishes": bool,
        "ttlSecondsAfterFinished": int,
        "runtimeEnvYAML": str,
        "rayClusterSpec!": RAY_CLUSTER,
    },
    ("v1", "PersistentVolumeClaim"): CLAIM,
    ("v1", "Service"): {
        "selector!": LABELS,
        "ports!": [{"name!": LABEL, "port!": int, "targetPort!": int}],
    },
    ("batch/v1", "Job"): {"backoffLimit!": int, "template!": POD},
    ("apps/v1", "Deployment"): {"replicas!": int, "selector!": SELECTOR, "template!": POD},
    ("apps/v1", "StatefulSet"): STATEFUL,
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector!": RULES,
        "policyTypes!": [{"Ingress", "Egress"}],
        "ingress!": [{"from!": [{"podSelector!": SELECTOR}]}],
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "selector!": SELECTOR,
        "podMetricsEndpoints!": [{"port!": LABEL, "interval!": str}],
    },
}


def of_kind(document: dict[str, Any]) -> Shape:
    """The shape of a Kubernetes document, by its version and kind."""
    spec = SPECS[document["apiVersion"], document["kind"]]
    return {"apiVersion!": str, "kind!": str, "metadata!": METADATA, "spec!": spec}


SERVICE = {
    "image": re.compile(r"[\w./-]+:[\w.-]+"),
    "build": {"context!": str, "dockerfile!": str},
    "restart!": {"unless-stopped"},
    "command": [str],
    "environment!": {"*": str},
    "ports": [re.compile(r"127\.0\.0\.1:\d+:\d+")],
    "volumes": [re.compile(r"[\w./-]+:/[\w./-]+(:ro)?")],
    "depends_on": {"*": {"condition!": {"service_healthy"}}},
    "healthcheck!": {"test!": [str], "interval!": str, "timeout!": str, "retries!": int},
    "read_only": bool,
    "tmpfs": [str],
    "cap_drop": [str],
    "security_opt": [str],
}
COMPOSE = {"name!": LABEL, "services!": {"*": SERVICE}, "volumes!": {"*": type(None)}}

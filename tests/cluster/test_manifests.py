"""The files of cluster/ for Kubernetes, Compose, images and Ray's launcher, without a cluster.

Their form by strict shapes and by the tools themselves, and what they mean: sizes, versions, names
of hosts, users and secrets agree with the code and with each other.
"""

import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import pytest
import yaml
from fsspec.registry import known_implementations
from mlflow.server.security_utils import is_allowed_host_header
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from dpot_scale.config.load import load_sweep

shapes = SourceFileLoader("shapes", str(Path(__file__).with_name("shapes.py"))).load_module()
problems, of_kind = shapes.problems, shapes.of_kind

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERNETES = [*CLUSTER.glob("kuberay/*.yaml"), CLUSTER / "mlflow/kubernetes.yaml"]
KUBERNETES += [CLUSTER / "monitoring/podmonitor.yaml"]
LAUNCHERS = sorted(CLUSTER.glob("ray_cluster*.yaml"))
DOCKERFILES = [CLUSTER / "Dockerfile", CLUSTER / "mlflow/Dockerfile"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY")


def documents(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def rays(path: Path) -> dict[str, Any]:
    """The cluster of a file of KubeRay."""
    (document,) = documents(path)
    spec: dict[str, Any] = document["spec"]
    return spec.get("rayClusterSpec", spec)


def pods(path: Path) -> Iterator[dict[str, Any]]:
    for document in documents(path):
        spec = document["spec"].get("rayClusterSpec", document["spec"])
        groups = [spec.get("headGroupSpec"), *spec.get("workerGroupSpecs", []), spec]
        yield from (one["template"]["spec"] for one in groups if one and "template" in one)


RAY_FILES = sorted(path for path in CLUSTER.glob("kuberay/ray*.yaml"))
COMPOSE_FILE = yaml.safe_load((CLUSTER / "mlflow/compose.yaml").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", KUBERNETES, ids=lambda path: path.name)
def test_kubernetes_knows_every_field(path: Path) -> None:
    for document in documents(path):
        assert problems(document, of_kind(document)) == []


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_options_are_known_too(path: Path) -> None:
    """Lines that begin with # and no space, with the # taken away."""
    text, options = re.subn(r"^( *)#(?! )", r"\1", path.read_text(encoding="utf-8"), flags=re.M)
    assert options >= 15
    document = yaml.safe_load(text)
    assert problems(document, of_kind(document)) == []
    ray = document["spec"].get("rayClusterSpec", document["spec"])
    (group,) = ray["workerGroupSpecs"]
    for pod in (ray["headGroupSpec"]["template"]["spec"], group["template"]["spec"]):
        volumes = {one["name"] for one in pod["volumes"]}
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        # The same path on all nodes: what the driver of a sweep reads, trials read.
        assert "/data" in {mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    (copies,) = group["template"]["spec"]["initContainers"]
    home = pod["containers"][0]["env"][0]["value"]
    assert copies["command"][2:] == [f"{home}/data/.", "/data"]


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_a_pod_that_is_told_to_end_keeps_its_node_while_trials_save(path: Path) -> None:
    from ray._private import ray_constants

    name = "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"
    assert hasattr(ray_constants, name)
    for pod in pods(path):
        (container,) = pod["containers"]
        (drain,) = [int(one["value"]) for one in container["env"] if one["name"] == name]
        assert 540 <= drain < pod["terminationGracePeriodSeconds"]
    stop = re.findall(r'RAY_JOB_STOP_WAIT_TIME_S"?: "(\d+)"', path.read_text())
    assert stop == ["540"], "`ray job stop` gives them as long"


def test_datasets_are_imported_where_sweeps_seek_them(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dpot_scale import prepare

    (pod,) = pods(CLUSTER / "kuberay/data.yaml")
    (container,) = pod["containers"]
    assert container["args"][:3] == ["python", "-m", "dpot_scale.prepare"]
    asked = []
    monkeypatch.setattr(prepare, "_import", lambda options: asked.append(options) or 0)
    assert prepare.main(container["args"][3:]) == 0
    root = load_sweep("gpus").run.data.root
    assert asked[0].out == root, "both relative to DPOT_SCALE_HOME"
    for path in RAY_FILES:
        for other in pods(path):
            assert container["env"][0] in other["containers"][0]["env"]


def test_a_misspelt_field_would_be_found() -> None:
    (document,) = documents(CLUSTER / "kuberay/rayjob.yaml")
    document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["minReplica"] = "2"
    del document["spec"]["entrypoint"]
    assert problems(document, of_kind(document)) == [
        ".spec.entrypoint: is missing",
        ".spec.rayClusterSpec.workerGroupSpecs[0].minReplica: is unknown",
    ]


def test_compose_knows_every_field() -> None:
    assert problems(COMPOSE_FILE, shapes.COMPOSE) == []
    services = COMPOSE_FILE["services"]
    for name, service in services.items():
        assert ("image" in service) != ("build" in service), name
        assert set(service.get("depends_on", {})) <= services.keys()
        named = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {name for name in named if not name.startswith(".")} <= COMPOSE_FILE[
            "volumes"
        ].keys()


@pytest.mark.parametrize(
    "path", [p for p in KUBERNETES if "storage" not in p.name], ids=lambda p: p.name
)
def test_pods_run_as_an_ordinary_user_with_limits_and_mounted_volumes(path: Path) -> None:
    for pod in pods(path):
        assert pod["securityContext"]["runAsNonRoot"]
        claims = [
            c["metadata"]["name"]
            for d in documents(path)
            for c in d["spec"].get("volumeClaimTemplates", [])
        ]
        there = {volume["name"] for volume in pod.get("volumes", [])} | set(claims)
        assert pod["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch"
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"]["drop"] == ["ALL"]
            assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
            assert {mount["name"] for mount in container.get("volumeMounts", [])} <= there


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_ranks_share_memory_and_storage(path: Path) -> None:
    for pod in pods(path):
        kinds = {v["name"]: v for v in pod["volumes"]}
        (container,) = pod["containers"]
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert kinds[mounts["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert "persistentVolumeClaim" in kinds[mounts["/shared"]]
        (home,) = [one["value"] for one in container["env"] if one["name"] == "DPOT_SCALE_HOME"]
        assert home.startswith("/shared/")


def test_secrets_come_from_secrets() -> None:
    for path in KUBERNETES:
        for pod in pods(path) if "storage" not in path.name else ():
            for container in pod["containers"]:
                for one in container.get("env", []):
                    assert not (SECRET.search(one["name"]) and "value" in one), one["name"]
    for service in COMPOSE_FILE["services"].values():
        for name, value in service["environment"].items():
            if SECRET.search(name) and not name.endswith("USERNAME"):
                assert re.fullmatch(r"\$\{\w+:\?.+\}", value), name
    used = set(re.findall(r"\$\{(\w+):", (CLUSTER / "mlflow/compose.yaml").read_text()))
    example = (CLUSTER / "mlflow/env.example").read_text().splitlines()
    assert used == {line.split("=")[0] for line in example if "=" in line and line[0] != "#"}


def allowed_hosts(words: list[str]) -> list[str]:
    (hosts,) = [word.split("=")[1] for word in words if word.startswith("--allowed-hosts=")]
    return hosts.split(",")


def test_mlflow_lets_in_who_comes_by_the_name_that_runs_use() -> None:
    """It refuses unknown names with 403, and still answers /health."""
    (deployment,) = [
        d for d in documents(CLUSTER / "mlflow/kubernetes.yaml") if d["kind"] == "Deployment"
    ]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    (job,) = documents(CLUSTER / "kuberay/rayjob.yaml")
    uri = re.search(r"mlflow_uri=http://(\S+)", job["spec"]["entrypoint"])
    assert uri is not None
    assert is_allowed_host_header(allowed_hosts(container["args"]), uri[1])
    names = {
        d["metadata"]["name"]: d
        for d in documents(CLUSTER / "mlflow/kubernetes.yaml")
        if d["kind"] == "Service"
    }
    host, port = uri[1].split(":")
    assert names[host]["spec"]["ports"][0]["port"] == int(port)
    for local in ("localhost:5000", "127.0.0.1:5000"):
        assert is_allowed_host_header(
            allowed_hosts(COMPOSE_FILE["services"]["mlflow"]["command"]), local
        )
        assert is_allowed_host_header(allowed_hosts(container["args"]), local)


def test_services_lead_to_pods() -> None:
    found = documents(CLUSTER / "mlflow/kubernetes.yaml")
    for service in (one for one in found if one["kind"] == "Service"):
        (owner,) = [
            d
            for d in found
            if d["kind"] in ("Deployment", "StatefulSet")
            and d["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
        ]
        assert owner["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
        (container,) = owner["spec"]["template"]["spec"]["containers"]
        ports = {one["containerPort"] for one in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    options = [
        word for word in COMPOSE_FILE["services"]["mlflow"]["command"] if "hosts" not in word
    ]
    (deployment,) = [d for d in found if d["kind"] == "Deployment"]
    args = deployment["spec"]["template"]["spec"]["containers"][0]["args"]
    assert set(options) <= set(args), "compose and Kubernetes start the same server"


# Versions.


CONSTRAINTS = (CLUSTER / "constraints.txt").read_text(encoding="utf-8").splitlines()
PINNED = {one.name: one for one in map(Requirement, (c for c in CONSTRAINTS if c[0] != "#"))}
VERSIONS = {name: str(one.specifier).removeprefix("==") for name, one in PINNED.items()}
SERVER = (CLUSTER / "mlflow/requirements.txt").read_text(encoding="utf-8").splitlines()
(EXTRAS,) = re.findall(
    r'"/opt/dpot_scale\[([\w,]+)\]"', (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
)
OF_EXTRAS = [one for extra in EXTRAS.split(",") for one in PROJECT["optional-dependencies"][extra]]
IMAGES = [*PROJECT["dependencies"], *OF_EXTRAS, *SERVER]


def test_images_hold_the_versions_that_the_package_asks_for() -> None:
    assert all(re.fullmatch(r"==\d[\w.]*", str(one.specifier)) for one in PINNED.values())
    for wanted in map(Requirement, IMAGES):
        assert VERSIONS[canonicalize_name(wanted.name)] in wanted.specifier, wanted.name
    assert VERSIONS["ray"] == version("ray")
    for path in RAY_FILES:
        assert rays(path)["rayVersion"] == VERSIONS["ray"]


def test_images_hold_the_versions_of_all_that_is_installed_in_turn() -> None:
    """As far as the packages of this environment say what they need themselves."""
    asked = [Requirement(one) for one in IMAGES]
    seen: set[tuple[str, str]] = set()
    python = {"python_version": "3.12", "python_full_version": "3.12.13"}
    while asked:
        one = asked.pop()
        name = canonicalize_name(one.name)
        assert name in VERSIONS, f"{one}: run the command at the top of cluster/constraints.txt"
        assert one.specifier.contains(VERSIONS[name], prereleases=True), one
        for extra in {"", *one.extras} - {e for n, e in seen if n == name}:
            seen.add((name, extra))
            with suppress(PackageNotFoundError):
                needed = map(Requirement, requires(name) or [])
                where = python | {"extra": extra}
                asked += [n for n in needed if n.marker is None or n.marker.evaluate(where)]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_images_install_nothing_but_these_versions(path: Path) -> None:
    text = re.sub(r"\\\n", "", path.read_text(encoding="utf-8"))
    installs = re.findall(r"pip install (.+)", text)
    assert installs
    assert all("--constraint /opt/constraints.txt " in one for one in installs)
    assert "==" not in text, "constraints.txt owns the versions"
    assert re.search(r"^COPY cluster/constraints.txt .*/opt/", text, re.M)
    (python,) = re.findall(
        r"^FROM python:(\d+\.\d+)\.\d+-slim-\w+@sha256:[0-9a-f]{64}$", text, re.M
    )
    assert f"--python-version {python} " in CONSTRAINTS[1]


def test_the_image_reads_each_kind_of_archive_that_a_command_names() -> None:
    pages = [*(CLUSTER.parent / "docs").rglob("*.md"), *CLUSTER.rglob("*.*")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    kinds = set(re.findall(r"checkpoint\.archive=(\w+)://", text))
    assert "s3" in kinds
    known = {kind: known_implementations[kind]["class"].partition(".")[0] for kind in kinds}
    assert set(known.values()) - {"fsspec"} <= {Requirement(one).name for one in OF_EXTRAS}
    for extra in EXTRAS.split(","):
        assert f" --extra {extra} " in CONSTRAINTS[1]


def test_the_server_has_the_driver_of_its_database() -> None:
    """Named in full: which one `postgresql://` means depends on the version of SQLAlchemy."""
    for file in ("compose.yaml", "kubernetes.yaml", "basic_auth.ini"):
        found = re.findall(r"postgresql\S*://", (CLUSTER / "mlflow" / file).read_text())
        assert set(found) == {"postgresql+psycopg://"}
    assert "psycopg[binary]" in SERVER


def test_images_are_those_that_the_dockerfiles_make_or_pinned() -> None:
    ours = {
        f"REGISTRY/dpot_scale:{PROJECT['version']}-cuda",
        f"REGISTRY/dpot_scale-mlflow:{VERSIONS['mlflow']}",
    }
    text = "".join(path.read_text() for path in DOCKERFILES)
    assert all(f"-t {image} " in text for image in ours)
    images = {
        c["image"]
        for path in KUBERNETES
        if "storage" not in path.name
        for pod in pods(path)
        for c in pod["containers"]
    }
    images |= {one["image"] for one in COMPOSE_FILE["services"].values() if "image" in one}
    for image in images:
        assert image in ours or re.search(r":v?\d+\.\d+", image), image
    for path in DOCKERFILES:
        assert re.search(r"^USER 1000$", path.read_text(), re.M)


def test_the_image_gets_all_that_an_installation_needs() -> None:
    left_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.M)
    copied = [
        re.findall(r"^COPY (?:--chmod=\d+ )?(.+) \S+$", p.read_text(), re.M) for p in DOCKERFILES
    ]
    named = {file for lines in copied for line in lines for file in line.split()} - {"."}
    needed = named | {
        "dpot_scale",
        "deepspeed_configs",
        "pyproject.toml",
        PROJECT["readme"],
        *PROJECT["license-files"],
    }
    assert set(left_in) == needed


def test_the_user_of_an_image_may_read_what_its_programs_read() -> None:
    """COPY keeps the modes of a clone, which umask 077 makes readable by their owner alone.

    An installation reads as root what lies in /opt, and gives its own files modes of their own.
    """
    copied = [c for p in DOCKERFILES for c in re.findall(r"^COPY (.+) (\S+)$", p.read_text(), re.M)]
    read_later = [files for files, place in copied if not place.startswith("/opt/")]
    assert read_later
    assert all(files.startswith("--chmod=0644 ") for files in read_later)


def test_an_image_gets_no_file_that_hides_such_as_env() -> None:
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    assert rules[-1] == "**/.*"  # the last rule that fits a file decides


def test_a_job_uploads_the_package_and_configs_and_no_tests_data_or_secrets() -> None:
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

    rules = get_excludes_from_ignore_files(ROOT, include_gitignore=True)

    def uploads(name: str) -> bool:
        return not any(leaves_out(ROOT / name) for leaves_out in rules)

    assert all(
        map(uploads, ["dpot_scale/train.py", "deepspeed_configs/zero3_bf16.json", "my.yaml"])
    )
    for name in (
        "tests/test_sweep.py",
        "runs/a",
        "data/a.h5",
        "cluster/mlflow/.env",
        "model_L.pth",
    ):
        assert not uploads(name), name


# Sizes.


def sweep_workers(text: str) -> tuple[int, int]:
    """The workers of a trial of the preset that a command names, and the cores of each."""
    found = re.search(r"dpot_scale\.sweep run --config (\w+)", text)
    assert found is not None
    resources = load_sweep(found[1]).resources
    assert resources.gpus_per_worker == 1
    return resources.workers, resources.cpus_per_worker


@pytest.mark.parametrize("path", RAY_FILES, ids=lambda path: path.name)
def test_the_nodes_have_the_gpus_and_cores_of_one_trial(path: Path) -> None:
    workers, cores = sweep_workers(path.read_text())
    (group,) = rays(path)["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = int(limits["nvidia.com/gpu"])
    assert group["replicas"] * gpus == group["minReplicas"] * gpus == workers
    assert int(limits["cpu"]) >= gpus * cores
    assert rays(path)["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize(
    "path", [p for p in LAUNCHERS if p.stem != "ray_cluster"], ids=lambda p: p.name
)
def test_the_nodes_of_a_cloud_have_them_too(path: Path) -> None:
    workers, cores = sweep_workers(path.read_text().replace("\\\n#", ""))
    gpu = yaml.safe_load(path.read_text())["available_node_types"]["gpu"]
    assert gpu["min_workers"] * gpu["resources"]["GPU"] == workers
    assert gpu["resources"]["CPU"] >= gpu["resources"]["GPU"] * cores


# Tools.


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_rays_launcher_accepts_it(path: Path) -> None:
    from ray.autoscaler._private import util

    config = util.prepare_config(yaml.safe_load(path.read_text()))
    util.validate_config(config)
    text = path.read_text()
    assert text.count("RAY_AUTH_MODE=token") == 2, "head and workers ask for the token"
    assert "--dashboard-host=127.0.0.1" in text
    starting = [one for one in text.splitlines() if " ray start" in one or "/ray start" in one]
    assert len(starting) == 2
    for line in starting:
        assert "DPOT_SCALE_HOME=/shared/results " in line
        assert "~/venv/bin/ray start" in line
        # Programs that jobs start are those of the environment, too.
        assert "PATH=$HOME/venv/bin:$PATH" in line or "'export PATH=$HOME/venv/bin:$PATH" in text
    assert "~/.ray/auth_token" in config["file_mounts"]


@pytest.mark.parametrize("cloud", ["aws", "gcp"])
def test_the_user_of_a_cloud_may_write_where_results_go(cloud: str) -> None:
    config = yaml.safe_load((CLUSTER / f"ray_cluster_{cloud}.yaml").read_text())
    mounts, gives = config["initialization_commands"]
    assert "/shared" in mounts
    assert gives == f"sudo install -d -o {config['auth']['ssh_user']} /shared/results"


def test_disks_on_gcp_are_of_a_kind_that_its_gpus_take() -> None:
    config = yaml.safe_load((CLUSTER / "ray_cluster_gcp.yaml").read_text())
    zone = config["provider"]["availability_zone"]
    for node in config["available_node_types"].values():
        (disk,) = node["node_config"]["disks"]
        assert disk["initializeParams"]["diskType"] == f"zones/{zone}/diskTypes/pd-balanced"


def starts(text: str) -> Iterator[list[str]]:
    """The options of every `ray start` in a text."""
    for found in re.findall(r"ray start ([^\n]+)", text.replace("\\\n", " ")):
        yield re.findall(r"--[\w-]+", found)


def test_every_option_of_ray_start_exists() -> None:
    from ray.scripts.scripts import start

    known = {option for parameter in start.params for option in parameter.opts}
    files = [*LAUNCHERS, *CLUSTER.glob("slurm/*.sbatch"), ROOT / "docs" / "cluster.md"]
    found = [options for path in files for options in starts(path.read_text(encoding="utf-8"))]
    assert len(found) >= 8
    for options in found:
        assert set(options) <= known
    for path in RAY_FILES:
        for group in (rays(path)["headGroupSpec"], *rays(path)["workerGroupSpecs"]):
            assert {f"--{name}" for name in group["rayStartParams"]} <= known


def test_symmetric_run_gives_all_nodes_options_that_all_of_them_take() -> None:
    """It starts the head and the others by the same ones; `ray start` refuses some on either."""
    from ray.scripts.scripts import start

    text = (CLUSTER / "slurm" / "symmetric_run.sbatch").read_text().replace("\\\n", " ")
    (given,) = re.findall(r"^\S*srun .*ray symmetric-run (.+?) -- ", text, re.M)
    options = set(re.findall(r"--[\w-]+", given))
    options -= {"--address", "--min-nodes"}  # its own
    assert options <= {option for parameter in start.params for option in parameter.opts}
    of_the_head = {"--head", "--port", "--redis-shard-ports", "--include-dashboard"}
    assert not options & (of_the_head | {"--node-ip-address", "--block"})


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: str(path.relative_to(CLUSTER)))
def test_hadolint_has_no_warning(path: Path) -> None:
    tool = shutil.which("hadolint") or pytest.skip("hadolint is not installed")
    done = subprocess.run(
        [tool, "--failure-threshold", "warning", str(path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("slurm/*.sbatch")), ids=lambda path: path.name)
def test_shells_accept_the_scripts(path: Path) -> None:
    subprocess.run(["bash", "-n", str(path)], check=True)


@pytest.mark.parametrize("path", sorted(CLUSTER.glob("slurm/*.sbatch")), ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    tool = shutil.which("shellcheck")
    if tool is None:
        pytest.skip("shellcheck is not installed")
    done = subprocess.run([tool, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "path",
    [
        p
        for p in CLUSTER.rglob("*")
        if p.suffix in {".yaml", ".sbatch", ".example"} or p.name in {"Dockerfile", "hostfile"}
    ],
    ids=lambda p: str(p.relative_to(CLUSTER)),
)
def test_a_file_says_at_its_top_what_to_replace_and_how_to_run_it(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    top = "\n".join(line for line in lines if line.startswith("#"))
    assert lines[0].startswith("#")
    if "replace" in path.read_text(encoding="utf-8") or "REGISTRY" in path.read_text():
        assert "replace" in top.lower()
    assert re.search(
        r"kubectl|docker|ray up|sbatch |deepspeed|prometheus --config|compose\.yaml", top
    )

"""Checks that one process makes on its machine, before any rank is started."""

import contextlib
import fcntl
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from dpot_scale.config.engine import ACCELERATOR
from dpot_scale.config.run import RunConfig
from dpot_scale.data.datasets import MOST_FILES, allowed_files
from dpot_scale.data.store.dataset import open_store, stored_names
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.engine.operators import HOW_TO_COMPILE, build_path, python_header
from dpot_scale.engine.runtime import ranks_of_node, trains_on_gpu
from dpot_scale.errors import DataError, MachineError
from dpot_scale.files import NO_LOCKS
from dpot_scale.models.families import family_of
from dpot_scale.runs.agreement import code_digest

GIB = 2**30
SHARED_MEMORY = Path("/dev/shm")
SHARED_BYTES = 66 * 2**20  # of each rank on CPUs: DeepSpeed's buffers; NCCL needs about as much
PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "numpy")
# Of DeepSpeed's operators, and of the kernels of Triton: by the variable that chooses one.
COMPILERS = {"CXX": ("c++", "g++", "clang++"), "CC": ("gcc", "clang")}
# Who takes a port unless told another, and what to do where it is taken.
PORTS = {
    29500: "another training runs here: start yours with `deepspeed --master_port N ...`",
    6379: "a head of Ray or a Redis runs here: join that head, or `ray start --head --port N`",
    8265: "a dashboard of Ray runs here: `ray start --head --dashboard-port N`",
}
STATE_BYTES = 16  # of a parameter in a checkpoint: master, two moments, and the model
OPEN_FILES = 4096  # a rank opens the shards of its datasets, sockets and pipes


def machine_findings(config: RunConfig) -> Iterator[Finding]:
    """Yield what the checks of this machine find.

    Args:
        config: A run that is to be trained here, its paths absolute.
    """
    yield versions()
    yield devices()
    yield compiler(config)
    yield shared_memory()
    results = storage(config.output)
    yield results
    if results.verdict == "ok":
        yield locks(config.output)
        yield disk(config)
    yield open_files()
    if "RANK" not in os.environ:  # else the launcher has taken it
        yield from map(port, PORTS)


def versions() -> Finding:
    """Say which versions are installed; nodes are compared by what they say."""
    found = [f"Python {sys.version.split()[0]}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Finding("versions", "stops", f"no {name}", "pip install dpot_scale again")
    return Finding("versions", "ok", ", ".join([*found, f"code {code_digest()}"]))


def devices() -> Finding:
    """Say on what this machine trains."""
    if trains_on_gpu():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        kinds = ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names))
        return Finding("devices", "ok", kinds)
    cores = len(os.sched_getaffinity(0))
    if os.environ.get(ACCELERATOR) == "cpu" and torch.cuda.is_available():
        return Finding("devices", "ok", f"{cores} CPU cores; {ACCELERATOR}=cpu leaves GPUs alone")
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "":
        return Finding("devices", "ok", f"{cores} CPU cores; CUDA_VISIBLE_DEVICES hides all GPUs")
    if not Path("/dev/nvidia0").exists():
        return Finding("devices", "ok", f"{cores} CPU cores, no GPU")
    to_do = "install a build of torch for CUDA, and a driver that is new enough for it"
    return Finding("devices", "note", f"{cores} CPU cores; torch sees no GPU", to_do)


def compiler(config: RunConfig) -> Finding:
    """Say whether what a run compiles can be: operators of DeepSpeed, and kernels of Triton."""
    on_gpu, strategy = trains_on_gpu(), config.engine.deepspeed
    operators = not on_gpu or strategy.optimizer_device != "none"
    kernels = on_gpu and config.engine.compile
    if not operators and not kernels:
        return Finding("compiler", "ok", "none is needed on GPUs by this config")
    header = python_header()
    have = {"Python.h": str(header) if header.exists() else None}
    if operators:
        have["C++ compiler"] = _compiler("CXX")
        have["ninja"] = shutil.which("ninja", path=build_path())
    if kernels:
        have["C compiler"] = _compiler("CC")
    missing = [name for name, found in have.items() if not found]
    if not missing:
        tools = [Path(found).name for found in have.values() if found]
        return Finding("compiler", "ok", " and ".join(tools[1:]))
    return Finding("compiler", "stops", f"no {', no '.join(missing)}", HOW_TO_COMPILE)


def _compiler(variable: str) -> str | None:
    """Return where the compiler is that a variable of the environment names, or a usual one."""
    chosen = os.environ.get(variable)
    names = [chosen.split()[0]] if chosen and chosen.split() else COMPILERS[variable]
    return next(filter(None, map(shutil.which, names)), None)


def shared_memory(folder: Path = SHARED_MEMORY) -> Finding:
    """Say whether the ranks of this machine can share memory."""
    if not folder.is_dir():
        return Finding(str(folder), "stops", "does not exist", f"mount a tmpfs at {folder}")
    free, needed = shutil.disk_usage(folder).free, SHARED_BYTES * ranks_of_node()
    found = f"{free / GIB:.2f} GiB free, {needed / GIB:.2f} needed"
    if free >= needed:
        return Finding(str(folder), "ok", found)
    to_do = (
        "give the container more: --shm-size=8g in Docker, a volume with `medium: Memory` in "
        "Kubernetes; or remove what killed processes left there"
    )
    return Finding(str(folder), "stops", found, to_do)


def storage(folder: Path) -> Finding:
    """Say whether results can be written."""
    probe = folder / f".doctor_{socket.gethostname()}_{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"written")
        read = probe.read_bytes()
        probe.unlink()
    except OSError as error:
        to_do = "set `output` or DPOT_SCALE_HOME to a folder that this user may write to"
        return Finding("storage", "stops", f"cannot write {folder}: {error.strerror}", to_do)
    assert read == b"written"
    return Finding("storage", "ok", f"{folder} can be written")


def locks(folder: Path) -> Finding:
    """Say whether the file system of results has locks."""
    probe = folder / f".doctor_lock_{socket.gethostname()}_{os.getpid()}"
    try:
        with probe.open("a") as file:
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_LOCKS:
            to_do = "nothing: lock files are used instead; a mount with `flock` would be surer"
            return Finding("flock", "note", "the file system has none", to_do)
        return Finding("flock", "note", str(error.strerror), "see the line `storage`")
    finally:
        with contextlib.suppress(OSError):  # it could not be made
            probe.unlink()
    return Finding("flock", "ok", "works")


def disk(config: RunConfig) -> Finding:
    """Say whether the checkpoints of the run fit on the disk."""
    folder = next(place for place in (config.output, *config.output.parents) if place.is_dir())
    free = shutil.disk_usage(folder).free
    parameters = family_of(config.model).parameters(config.model).total
    needed = STATE_BYTES * parameters * (config.checkpoint.keep + 1)
    found = f"{free / GIB:,.1f} GiB free in {folder}, {needed / GIB:,.2f} for checkpoints"
    if free >= needed:
        return Finding("disk", "ok", found)
    return Finding("disk", "stops", found, "make room, or set `output` to a larger disk")


def open_files() -> Finding:
    """Say how many files a training may open, which asks for more than a shell gives it."""
    most = allowed_files()
    if most >= OPEN_FILES:
        return Finding("open files", "ok", f"{most:,} allowed to a training")
    advice = (
        f"root raises it: LimitNOFILE= of a service, `--ulimit nofile={MOST_FILES}` of a container"
    )
    return Finding("open files", "note", f"{most:,} allowed, and no more may be asked for", advice)


def data(config: RunConfig) -> Finding:
    """Say whether the datasets of a run are here, or are solved when it starts."""
    root, wanted = config.data.root, list(config.data.weights)
    suite = config.data.suite
    solved = set() if suite is None else set(suite.datasets)
    try:
        here = [name for name in stored_names(root) if name in wanted]
        for name in here:
            open_store(root, name)
    except DataError as error:
        return Finding("data", "stops", "damaged", str(error))
    except (MachineError, OSError) as error:  # a folder that cannot be listed, too
        return Finding("data", "stops", "cannot be read now", str(error))
    absent = [name for name in wanted if name not in solved.union(here)]
    if absent:
        to_do = "import them (`python -m dpot_scale.prepare import`), or set data.root"
        return Finding("data", "stops", f"{root} lacks {', '.join(absent)}", to_do)
    found = f"{len(here)} of {len(wanted)} datasets are in {root}"
    later = ", the others are solved when a run starts" if len(here) < len(wanted) else ""
    return Finding("data", "ok", found + later)


def port(number: int) -> Finding:
    """Say whether a port that a launcher takes is free."""
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("", number))
        except OSError:
            return Finding(f"port {number}", "note", "taken", PORTS.get(number, ""))
    return Finding(f"port {number}", "ok", "free")

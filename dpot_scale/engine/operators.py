"""Compiles operators of DeepSpeed on their first use.

By one of them its ranks on CPUs share memory, by the other one state lies on the host of a GPU.

torch guards a build by a file that a killed process leaves behind: every later process would wait
for its removal without end and without a word. It also keeps the builds of all environments of a
user in one folder, where two environments would compile the operator anew in turn.
"""

import contextlib
import hashlib
import logging
import os
import shlex
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import psutil

from dpot_scale.errors import ConfigError, DeviceError
from dpot_scale.files import held

OPERATOR = "deepspeed_shm_comm"
HOST_ADAM = "cpu_adam"
HOW_TO_COMPILE = (
    "apt-get install g++ python3-dev and pip install ninja, or load a module with a compiler"
)
REASON_LENGTH = 300  # characters of what a compiler said
FOLDER_VARIABLE = "TORCH_EXTENSIONS_DIR"  # where torch compiles, if it is set

log = logging.getLogger(__name__)


def build_operators() -> None:
    """Compile what is not compiled yet. One process at a time does: others would destroy it.

    Raises:
        ConfigError: it cannot be compiled here.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.comm.torch import build_shm_op

    with _only_builder() as root:
        if get_accelerator().device_name() == "cpu" and not _is_built(OPERATOR, root):
            refuse_without_tools()
            _announce(OPERATOR, root)
        build_shm_op()


def build_host_adam() -> None:
    """Compile the Adam that updates what a GPU keeps on its host, unless it is there.

    One process at a time does; without this, all ranks of a machine would at once.

    Raises:
        DeviceError: it cannot be compiled here.
    """
    from deepspeed.accelerator import get_accelerator

    with _only_builder() as root:
        if not _is_built(HOST_ADAM, root):
            _announce(HOST_ADAM, root)
        try:
            get_accelerator().create_op_builder("CPUAdamBuilder").load(verbose=False)
        except Exception as error:  # each step of a build fails in its own way
            said = " ".join(str(error).split())[:REASON_LENGTH]
            raise DeviceError(
                f"DeepSpeed cannot compile its operator {HOST_ADAM} ({said}): {HOW_TO_COMPILE}; "
                "and `unset TORCH_CUDA_ARCH_LIST` if that is set"
            ) from error


@contextlib.contextmanager
def _only_builder() -> Iterator[Path]:
    """Let no other process build in the folder of operators, and clear up what was killed there."""
    os.environ["PATH"] = build_path()
    root = Path(os.environ.setdefault(FOLDER_VARIABLE, str(own_folder())))
    with held(root / "dpot_scale.lock", wait=True):
        remove_abandoned(root)
        yield root


def _announce(operator: str, root: Path) -> None:
    # Not on the standard output, which DeepSpeed's prints are kept off.
    log.warning("compiling %s in %s; once, for a minute or two", operator, root)


def refuse_without_tools() -> None:
    """Refuse, in a sentence, to compile where a tool is missing; ninja would not name it.

    Raises:
        ConfigError: Python's header or the C++ compiler is not there.
    """
    given = shlex.split(os.environ.get("CXX", "")) or ["c++"]  # as torch chooses it
    missing = [] if shutil.which(given[0]) else [f"C++ compiler ({given[0]})"]
    if not python_header().exists():
        missing.append(f"header of Python ({python_header()})")
    if missing:
        message = (
            f"DeepSpeed compiles a small operator on CPUs, and there is no {', no '.join(missing)}"
        )
        raise ConfigError(f"{message}: {HOW_TO_COMPILE}")


def python_header() -> Path:
    """Return the file that every operator includes."""
    return Path(sysconfig.get_path("include")) / "Python.h"


def build_path() -> str:
    """Return the path in which a build looks for programs, with this environment's ninja first.

    An environment that is not activated, as over ssh, has none in PATH. One of another version
    there would not know this one's log, and compile anew.
    """
    given, own = os.environ.get("PATH", os.defpath), Path(sys.executable).parent
    if not (own / "ninja").exists() or given.split(os.pathsep)[0] == str(own):
        return given
    return os.pathsep.join([str(own), given])


def own_folder() -> Path:
    """Return the folder of operators that are compiled by this Python environment."""
    import deepspeed
    import torch
    from torch.utils.cpp_extension import get_default_build_root

    maker = f"{sys.prefix} {sys.version} {torch.__version__} {deepspeed.__version__}"
    digest = hashlib.sha256(maker.encode()).hexdigest()[:12]
    return Path(get_default_build_root()) / f"dpot_scale_{digest}"


def _is_built(operator: str, root: Path) -> bool:
    return (root / operator / f"{operator}.so").is_file()


def remove_abandoned(root: Path) -> None:
    """Remove what guards a build below `root` that no process makes any more."""
    for operator in (OPERATOR, HOST_ADAM):
        for guard in root.glob(f"**/{operator}/lock"):
            if not _is_open(guard):
                guard.unlink(missing_ok=True)


def _is_open(path: Path) -> bool:
    """Return whether a process of this user, who alone can build there, has a file open."""
    for process in psutil.process_iter():
        try:
            if any(file.path == str(path.resolve()) for file in process.open_files()):
                return True
        except psutil.Error:  # it has ended, or is another user's
            continue
    return False

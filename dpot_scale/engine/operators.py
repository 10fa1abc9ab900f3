"""Compiles the operator by which DeepSpeed's ranks on CPUs share memory, on its first use.

torch guards a build by a file that a killed process leaves behind: every later process would wait
for its removal without end and without a word.
"""

import os
from pathlib import Path

import psutil

from dpot_scale.files import held

OPERATOR = "deepspeed_shm_comm"


def build_operators() -> None:
    """Compile what is not compiled yet. One process at a time does: others would destroy it."""
    from deepspeed.comm.torch import build_shm_op
    from torch.utils.cpp_extension import get_default_build_root

    root = Path(os.environ.get("TORCH_EXTENSIONS_DIR") or get_default_build_root())
    with held(root / "dpot_scale.lock", wait=True):
        remove_abandoned(root)
        build_shm_op()


def remove_abandoned(root: Path) -> None:
    """Remove what guards a build below `root` that no process makes any more."""
    for guard in root.glob(f"**/{OPERATOR}/lock"):
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

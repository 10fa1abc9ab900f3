"""Plain arrays in .npy, .npz, .pt and pickle files, read without running what they contain."""

import pickle
import re
import zipfile
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path

import numpy as np

from dpot_scale.data.importers import npz
from dpot_scale.data.importers.source import DAMAGE
from dpot_scale.data.store.faults import require_machine
from dpot_scale.errors import DataError

PAGE = "docs/data.md, Plain arrays"  # says how to import any
NUMPY = b"\x93NUMPY"
PICKLE = b"\x80"  # protocol 2 and later; also the older container of torch
PROTOCOLS = range(2, 6)
# All that a pickled array of numbers calls, in NumPy 1 and 2.
PICKLED_ARRAY = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}

REFUSED = re.compile(r"GLOBAL (\S+)")  # in errors of unpicklers

Arrays = Mapping[str, npz.ArrayLike]  # by name, "" for a bare one


def loader(path: Path) -> Callable[[], Arrays] | None:
    """Return a function that loads the arrays of a file; None if it is of none of these kinds.

    Each call maps the file into memory anew where it can be mapped: pages that have been read count
    as memory of the process as long as the file is mapped. Others are read as a whole, once.

    The call raises a DataError if the file is damaged or holds other things than arrays.
    """
    with path.open("rb") as file:
        start = file.read(len(NUMPY))
    if start == NUMPY:
        return partial(_numpy, path)
    if npz.is_npz(path):
        return partial(npz.members, path)
    if _is_torch_zip(path):
        return partial(_torch, path, mapped=True)
    if start[:1] == PICKLE and len(start) > 1 and start[1] in PROTOCOLS:
        return cache(partial(_pickle, path))
    return None


def _numpy(path: Path) -> Arrays:
    try:
        return {"": np.load(path, mmap_mode="r", allow_pickle=False)}
    except DAMAGE as error:
        require_machine(path, error)
        raise DataError(
            f"{path} is damaged, or holds objects instead of numbers ({error}); store one array of "
            "numbers with numpy.save"
        ) from error


def _is_torch_zip(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


class _ArrayUnpickler(pickle.Unpickler):
    """Refuses to call anything that an array of numbers does not need."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in PICKLED_ARRAY:
            raise pickle.UnpicklingError(f"GLOBAL {module}.{name}")  # in torch's words
        return super().find_class(module, name)


def _pickle(path: Path) -> Arrays:
    """Return a pickled array, or what the older torch.save wrote, which begins with a number."""
    try:
        with path.open("rb") as file:
            content = _ArrayUnpickler(file).load()
    except Exception as error:  # a damaged pickle raises whatever comes up
        raise _more_than_arrays(path, error) from error
    return {"": content} if isinstance(content, np.ndarray) else _torch(path, mapped=False)


def _torch(path: Path, *, mapped: bool) -> Arrays:
    import torch  # slow to load, and needed by few files

    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except Exception as error:  # as above
        raise _more_than_arrays(path, error) from error
    tensors = content if isinstance(content, dict) else {"": content}
    try:
        return {str(name): tensor.numpy() for name, tensor in tensors.items()}
    except (AttributeError, TypeError, RuntimeError) as error:
        raise DataError(
            f"{path} holds other things than plain tensors ({error}); store its tensors alone"
        ) from error


def _more_than_arrays(path: Path, error: Exception) -> DataError:
    require_machine(path, error)
    refused = REFUSED.search(str(error))
    named = f" (it names {refused[1]})" if refused else ""
    return DataError(
        f"{path} is damaged, or a pickle that is more than plain arrays{named}, which is not "
        "opened because it could run anything; store its arrays with numpy.save or torch.save"
    )

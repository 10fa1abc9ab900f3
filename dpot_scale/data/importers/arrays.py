"""Plain arrays in .npy and .pt files, read without running anything that they contain."""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpot_scale.errors import DataError

NUMPY = b"\x93NUMPY"
PICKLE = b"\x80"  # protocol 2 and later; also the older container of torch
PROTOCOLS = range(2, 6)


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return the arrays of a .npy or .pt file, mapped into memory where the file allows it.

    Returns:
        Arrays by name, "" for a bare one; None if the file is of another kind.

    Raises:
        DataError: the file is damaged or holds other things than arrays.
    """
    with path.open("rb") as file:
        start = file.read(len(NUMPY))
    if start == NUMPY:
        return {"": _read_numpy(path)}
    is_pickle = start[:1] == PICKLE and start[1] in PROTOCOLS
    return _read_torch(path, mapped=not is_pickle) if is_pickle or _is_torch_zip(path) else None


def _read_numpy(path: Path) -> NDArray[Any]:
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except ValueError as error:
        raise DataError(
            f"{path} is damaged, or holds objects instead of numbers ({error}); store one array of "
            "numbers with numpy.save"
        ) from error
    return array


def _is_torch_zip(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/data.pkl") for name in archive.namelist())


def _read_torch(path: Path, *, mapped: bool) -> dict[str, NDArray[Any]]:
    import torch  # slow to load, and needed by few files

    try:
        content = torch.load(path, weights_only=True, map_location="cpu", mmap=mapped)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(
            f"{path} is damaged, or a pickle that is more than plain arrays, which is not opened "
            "because it could run anything; store its arrays with numpy.save or torch.save"
        ) from error
    tensors = content if isinstance(content, dict) else {"": content}
    if not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise DataError(f"{path} holds other things than tensors; store its tensors alone")
    return {str(name): tensor.numpy() for name, tensor in tensors.items()}

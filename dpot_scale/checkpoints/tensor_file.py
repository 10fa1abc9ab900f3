"""How a safetensors file begins that is then written one tensor at a time."""

import json
from collections.abc import Mapping
from math import prod

import torch

# As the format spells them.
DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}


def tensor_header(
    tensors: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], metadata: Mapping[str, str]
) -> bytes:
    """Return what comes before the tensors: the length of a JSON text, and the text.

    Args:
        tensors: The dtype and shape of each tensor, by its key and in the order of their writing.
        metadata: Texts that the file holds beside.
    """
    described: dict[str, object] = {"__metadata__": metadata}
    end = 0
    for key, (dtype, shape) in tensors.items():
        start, end = end, end + dtype.itemsize * prod(shape)
        described[key] = {"dtype": DTYPES[dtype], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(described).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    return len(text).to_bytes(8, "little") + text

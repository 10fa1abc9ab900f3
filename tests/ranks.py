"""One of the ranks that the fixture `ranks` keeps: runs on request a function of some file.

Usage: python ranks.py DESCRIPTOR, with RANK, WORLD_SIZE and so on in the environment. DESCRIPTOR is
an inherited connection. A request names a file, a function in it and its arguments behind the
`World`; the answer is the traceback of what went wrong, or "", and what the function returned.
"""

import gc
import importlib.util
import io
import sys
import traceback
from functools import cache
from multiprocessing.connection import Connection
from types import ModuleType
from typing import Any

import torch

from dpot_scale.engine.runtime import World, start_world


@cache
def module_of(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"on_ranks_{abs(hash(file))}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def answer(world: World, file: str, function: str, arguments: tuple[Any, ...]) -> bytes:
    buffer = io.BytesIO()
    try:
        result = getattr(module_of(file), function)(world, *arguments)
        torch.save(("", result if world.is_main else None), buffer)
    except Exception:
        buffer = io.BytesIO()
        torch.save((traceback.format_exc(), None), buffer)
    gc.collect()  # engines are cycles
    return buffer.getvalue()


def main(descriptor: int) -> None:
    world = start_world()
    with Connection(descriptor) as tests:
        while True:
            try:
                request = tests.recv()
            except EOFError:
                return
            tests.send_bytes(answer(world, *request))


if __name__ == "__main__":
    main(int(sys.argv[1]))

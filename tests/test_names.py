"""No name of ours hides another: `deepspeed dpot_scale/train.py` puts dpot_scale/ on sys.path."""

import pkgutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import dpot_scale

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(dpot_scale.__path__, "dpot_scale.")
)
TOP_LEVEL = sorted({name.split(".")[1] for name in MODULES})


def test_there_are_modules() -> None:
    assert {"train", "evaluate", "config", "training"} <= set(TOP_LEVEL)


@pytest.mark.parametrize("name", TOP_LEVEL)
def test_hides_nothing(name: str) -> None:
    assert name not in sys.stdlib_module_names
    assert name not in packages_distributions(), "an installed package has this name"


def test_every_module_imports_alone() -> None:
    """Alone: none relies on one that another has imported. Forked, as torch loads for seconds.

    None imports Dynamo, which loads for another second, before something is compiled.
    """
    code = (
        "import importlib, os, sys\n"
        "import h5py, matplotlib.figure, mlflow.tracking, pydantic, ray, torch\n"
        "for name in sys.argv[1:]:\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        try:\n"
        "            importlib.import_module(name)\n"
        "            assert 'torch._dynamo' not in sys.modules, 'imports Dynamo'\n"
        "        except BaseException as error: print(f'{name}: {error!r}', flush=True)\n"
        "        os._exit(0)\n"
        "    os.waitpid(child, 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *MODULES],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(dpot_scale.__file__).parents[1],
    )
    assert done.stdout == ""

"""Configs and overrides, as texts and as values."""

import contextlib
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dpot_scale.config.load import PRESETS, dump, load_run, load_suite, load_sweep
from dpot_scale.config.sweep import SweepConfig
from dpot_scale.errors import UserError
from dpot_scale.scaling.plan import plan

mutations = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("mutations.py"))))

RUN = yaml.safe_load(dump(load_run("quickstart")))
SWEEP = yaml.safe_load(dump(load_sweep("quickstart")))
SUITE = yaml.safe_load(dump(load_suite("quickstart")))
KEYS = [".".join(map(str, path)) for path in mutations.places(RUN) if path]
LOADERS: dict[str, Any] = {"run": load_run, "sweep": load_sweep, "suite": load_suite}


def tolerated(kind: str, file: Path) -> None:
    """Load a config, and plan what it describes if it is one."""
    with contextlib.suppress(UserError):
        found = LOADERS[kind](str(file))
        if isinstance(found, SweepConfig):
            plan(found)


@pytest.mark.parametrize(("kind", "good"), [("run", RUN), ("sweep", SWEEP), ("suite", SUITE)])
def test_odd_values(kind: str, good: object, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"

    @given(mutations.mutated_json(good))
    def try_one(raw: object) -> None:
        with contextlib.suppress(yaml.YAMLError, UnicodeEncodeError):  # no YAML says it
            file.write_text(yaml.safe_dump(raw), encoding="utf-8")
        tolerated(kind, file)

    try_one()


@pytest.mark.parametrize("kind", ["run", "sweep"])
def test_odd_texts(kind: str, tmp_path: Path) -> None:
    good = (PRESETS / kind / "quickstart.yaml").read_bytes()
    file = tmp_path / "config.yaml"

    @given(mutations.mutated_bytes(good))
    def try_one(content: bytes) -> None:
        file.write_bytes(content)
        tolerated(kind, file)

    try_one()


def test_odd_overrides() -> None:
    keys = st.sampled_from(KEYS) | st.text(max_size=20)
    values = st.sampled_from(list(map(str, mutations.ODD_VALUES))) | st.text(max_size=30)

    @given(st.lists(st.tuples(keys, values), min_size=1, max_size=3))
    def try_one(pairs: list[tuple[str, str]]) -> None:
        with contextlib.suppress(UserError):
            load_run("quickstart", [f"{key}={value}" for key, value in pairs])

    try_one()

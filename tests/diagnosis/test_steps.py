"""Ten steps of both engines agree on two ranks; an engine that computes something else is found."""

from pathlib import Path
from typing import Any

import pytest

from dpot_scale.diagnosis import steps
from dpot_scale.diagnosis.finding import Finding
from dpot_scale.engine.runtime import World

HERE = Path(__file__)


def right_and_wrong(world: World) -> tuple[Finding, Finding]:
    right = steps.ten_steps(world)
    start_engine = steps.start_engine

    def faster(config: Any, world: World) -> Any:
        engine: Any = start_engine(config, world)
        if config.engine.kind == "fairscale":
            step = engine.step
            engine.step = lambda rates: step(type(rates)(1.01 * rates.lr, rates.betas, 0.0))
        return engine

    steps.start_engine = faster
    try:
        return right, steps.ten_steps(world)
    finally:
        steps.start_engine = start_engine


@pytest.mark.distributed
def test_engines_agree_unless_one_is_wrong(ranks: Any) -> None:
    right, wrong = ranks.run(HERE, "right_and_wrong")
    assert right.verdict == "ok", right.found
    assert wrong.verdict == "stops", wrong.found


def test_without_fairscale_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    found = steps.ten_steps(None)  # type: ignore[arg-type]
    assert found.verdict == "note"
    assert "dpot_scale[fairscale]" in found.to_do

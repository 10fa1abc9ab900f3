"""What Ray is asked to hold. With Ray itself: tests/end_to_end."""

from types import SimpleNamespace

import pytest

from dpot_scale.scaling import held
from dpot_scale.scaling.held import Held

ONE = {"CPU": 2.0}


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[SimpleNamespace]:
    """What Ray is asked for now; it has two workers."""
    asked: list[SimpleNamespace] = []

    def group(bundles: list[dict[str, float]]) -> SimpleNamespace:
        assert bundles == [ONE] * len(bundles)
        name = f"{len(bundles)} workers"
        made = SimpleNamespace(
            id=SimpleNamespace(hex=lambda: name), wait=lambda _: len(bundles) <= 2
        )
        asked.append(made)
        return made

    monkeypatch.setattr(held, "placement_group", group)
    monkeypatch.setattr(held, "remove_placement_group", asked.remove)
    return asked


def test_another_number_of_workers_takes_the_place_of_one(groups: list[SimpleNamespace]) -> None:
    asked = Held(ONE)
    assert (asked.id, asked.is_there()) == ("", False)
    assert not asked.wait(3)
    assert (asked.id, asked.workers, asked.is_there()) == ("3 workers", 3, False)
    first = groups[0]
    asked.ask(3)
    assert groups == [first], "it is asked for already"
    assert asked.wait(2)
    assert (asked.id, asked.workers, asked.is_there()) == ("2 workers", 2, True)
    assert len(groups) == 1


def test_only_its_own_is_given_back(groups: list[SimpleNamespace]) -> None:
    one, other = Held(ONE), Held(ONE)
    one.ask(1)
    other.ask(2)
    one.release()
    one.release()
    assert (one.id, one.is_there()) == ("", False)
    assert [group.id.hex() for group in groups] == ["2 workers"]
    one.ask(1)
    assert len(groups) == 2

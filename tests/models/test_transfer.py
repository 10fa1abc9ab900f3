"""Carrying weights over to another model, apart from what a family does. DPOT: dpot/."""

import pytest
import torch
from torch import Tensor

from dpot_scale.config.start import StartConfig
from dpot_scale.errors import ConfigError
from dpot_scale.models.transfer import (
    Adaptation,
    Adapted,
    Fields,
    carry_over,
    match_fields,
    require_whole,
    without_ones,
)

COMPONENTS = {"lift": ("lift.",), "blocks": ("blocks.",), "head": ("head.",)}
ALL = Fields((0,), (), "fields by position")


def weights(depth: int = 2, head: int = 3) -> dict[str, Tensor]:
    sizes = {"lift.weight": 4, "lift.bias": 2, "head.weight": head}
    sizes |= {f"blocks.{n}.{part}": 5 for n in range(depth) for part in ("a", "b")}
    return {name: torch.arange(1.0, size + 1) for name, size in sizes.items()}


def shapes(of: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in of.items()}


def test_what_fits_comes_along_as_it_is() -> None:
    source = weights()
    transfer = carry_over(source, shapes(source), COMPONENTS, Adaptation(), StartConfig())
    assert transfer.unfinished == set()
    assert transfer.dropped == ()
    torch.testing.assert_close(transfer.completed({}), source)
    assert [(row.component, row.carried, row.drawn) for row in transfer.rows] == [
        ("lift", 6, 0),
        ("blocks", 20, 0),
        ("head", 3, 0),
    ]
    require_whole(transfer, StartConfig(), "", ALL)


def test_a_component_comes_along_whole_or_not_and_blocks_one_by_one() -> None:
    source = weights(depth=3)
    wanted = shapes(weights(depth=2)) | {"lift.bias": (7,), "blocks.1.b": (6,), "extra": (1,)}
    components = {**COMPONENTS, "more": ("extra",)}
    transfer = carry_over(source, wanted, components, Adaptation(), StartConfig())
    drawn = {"lift.weight", "lift.bias", "blocks.1.a", "blocks.1.b", "extra"}
    assert transfer.unfinished == drawn
    assert transfer.dropped == ("blocks.2",)
    fresh = {name: torch.full(wanted[name], -1.0) for name in drawn}
    completed = transfer.completed(fresh)
    assert shapes(completed) == wanted
    assert {name for name, value in completed.items() if (value == -1).all()} == drawn
    assert "left behind: blocks.2" in transfer.table()


def test_a_component_is_drawn_where_that_is_asked_or_its_meaning_is_another() -> None:
    source = weights()

    class Other(Adaptation):
        redrawn = frozenset({"head"})

    start = StartConfig(components={"lift": "redraw"})
    transfer = carry_over(source, shapes(source), COMPONENTS, Other(), start)
    assert transfer.unfinished == {"lift.weight", "lift.bias", "head.weight"}


def test_a_part_of_a_tensor_may_be_drawn() -> None:
    source = weights()

    class Widens(Adaptation):
        def adapt(self, name: str, value: Tensor, shape: tuple[int, ...]) -> Adapted | None:
            if name != "head.weight":
                return super().adapt(name, value, shape)
            drawn = torch.tensor([False, False, False, True])
            return Adapted(torch.cat([value, torch.zeros(1)]), "wider", drawn)

    wanted = shapes(source) | {"head.weight": (4,)}
    start = StartConfig(absent="draw", components={"blocks": {"lr": 0.5}})
    transfer = carry_over(source, wanted, COMPONENTS, Widens(), start)
    assert transfer.unfinished == {"head.weight"}
    found = transfer.completed({"head.weight": torch.full((4,), 9.0)})["head.weight"]
    assert found.tolist() == [1, 2, 3, 9]
    assert transfer.table().splitlines() == [
        "component  as it is  adapted  drawn  rate   how",
        "lift              6        -      -  x 1",
        "blocks           20        -      -  x 0.5",
        "head              -        3      1  x 1    wider",
    ]
    require_whole(transfer, start, "", ALL)


def test_kernels_of_one_point_get_the_axes_of_3d() -> None:
    value = torch.arange(6.0).view(2, 3, 1, 1)
    adapted = Adaptation().adapt("any", value, (2, 3, 1, 1, 1))
    assert adapted is not None
    assert (adapted.value.shape, adapted.how) == ((2, 3, 1, 1, 1), "2D to 3D")
    assert Adaptation().adapt("any", value, (3, 2, 1, 1)) is None
    assert without_ones((2, 1, 1)) == (2,)


@pytest.mark.parametrize(
    ("start", "disagreement", "fields", "said"),
    [
        (
            {},
            "the config says A, but the weights need: B",
            ALL,
            "says A, but the weights need: B; ",
        ),
        (
            {},
            "",
            Fields((None,), ("u",), ""),
            "the weights have no fields u; or start.absent=draw ",
        ),
        ({}, "", ALL, "the weights lack a part of the model; or start.absent=draw draws what is "),
        (
            {"absent": "draw", "components": {"head": "freeze"}},
            "",
            ALL,
            "head is drawn from the seed, at least in part, and would stay so: to let it train",
        ),
    ],
)
def test_what_may_not_be_drawn_is_a_sentence(
    start: dict, disagreement: str, fields: Fields, said: str
) -> None:
    source, described = weights(), StartConfig(**start)
    wanted = shapes(source) | {"head.weight": (1,)}
    transfer = carry_over(source, wanted, COMPONENTS, Adaptation(), described)
    with pytest.raises(ConfigError) as error:
        require_whole(transfer, described, disagreement, fields)
    assert said in str(error.value)


def test_a_source_of_which_nothing_fits_is_refused() -> None:
    source, start = weights(), StartConfig(absent="draw")
    wanted = dict.fromkeys(source, (99,))
    transfer = carry_over(source, wanted, COMPONENTS, Adaptation(), start)
    for disagreement, said in (("", "^nothing of"), ("widths differ", "^widths differ; nothing")):
        with pytest.raises(ConfigError, match=said):
            require_whole(transfer, start, disagreement, ALL)


@pytest.mark.parametrize(
    ("of_source", "of_target", "taken", "missing"),
    [
        # By position, where one side says no names.
        ({}, {"b": ["v", "u"]}, (0, 1, 2), ()),
        ({"a": ["u", "v"]}, {}, (0, 1, 2), ()),
        # By name; what no dataset uses is padding, which takes its own place.
        ({"a": ["u", "v", "p"]}, {"b": ["p", "u"]}, (2, 0, 2), ()),
        # What the source does not know takes what is left, in its place if it can.
        ({"a": ["u", "v", "p"]}, {"b": ["u", "q"]}, (0, 1, 2), ()),
        ({"a": ["u", "v", "p"]}, {"b": ["q", "u", "v"]}, (2, 0, 1), ()),
        ({"a": ["u", "v", "p"]}, {"b": ["q", "r", "s"]}, (0, 1, 2), ()),
        # A channel with a name in each dataset, and one that two channels have: its place first.
        ({"a": ["u"], "c": ["h", "u"]}, {"b": ["u", "u2"]}, (0, 1, 2), ()),
        ({"a": ["u"], "c": ["h", "u"]}, {"b": ["h", "u"]}, (0, 1, 2), ()),
        ({"a": ["u", "v"]}, {"b": ["v"], "c": ["w", "u"]}, (1, 0, 2), ()),
    ],
)
def test_fields_are_found_by_name_or_by_position(
    of_source: dict, of_target: dict, taken: tuple, missing: tuple
) -> None:
    fields = match_fields(3, 3, of_source, of_target)
    assert (fields.taken, fields.missing) == (taken, missing)
    assert ("by name" in fields.how) == bool(of_source and of_target)


def test_a_field_for_which_no_channel_is_left_is_missing() -> None:
    fields = match_fields(2, 3, {"a": ["u", "v"]}, {"b": ["v", "q", "u"]})
    assert fields == Fields((1, None, 0), ("q",), "fields by name")
    fields = match_fields(2, 3, {"a": ["u", "v"]}, {"b": ["v", "q", "r"]})
    assert fields == Fields((1, 0, None), ("r",), "fields by name, q as u")


def test_channels_beyond_those_of_the_source_are_missing() -> None:
    fields = match_fields(1, 3, {}, {"b": ["u", "v"]})
    assert fields == Fields(
        (0, None, None), ("v", "channel 3"), "fields by position, as the source names none"
    )
    assert match_fields(3, 1, {}, {}).taken == (0,)

"""What all sections share: values of strict kinds, and names by content."""

import json

import pytest
from pydantic import ValidationError

from dpot_scale.config.base import (
    Float,
    Name,
    NonNegativeInt,
    PositiveFloat,
    Section,
    Seed,
    content_hash,
)
from dpot_scale.config.load import load_run
from dpot_scale.errors import ConfigError


class Example(Section):
    whole: NonNegativeInt = 0
    number: Float = 0.0
    rate: PositiveFloat = 1.0
    seed: Seed = 0
    name: Name = "a"


def test_numbers_are_read_as_yaml_leaves_them() -> None:
    assert Example.model_validate({"number": "1e-3", "whole": "4"}) == Example(number=1e-3, whole=4)


@pytest.mark.parametrize(
    "values",
    [
        {"whole": True},
        {"number": False},
        {"rate": True},
        {"seed": True},
        {"number": "nan"},
        {"rate": "inf"},
        {"rate": 0},
        {"seed": 2**31},
        {"seed": -1},
        {"name": ".."},
        {"name": "a/b"},
        {"name": "-a"},
        {"name": ""},
        {"unknown": 1},
    ],
)
def test_what_is_not_of_its_kind_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Example.model_validate(values)


def test_a_section_is_immutable() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Example().whole = 1  # type: ignore[misc]


def test_a_hash_names_the_content_and_not_the_order_of_its_keys() -> None:
    one = content_hash({"a": 1, "b": {"c": 2, "d": 3}})
    assert one == content_hash({"b": {"d": 3, "c": 2}, "a": 1})
    assert len(one) == 12
    assert int(one, 16) >= 0
    others = [{"a": 1}, {"a": 1.5, "b": {"c": 2, "d": 3}}, {"a": 1, "b": {"c": 3, "d": 2}}]
    assert len({one, *map(content_hash, others)}) == 4


@pytest.mark.parametrize("key", ["output", "data.root", "start.source"])
@pytest.mark.parametrize("path", ["x" * 300, "a/" + "\u00e9" * 128, "a\0b"])
def test_a_path_that_no_file_can_have_is_refused(key: str, path: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}.*no file can have this name"):
        load_run("quickstart", [f"{key}={json.dumps(path)}"])


@pytest.mark.parametrize("key", ["output", "data.root", "start.source"])
@pytest.mark.parametrize("url", ["https://me:secret@host/w.pth", "s3://bucket/runs", "FILE:///a"])
def test_a_url_is_no_path(key: str, url: str) -> None:
    """It would be saved as `https:/me:secret@host`, and made as a folder here."""
    with pytest.raises(ConfigError, match=f"{key}.*it is a URL, where a file or folder") as refused:
        load_run("quickstart", [f"{key}={url}"])
    assert "secret" not in str(refused.value)


def test_a_model_of_the_registry_is_a_source() -> None:
    assert load_run("quickstart", ["start.source=models:/name/1"]).start.source is not None


@pytest.mark.parametrize("override", ["engine.deepspeed=", "name="])
def test_a_name_that_is_far_too_long_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=override.rstrip("=")):
        load_run("quickstart", [f"{override}{'x' * 300}"])
    with pytest.raises(ConfigError, match="no run preset is called"):
        load_run("x" * 300)

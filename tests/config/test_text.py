"""YAML texts: what they say, and what is none. Files and overrides: test_load.py."""

import pytest

from dpot_scale.config.text import parse


def test_a_text_is_read_as_yaml_says() -> None:
    assert parse("a: 1e-3\nb: [1, true, null]\n") == {"a": "1e-3", "b": [1, True, None]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "key 'a' appears twice"),
        ("a: [1", "expected"),
        ("a: 2024-13-45", "month must be"),
        ("[" * 40 + "]" * 40, "nested more than 30 levels deep"),
        ("[" * 10**5, "nested more than 30 levels deep"),
        ("a: &a [*a]", "nested more than 30 levels deep"),
        (
            "a: &a [1, 1, 1, 1, 1, 1, 1, 1]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
            "c: &c [*b, *b, *b, *b, *b, *b, *b, *b]\nd: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
            "e: &e [*d, *d, *d, *d, *d, *d, *d, *d]\nf: [*e, *e, *e, *e, *e, *e, *e, *e]\n",
            "its aliases stand for more than 100,000 values",
        ),
    ],
)
def test_what_is_none_is_said_in_one_line(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        parse(text)
    assert "\n" not in str(error.value)

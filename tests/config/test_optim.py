"""Lengths of a schedule: how they are written, laid over each other and read in older configs."""

from pathlib import Path

import pytest

from dpot_scale.config.load import load_run
from dpot_scale.config.optim import Length, OptimConfig

FIRST = str(Path(__file__).parents[1] / "golden" / "first_quickstart.yaml")


@pytest.mark.parametrize("preset", [FIRST, "paper_ti"])  # the latter names its warm-up
@pytest.mark.parametrize(
    ("override", "warmup"),
    [
        ("optim.warmup.windows=64", Length(windows=64)),
        ("optim.warmup.share=0.3", Length(share=0.3)),
        ("optim.warmup={windows: 64}", Length(windows=64)),
        ("optim.warmup_fraction=0.1", Length(share=0.1)),
    ],
)
def test_a_length_replaces_the_one_below_it(preset: str, override: str, warmup: Length) -> None:
    assert load_run(preset, [override]).optim.warmup == warmup


def test_shares_are_read_as_older_configs_spell_them(tmp_path: Path) -> None:
    older, newer = tmp_path / "older.yaml", tmp_path / "newer.yaml"
    older.write_text("extends: quickstart\noptim: {warmup_fraction: 0.1, decay_fraction: 0.3}\n")
    newer.write_text(f"extends: {older}\noptim: {{warmup: {{windows: 64}}}}\n")
    optim = load_run(str(older)).optim
    assert (optim.warmup, optim.decay) == (Length(share=0.1), Length(share=0.3))
    optim = load_run(str(newer)).optim
    assert (optim.warmup, optim.decay) == (Length(windows=64), Length(share=0.3))


def test_of_two_spellings_of_a_length_the_one_given_last_counts(tmp_path: Path) -> None:
    newer, older = tmp_path / "newer.yaml", tmp_path / "older.yaml"
    newer.write_text("extends: quickstart\noptim: {warmup: {share: 0.1}}\n")
    older.write_text(f"extends: {newer}\noptim: {{warmup_fraction: 0.3}}\n")
    newest = tmp_path / "newest.yaml"
    newest.write_text(f"extends: {older}\noptim: {{warmup: {{windows: 32}}}}\n")
    given = {
        (older, "optim.warmup.windows=64"): Length(windows=64),
        (older, "optim.warmup={share: 0.4}"): Length(share=0.4),
    }
    for (path, override), warmup in given.items():
        assert load_run(str(path), [override]).optim.warmup == warmup
    assert load_run(str(newest)).optim.warmup == Length(windows=32)
    assert load_run(str(newest), ["optim.warmup_fraction=0.5"]).optim.warmup == Length(share=0.5)
    overrides = ["optim.warmup_fraction=0.4", "optim.warmup.windows=8"]
    assert load_run(str(newer), overrides).optim.warmup == Length(windows=8)
    assert load_run(str(newer), overrides[::-1]).optim.warmup == Length(share=0.4)


def test_a_length_is_saved_as_it_was_given() -> None:
    assert repr(Length(windows=8).model_dump(mode="json")) == "{'windows': 8}"
    assert repr(Length(share=0.5).model_dump(mode="json")) == "{'share': 0.5}"
    assert repr(Length(share=1).model_dump(mode="json")) == "{'share': 1.0}"


def test_every_rate_follows_the_width_and_nothing_else_does() -> None:
    given = OptimConfig(reference_width=128).model_dump()
    found = OptimConfig(reference_width=128).for_width(2048, "dpot").model_dump()
    changed = {name for name, value in given.items() if found[name] != value}
    assert changed == {name for name in given if name == "lr" or name.endswith("_lr")}
    assert {name: found[name] for name in changed} == {name: given[name] / 2 for name in changed}
    assert OptimConfig().for_width(512, "dpot") == OptimConfig()
    of_two = OptimConfig(reference_width={"dpot": 128, "fno": 32})
    assert of_two.for_width(2048, "dpot").lr == found["lr"]
    assert of_two.for_width(512, "fno").lr == found["lr"]
    assert of_two.for_width(512, "vit") == of_two

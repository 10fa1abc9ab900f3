"""The start of a run: what each word means, and that one meaning has one identity."""

from pathlib import Path

import pytest

from dpot_scale.config.identity import Contents, identity
from dpot_scale.config.load import dump, load_run, load_sweep
from dpot_scale.config.start import ComponentConfig, StartConfig
from dpot_scale.errors import ConfigError

FROM = "start.source=model.safetensors"
COMPONENTS = "patch_embed, pos_embed, time_agg, blocks, head, output, conditioning, statistics"


def identity_of(*overrides: str) -> str:
    contents = Contents(datasets={"a": "1"}, start="2")
    return identity(load_run("quickstart", [FROM, *overrides]), contents)


@pytest.mark.parametrize(
    ("components", "redrawn", "rate"),
    [
        ({}, False, 1),
        ({"blocks": "reuse"}, False, 1),
        ({"blocks": "redraw"}, True, 1),
        ({"blocks": "freeze"}, False, 0),
        ({"blocks": {"lr": 0.1}}, False, 0.1),
        ({"blocks": {"redraw": True, "lr": 10}}, True, 10),
        ({"head": "freeze"}, False, 1),
    ],
)
def test_what_a_component_does(components: dict, redrawn: bool, rate: float) -> None:
    start = StartConfig(components=components)
    assert (start.redraws("blocks"), start.rate("blocks")) == (redrawn, rate)


@pytest.mark.parametrize(
    "override",
    [
        "start.components={}",
        "start.components.blocks=reuse",
        "start.components.blocks={lr: 1}",
        "start.components.blocks={redraw: false}",
        "start.absent=draw",  # decides whether there is a run, and no number of it
        "start.source=/elsewhere",  # its content counts
    ],
)
def test_what_changes_no_number_changes_no_identity(override: str) -> None:
    assert identity_of(override) == identity_of()


@pytest.mark.parametrize(
    "override",
    [
        "start.components.blocks=freeze",
        "start.components.blocks=redraw",
        "start.components.blocks={lr: 0.5}",
        "start.components.blocks={redraw: true, lr: 0.5}",
    ],
)
def test_what_changes_numbers_changes_the_identity(override: str) -> None:
    assert identity_of(override) != identity_of()


def test_two_spellings_of_one_component_are_the_same() -> None:
    spelled = "start.components.output={redraw: true, lr: 1}"
    assert identity_of(spelled) == identity_of("start.components.output=redraw")


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    words = "start.components={blocks: freeze, output: {redraw: true, lr: 10}}"
    run = load_run("quickstart", [FROM, words, "start.absent=draw"])
    file = tmp_path / "run.yaml"
    file.write_text(dump(run))
    assert load_run(str(file)) == run
    assert run.start.components["output"] == ComponentConfig(redraw=True, lr=10)
    again = load_run(str(file), ["start.components.blocks=reuse"])
    assert set(again.start.components) == {"output"}


@pytest.mark.parametrize("name", ["initialize_from", "start.source"])
def test_both_spellings_of_the_source(name: str, tmp_path: Path) -> None:
    assert load_run("quickstart", [f"{name}=a.pth"]).start.source == Path("a.pth")
    assert load_run("quickstart", [f"{name}=null"]).start.source is None
    assert load_sweep("quickstart", [f"run.{name}=a.pth"]).run.start.source == Path("a.pth")
    file = tmp_path / "run.yaml"
    file.write_text("extends: quickstart\nname: mine\ninitialize_from: a.pth\n")
    assert load_run(str(file)).start.source == Path("a.pth")
    assert load_run(str(file), [f"{name}=b.pth"]).start.source == Path("b.pth")
    above = tmp_path / "above.yaml"
    above.write_text("extends: run.yaml\nstart: {source: c.pth}\n")
    assert load_run(str(above)).start.source == Path("c.pth")
    sweep = tmp_path / "sweep.yaml"
    sweep.write_text("extends: quickstart\nrun: {initialize_from: a.pth}\n")
    assert load_sweep(str(sweep)).run.start.source == Path("a.pth")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            [FROM, "start.components.block=freeze"],
            "start.components.block: a dpot has no such component (did you mean 'blocks'?); it "
            f"has {COMPONENTS}",
        ),
        ([FROM, "start.components.blocks=frozen"], "start.components.blocks=frozen: must be "),
        ([FROM, "start.components.blocks={lr: 0}"], "must be more than 0"),
        ([FROM, "start.sources=a"], "unknown key 'start.sources' (did you mean 'start.source'?)"),
        (
            [FROM, f"start.components={{{COMPONENTS.replace(',', ': freeze,')}: freeze}}"],
            "start.components freezes all that there is: leave something to train",
        ),
        (
            ["start.components.blocks=freeze"],
            "start.components.blocks=freeze needs start.source: random weights that do not train",
        ),
    ],
)
def test_a_mistake_is_one_sentence(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_run("quickstart", overrides)
    assert said in str(error.value)


def test_a_file_with_both_spellings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("extends: quickstart\ninitialize_from: a\nstart: {source: b}\n")
    with pytest.raises(ConfigError, match=r"has initialize_from and start\.source: leave one out"):
        load_run(str(file))
    file.write_text("extends: quickstart\ninitialize_from: null\nstart: {source: b}\n")
    assert load_run(str(file)).start.source == Path("b")

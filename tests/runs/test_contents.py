"""What a run reads is named by its content: before and after it is made, wherever it lies."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from dpot_scale.config.data import GeneratedDataset, SuiteConfig
from dpot_scale.config.load import dump, load_run
from dpot_scale.config.places import INPUTS
from dpot_scale.config.run import RunConfig
from dpot_scale.config.start import StartConfig
from dpot_scale.data.generation.suite import generate_suite
from dpot_scale.errors import ConfigError, DataError
from dpot_scale.runs.contents import MISSING, read_contents, record, recorded
from dpot_scale.runs.folder import finished_before
from dpot_scale.runs.resolved import identify


def run_in(tmp_path: Path, **recipe: object) -> RunConfig:
    """Return a run on one small dataset, which is not yet generated."""
    values = {"equation": "reaction_diffusion", "train": 2, "test": 1, "grid": 8, "frames": 3}
    dataset = GeneratedDataset.model_validate(values | {"frame_interval": 0.5} | recipe)
    run = load_run("quickstart", ["data.weights={dr: 1}", f"output={tmp_path}"])
    suite = SuiteConfig(name="suite", datasets={"dr": dataset})
    data = run.data.model_copy(update={"suite": suite, "root": tmp_path / "data"})
    return run.model_copy(update={"data": data})


def generated(run: RunConfig) -> RunConfig:
    assert run.data.suite is not None
    generate_suite(run.data.suite, run.data.root, progress=lambda _: None)
    return run


def without_suite(run: RunConfig, root: Path | None = None) -> RunConfig:
    update = {"suite": None, "root": root or run.data.root}
    return run.model_copy(update={"data": run.data.model_copy(update=update)})


def pass_for_imported(folder: Path, **content: object) -> None:
    index = folder / "index.json"
    raw = json.loads(index.read_text())
    raw["info"] |= {"origin": "imported", "source": "a file"} | content
    index.write_text(json.dumps(raw))


def test_generated_data_are_the_same_before_and_after(tmp_path: Path) -> None:
    run = run_in(tmp_path)
    before = identify(run)
    after = identify(generated(run))
    assert before == after
    assert identify(without_suite(run)).identity == before.identity, "the index knows the recipe"
    assert identify(run_in(tmp_path, frame_interval=0.4)).identity != before.identity


def test_imported_data_count_by_their_content_and_not_by_their_place(tmp_path: Path) -> None:
    run = without_suite(generated(run_in(tmp_path)))
    pass_for_imported(run.data.root / "dr")
    first = identify(run)
    shutil.copytree(run.data.root, tmp_path / "moved")
    pass_for_imported(tmp_path / "moved" / "dr", source="/another/file")
    assert identify(without_suite(run, tmp_path / "moved")).identity == first.identity
    index = run.data.root / "dr" / "index.json"
    raw = json.loads(index.read_text())
    raw["splits"]["train"][0]["sha256"] = "0" * 64
    index.write_text(json.dumps(raw))
    assert identify(run).identity != first.identity, "other values under the same name"


def test_data_that_changed_are_refused_by_name_and_digests(tmp_path: Path) -> None:
    run = without_suite(generated(run_in(tmp_path)))
    pass_for_imported(run.data.root / "dr")
    begun = identify(run)
    run.directory.mkdir(parents=True)
    (run.directory / "config.yaml").write_text(dump(run))
    record(run.directory, begun.contents)
    assert finished_before(begun) is None
    pass_for_imported(run.data.root / "dr", frame_interval=2.0)
    changed = identify(run)
    old, new = begun.contents.datasets["dr"], changed.contents.datasets["dr"]
    sentence = rf"an unfinished run that was begun with another dataset dr \({old}, now {new}\): "
    with pytest.raises(ConfigError, match=sentence):
        finished_before(changed)


def test_data_that_are_gone_are_what_they_were(tmp_path: Path) -> None:
    """A finished run needs its data no longer, and neither does the report of a sweep."""
    run = without_suite(generated(run_in(tmp_path)))
    pass_for_imported(run.data.root / "dr")
    begun = identify(run)
    record(run.directory, begun.contents)
    shutil.rmtree(run.data.root)
    assert identify(run) == begun
    (run.directory / INPUTS).unlink()
    assert identify(run).contents.datasets == {"dr": MISSING}


def test_a_damaged_index_is_a_sentence(tmp_path: Path) -> None:
    run = without_suite(generated(run_in(tmp_path)))
    (run.data.root / "dr" / "index.json").write_text("{")
    with pytest.raises(DataError, match="is not a dataset index"):
        identify(run)


def test_weights_count_by_their_content(tmp_path: Path) -> None:
    def start(path: Path) -> str | None:
        run = run_in(tmp_path).model_copy(update={"start": StartConfig(source=path)})
        return read_contents(run, run.directory).start

    for name, content in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        (tmp_path / name).write_bytes(content)
    assert start(tmp_path / "a") == start(tmp_path / "b") != start(tmp_path / "c")
    assert start(tmp_path / "absent") == MISSING


def test_a_run_to_start_from_counts_by_its_identity_and_step(tmp_path: Path) -> None:
    source = tmp_path / "source"
    run = run_in(tmp_path).model_copy(update={"start": StartConfig(source=source)})
    for step in (8, 16):
        marker = mark(source, step, config_hash="abc")
        assert read_contents(run, run.directory).start == f"abc step {step}"
    mark(source, 1_000_000, identity="abc")  # whose folder comes before the others by its name
    assert read_contents(run, run.directory).start == "abc step 1000000"
    (source / "result.json").write_text(json.dumps({"identity": "abc"}))
    assert read_contents(run, run.directory).start == "abc", "it has one end"
    checkpoint = run.model_copy(update={"start": StartConfig(source=marker.parent)})
    assert read_contents(checkpoint, run.directory).start == "abc step 16"


@pytest.mark.parametrize("recorded_as", ["abc step 8", "abc"])  # the second: by earlier versions
def test_who_has_begun_keeps_its_start_where_the_source_goes_on(
    recorded_as: str, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    run = run_in(tmp_path).model_copy(update={"start": StartConfig(source=source)})
    mark(source, 8, identity="abc")
    begun = replace(read_contents(run, run.directory), start=recorded_as)
    run.directory.mkdir(parents=True)
    record(run.directory, begun)
    mark(source, 16, identity="abc")
    assert read_contents(run, run.directory).start == "abc step 16", "nothing was saved yet"
    mark(run.directory, 1, identity="def")
    assert read_contents(run, run.directory).start == recorded_as
    (source / "result.json").write_text(json.dumps({"identity": "abc"}))
    assert read_contents(run, run.directory).start == recorded_as
    (source / "result.json").write_text(json.dumps({"identity": "another"}))
    assert read_contents(run, run.directory).start == "another"
    (source / "result.json").unlink()
    checkpoint = source / "checkpoints" / "step_000016"
    other = run.model_copy(update={"start": StartConfig(source=checkpoint)})
    assert read_contents(other, run.directory).start == "abc step 16", "it was named"


def mark(run: Path, step: int, **content: object) -> Path:
    """Write the marker of a checkpoint."""
    marker = run / "checkpoints" / f"step_{step:06d}" / "COMMITTED.json"
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"step": step, **content}))
    return marker


def test_a_folder_that_no_run_made_counts_by_its_weights(tmp_path: Path) -> None:
    """As `save_pretrained` makes one."""
    run = run_in(tmp_path)
    file = tmp_path / "file.safetensors"
    for content in (b"1", b"2"):
        (tmp_path / "hub").mkdir(exist_ok=True)
        (tmp_path / "hub" / "config.json").write_text("{}")
        (tmp_path / "hub" / "model.safetensors").write_bytes(content)
        file.write_bytes(content)
        of_folder, of_file = (
            read_contents(
                run.model_copy(update={"start": StartConfig(source=path)}), run.directory
            ).start
            for path in (tmp_path / "hub", file)
        )
        assert of_folder == of_file


@pytest.mark.parametrize(
    "text", [None, "", "[1]", "[" * 10**5, '{"dataset dr": "1"}', '{"format": 2, "contents": []}']
)
def test_a_record_that_says_nothing_is_none(text: str | None, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / INPUTS).write_text(text)
    assert recorded(tmp_path) == {}

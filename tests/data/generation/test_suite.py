"""Generation: from a seed, once, by one process, and never half."""

import multiprocessing
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dpot_scale.config.data import GeneratedDataset, SuiteConfig
from dpot_scale.data.generation import solved as solved_module
from dpot_scale.data.generation import suite as suite_module
from dpot_scale.data.generation import workers as workers_module
from dpot_scale.data.generation.equations import SOLVERS
from dpot_scale.data.generation.solved import SolvedParts
from dpot_scale.data.generation.solvers.obstacle import problem_of
from dpot_scale.data.generation.solvers.shallow_water import ShallowWater
from dpot_scale.data.generation.suite import generate_suite
from dpot_scale.data.generation.workers import Part, Solved, Workers
from dpot_scale.data.store.cost import COST, read_cost
from dpot_scale.data.store.dataset import SPLITS, Split, open_store, stored_names
from dpot_scale.data.store.digest import dataset_digest
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.shards import sha256
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.errors import ConfigError, DataError

RECIPE: dict[str, Any] = {
    "equation": "reaction_diffusion",
    "train": 4,
    "test": 2,
    "grid": 8,
    "frames": 3,
    "frame_interval": 0.2,
}


def suite_of(*, seed: int = 0, **changes: Any) -> SuiteConfig:
    return SuiteConfig(name="small", seed=seed, datasets={"dr": RECIPE | changes})


def silent(line: str) -> None:
    del line


def trajectories(root: Path, split: Split, name: str = "dr") -> np.ndarray:
    store = open_store(root, name)
    count, frames = store.num_trajectories(split), store.num_frames(split)
    return np.stack([store.read(split, number, 0, frames) for number in range(count)])


def recipe_of(equation: str, **changes: Any) -> GeneratedDataset:
    frames = 2 if equation == "darcy" else 3
    return GeneratedDataset(**(RECIPE | {"equation": equation, "frames": frames} | changes))


def test_every_equation_is_generated_as_its_recipe_says(tmp_path: Path) -> None:
    lines: list[str] = []
    recipes = {equation: recipe_of(equation) for equation in SOLVERS}
    suite = SuiteConfig(name="all", datasets=recipes)
    generate_suite(suite, tmp_path, progress=lines.append)
    assert stored_names(tmp_path) == sorted(recipes)
    for name, recipe in recipes.items():
        store = open_store(tmp_path, name)
        assert [store.num_trajectories(split) for split in SPLITS] == [4, 0, 2]
        dims = 3 if name.endswith("3d") else 2
        shape = (4, recipe.frames, len(store.info.channels), *[8] * dims)
        assert trajectories(tmp_path, "train", name).shape == shape
        assert store.info.origin == "generated"
        assert store.info.spatial_axes == ("x", "y", "z")[:dims]
        scored = dict(zip(store.info.channels, store.info.scored, strict=True))
        assert scored == {channel: channel != "mask" for channel in store.info.channels}
        assert store.info.fluid_mask == ("mask" if "mask" in scored else "")
        assert not any(store.info.coefficient)
    assert [line.split()[1] for line in lines] == [f"{name}:" for name in recipes]


@pytest.mark.parametrize("equation", SOLVERS)
def test_no_two_trajectories_are_equal(equation: str, tmp_path: Path) -> None:
    """Above all not one of the training and one of the test split."""
    recipe = recipe_of(equation, train=20, valid=5, test=10)
    generate_suite(SuiteConfig(name="s", datasets={"dr": recipe}), tmp_path, progress=silent)
    splits = [trajectories(tmp_path, split) for split in SPLITS]
    assert len({row.tobytes() for split in splits for row in split}) == 35


def test_what_an_interrupted_generation_left_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards that are safe on disk are not solved again."""
    solved: list[range] = []

    @contextmanager
    def failing(after: int) -> Iterator[Workers]:
        def start(part: Part) -> Future[Any]:
            if len(solved) == after:
                raise KeyboardInterrupt
            solved.append(part.seeds)
            future: Future[Any] = Future()
            future.set_result(workers_module.solve(part))
            return future

        yield Workers(start, 0, lambda _: 2)

    suite = suite_of(train=6)
    monkeypatch.setattr(suite_module, "StoreWriter", partial(StoreWriter, shard_bytes=1))
    with pytest.raises(KeyboardInterrupt):
        generate_suite(suite, tmp_path, progress=silent, workers=partial(failing, 2))
    assert stored_names(tmp_path) == []
    generate_suite(suite, tmp_path, progress=silent, workers=partial(failing, 99))
    assert [(seeds.start, len(seeds)) for seeds in solved[:3]] == [(0, 2), (2, 2), (4, 2)]
    generate_suite(suite, tmp_path / "at once", progress=silent)
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            trajectories(tmp_path, split), trajectories(tmp_path / "at once", split)
        )


def test_the_same_recipe_gives_the_same_numbers(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        generate_suite(suite_of(), tmp_path / folder, progress=silent)
    digests = [
        sha256(tmp_path / folder / "dr" / "train" / "shard-00000.h5") for folder in ("a", "b")
    ]
    assert digests[0] == digests[1]
    generate_suite(suite_of(seed=1), tmp_path / "c", progress=silent)
    assert not np.allclose(
        trajectories(tmp_path / "a", "train"), trajectories(tmp_path / "c", "train")
    )


def test_more_training_trajectories_leave_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generate_suite(suite_of(), tmp_path / "few", progress=silent)
    monkeypatch.setattr(workers_module, "VALUES_TOGETHER", 3 * 2 * 8**2)
    generate_suite(suite_of(train=7), tmp_path / "many", progress=silent)
    few, many = (trajectories(tmp_path / folder, "train") for folder in ("few", "many"))
    np.testing.assert_array_equal(many[:4], few)
    few, many = (trajectories(tmp_path / folder, "test") for folder in ("few", "many"))
    np.testing.assert_array_equal(many, few)


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    generate_suite(suite_of(), tmp_path, progress=silent)
    index = tmp_path / "dr" / "index.json"
    before = index.stat().st_mtime_ns
    lines: list[str] = []
    generate_suite(suite_of(), tmp_path, progress=lines.append)
    assert (index.stat().st_mtime_ns, lines) == (before, [])


def test_a_complete_folder_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training may read data from a place that it cannot write to."""
    generate_suite(suite_of(), tmp_path, progress=silent)

    def refuse(root: Path) -> None:
        raise PermissionError(root)

    monkeypatch.setattr(suite_module, "hold_folder", refuse)
    generate_suite(suite_of(), tmp_path, progress=silent)


@pytest.mark.parametrize("changes", [{"train": 5}, {"parameters": {"offset": 0.1}}, {"seed": 1}])
def test_another_recipe_is_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    generate_suite(suite_of(), tmp_path, progress=silent)
    before = trajectories(tmp_path, "train")
    with pytest.raises(DataError, match=r"was made by another recipe .*remove the folder"):
        generate_suite(suite_of(**changes), tmp_path, progress=silent)
    np.testing.assert_array_equal(trajectories(tmp_path, "train"), before)


def test_an_unknown_equation_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    suite = suite_of(equation="reaction_difusion")
    with pytest.raises(
        ConfigError, match=r"dataset dr: .*'reaction_difusion' \(did you mean 'reaction_diffusion'"
    ):
        generate_suite(suite, tmp_path, progress=silent)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_parameter_is_refused_before_anything_is_made(tmp_path: Path) -> None:
    suite = suite_of(parameters={"difusion_u": 1.0})
    with pytest.raises(
        ConfigError, match=r"no parameter 'difusion_u' \(did you mean 'diffusion_u'"
    ):
        generate_suite(suite, tmp_path / "new", progress=silent)
    assert not (tmp_path / "new").exists()


def test_a_valid_split_is_optional_and_changes_nothing_else(tmp_path: Path) -> None:
    lines: list[str] = []
    without, with_valid = suite_of(), suite_of(valid=3)
    assert without.recipe("dr") == suite_of(valid=0).recipe("dr") != with_valid.recipe("dr")
    generate_suite(without, tmp_path / "without", progress=silent)
    generate_suite(with_valid, tmp_path / "with", progress=lines.append)
    assert "4 train, 3 valid and 2 test trajectories" in lines[-1]
    assert open_store(tmp_path / "with", "dr").num_trajectories("valid") == 3
    for split in ("train", "test"):
        np.testing.assert_array_equal(
            trajectories(tmp_path / "with", split), trajectories(tmp_path / "without", split)
        )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"train": 500_001},
            "train=500001; a suite has seeds for 500000 trajectories of",
        ),
        ({"test": 500_001}, "test=500001; a suite has seeds for 500000 trajectories of"),
        (
            {"valid": 250_001},
            "valid=250001; a suite has seeds for 250000 trajectories of",
        ),
        ({"valid": 1, "test": 250_001}, "test=250001; a suite has seeds for 250000 trajectories"),
    ],
)
def test_splits_that_would_share_seeds_are_refused(
    changes: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"dataset dr: {sentence}"):
        generate_suite(suite_of(**changes), tmp_path, progress=silent)


def test_a_solution_that_blows_up_is_not_stored(tmp_path: Path) -> None:
    suite = suite_of(parameters={"diffusion_u": -30.0}, frame_interval=5.0)
    with pytest.raises(DataError, match="holds NaN or infinite values"):
        generate_suite(suite, tmp_path, progress=silent)
    assert stored_names(tmp_path) == []


def _generate_slowly(root: Path) -> None:
    """Solve one trajectory at a time, so that a kill finds a dataset half made."""
    workers_module.VALUES_TOGETHER = 1
    generate_suite(suite_of(train=100_000), root, progress=silent)


def test_a_killed_generation_starts_again(tmp_path: Path) -> None:
    child = multiprocessing.get_context("spawn").Process(target=_generate_slowly, args=(tmp_path,))
    child.start()
    while not (tmp_path / ".dr.partial").exists():
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    with pytest.raises(DataError, match="was left unfinished"):
        open_store(tmp_path, "dr")
    generate_suite(suite_of(), tmp_path, progress=silent)
    assert trajectories(tmp_path, "train").shape == (4, 3, 2, 8, 8)
    assert not (tmp_path / ".dr.partial").exists()


LARGE: dict[str, Any] = {"train": 40, "test": 3}


def _generate_and_keep_all(root: Path) -> None:
    workers_module.VALUES_TOGETHER = 1
    solved_module.SECONDS_BETWEEN_SAVES = 0.0
    solve = workers_module.solve

    def slowly(part: Part) -> Solved:
        time.sleep(0.05)
        return solve(part)

    workers_module.solve = slowly
    generate_suite(suite_of(**LARGE), root, progress=silent)


@pytest.mark.parametrize("shard_bytes", [2**28, 8 * 3 * 2 * 8**2 * 4])
def test_a_killed_generation_continues(
    shard_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where no shard was complete: what was solved is not solved again, and is the same."""
    root = tmp_path / "killed"
    child = multiprocessing.get_context("spawn").Process(
        target=_generate_and_keep_all, args=(root,)
    )
    child.start()
    while len(list(root.glob(".dr.*.solved/*.npy"))) < 8:
        assert child.is_alive()
        time.sleep(0.01)
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    solved: list[int] = []
    solve = workers_module.solve

    def noted(part: Part) -> Solved:
        solved.extend(part.seeds)
        return solve(part)

    monkeypatch.setattr(workers_module, "solve", noted)
    monkeypatch.setattr(suite_module, "StoreWriter", partial(StoreWriter, shard_bytes=shard_bytes))
    lines: list[str] = []
    generate_suite(suite_of(**LARGE), root, progress=lines.append)
    assert re.fullmatch(r"dr: \d+ of 43 trajectories are solved already", lines[0])
    kept = int(lines[0].split()[1])
    assert kept >= 8
    assert len(solved) == len(set(solved)) == 43 - kept
    cost = read_cost(root / "dr")
    assert cost is not None
    assert {split: len(seconds) for split, seconds in cost.seconds.items()} == LARGE
    assert all(second for seconds in cost.seconds.values() for second in seconds)
    generate_suite(suite_of(**LARGE), tmp_path / "at once", progress=silent)
    digests = [
        sorted(sha256(path) for path in folder.rglob("*.h5"))
        for folder in (root, tmp_path / "at once")
    ]
    assert digests[0] == digests[1]
    assert {path.name for path in root.iterdir()} == {".lock", "dr"}


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "other"])
def test_a_damaged_part_that_was_kept_is_solved_again(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    root = tmp_path / "kept"
    with monkeypatch.context() as keeping:
        keeping.setattr(solved_module, "SECONDS_BETWEEN_SAVES", 0.0)
        keeping.setattr(SolvedParts, "remove", lambda _: None)
        generate_suite(suite_of(), root, progress=silent)
    expected = trajectories(root, "train")
    shutil.rmtree(root / "dr")
    (folder,) = root.glob(".dr.*.solved")
    kept = sorted(folder.glob("*.npy"))[0]
    content = kept.read_bytes()
    spoiled = {"empty": b"", "cut": content[: len(content) // 2], "text": b"no array"}
    if damage == "other":
        np.save(kept, np.zeros((1, 3, 2, 8, 9), np.float32))
    else:
        kept.write_bytes(spoiled[damage])
    (folder / "notes-of mine.npy").write_bytes(b"")
    generate_suite(suite_of(), root, progress=silent)
    np.testing.assert_array_equal(trajectories(root, "train"), expected)
    (said,) = caplog.messages
    assert said.startswith(f"{kept} is damaged (")
    assert said.endswith("): what it held is solved again")
    assert not list(root.glob(".dr.*"))


def test_what_another_recipe_solved_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(solved_module, "SECONDS_BETWEEN_SAVES", 0.0)
    monkeypatch.setattr(SolvedParts, "remove", lambda _: None)
    generate_suite(suite_of(), tmp_path / "a", progress=silent)
    (folder,) = (tmp_path / "a").glob(".dr.*.solved")
    assert list(folder.glob("*.npy"))
    monkeypatch.undo()
    shutil.copytree(folder, tmp_path / "b" / folder.name)
    changed = suite_of(parameters={"offset": 0.1})
    generate_suite(changed, tmp_path / "b", progress=silent)
    generate_suite(changed, tmp_path / "c", progress=silent)
    both = [trajectories(tmp_path / folder, "train") for folder in ("b", "c")]
    np.testing.assert_array_equal(*both)
    assert not list((tmp_path / "b").glob(".dr.*"))


def test_the_cost_of_a_dataset_is_no_part_of_it(tmp_path: Path) -> None:
    generate_suite(suite_of(), tmp_path, progress=silent)
    cost = read_cost(tmp_path / "dr")
    assert cost is not None
    assert {split: len(seconds) for split, seconds in cost.seconds.items()} == {
        "train": 4,
        "test": 2,
    }
    before = dataset_digest(read_index(tmp_path / "dr" / "index.json"))
    (tmp_path / "dr" / COST).unlink()
    assert read_cost(tmp_path / "dr") is None
    assert dataset_digest(read_index(tmp_path / "dr" / "index.json")) == before
    assert verify_dataset(open_store(tmp_path, "dr")).problems == []


def _generate_and_report(root: Path, together: Any, made: Any) -> None:
    lines: list[str] = []
    workers_module.VALUES_TOGETHER = 1  # slow enough for the other process to come in between
    together.wait()
    generate_suite(suite_of(train=300), root, progress=lines.append)
    made.put((len(lines), open_store(root, "dr").num_trajectories("train")))


def test_of_two_processes_one_generates_and_the_other_waits(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, made = context.Barrier(2), context.Queue()
    children = [
        context.Process(target=_generate_and_report, args=(tmp_path, together, made))
        for _ in range(2)
    ]
    for child in children:
        child.start()
    answers = sorted(made.get(timeout=120) for _ in children)
    for child in children:
        child.join()
    assert answers == [(0, 300), (1, 300)]


def test_what_a_trajectory_draws_is_stored_with_it(tmp_path: Path) -> None:
    recipes = {
        "swe": recipe_of("shallow_water"),
        "smoke": recipe_of("smoke", parameters={"smallest_buoyancy": 0.2}),
        "flow": recipe_of("obstacle_mixture"),
    }
    generate_suite(SuiteConfig(name="s", datasets=recipes), tmp_path, progress=silent)
    swe, smoke, flow = (open_store(tmp_path, name).parameters("train") for name in recipes)
    assert swe["seed"].tolist() == [0, 1, 2, 3]
    assert swe["radius"].tolist() == [ShallowWater().radius(seed) for seed in range(4)]
    # And what its equation has for all of them, whether the recipe says it or not.
    assert swe["inner"].tolist() == [2.0] * 4
    assert smoke["smallest_buoyancy"].tolist() == [0.2] * 4
    assert 0.2 <= smoke["buoyancy"].min() < smoke["buoyancy"].max() <= 0.5
    assert [name.decode() for name in flow["problem"]] == [problem_of(seed) for seed in range(4)]
    assert flow["reynolds"].min() >= 50

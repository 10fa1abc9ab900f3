"""Whatever is written in an index, the store gives the stored values or a sentence."""

import copy
import json
import random
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from dpot_scale.config.data import DataConfig
from dpot_scale.data.store.completeness import check_largest
from dpot_scale.data.store.dataset import INDEX, LINKED, SPLITS, DatasetStore, open_store
from dpot_scale.data.store.index import read_index
from dpot_scale.data.store.shards import View, ViewedArray
from dpot_scale.data.store.verify import verify_dataset
from dpot_scale.data.store.writer import StoreWriter
from dpot_scale.data.stream.assembly import Assembler, Window
from dpot_scale.data.stream.mixture import Cut
from dpot_scale.data.stream.reader import training_windows
from dpot_scale.errors import DataError
from dpot_scale.models.dpot.config import DPOTConfig

NAME, FRAMES, GRID = "odd", 5, 4
NUMBERS = (-1, 0, 1, 2, 3, 7, 10**30, -0.5, 1.5, 1e300, float("nan"), float("inf"))
TEXTS = ("", "x", "../x", "/dev/null", "a" * 5000)
VALUES = (None, True, False, *NUMBERS, *TEXTS, [], {}, [[]], [None], {"x": 1}, [1, 2, 3])
SAMPLED = 400  # of all mutations, 1,576 of one dataset and 2,797 of the other
Mutation = tuple[str, Any]  # what it does, and the index


def mutations(index: Any) -> Iterator[Mutation]:
    """Yield an index with one thing wrong, for every place in it and every kind of mistake."""
    for path, value in nodes(index):
        where = ".".join(map(str, path))
        for other in VALUES:
            yield f"{where} = {other!r:.40}", replaced(index, path, other)
        if path:
            yield f"without {where}", replaced(index, path, None, remove=True)
        if isinstance(value, dict):
            yield f"{where}.unknown", replaced(index, path, value | {"unknown": 1})
        if isinstance(value, list) and value:
            yield f"{where} + 1", replaced(index, path, [*value, value[-1]])
            yield f"{where} - 1", replaced(index, path, value[:-1])
        if isinstance(value, int | float):
            yield f"{where} * -1", replaced(index, path, -value)
            yield f"{where} as text", replaced(index, path, f"{value} ")


def nodes(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    yield path, node
    inner = node if isinstance(node, dict) else {}
    if isinstance(node, list):
        inner = dict(enumerate(node))
    for key, value in inner.items():
        yield from nodes(value, (*path, key))


def replaced(index: Any, path: tuple[Any, ...], value: object, *, remove: bool = False) -> Any:
    if not path:
        return value
    made = copy.deepcopy(index)
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    if remove:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return made


def use(store: DatasetStore) -> Iterator[np.ndarray]:
    """Do with a dataset what training and evaluation do; yield frames of all its trajectories."""
    check_largest(store)
    windows = training_windows({NAME: store}, FRAMES - 1, (1,))[NAME]
    data = DataConfig(weights={NAME: 1.0}, normalize="dataset", mask_points=True)
    model = DPOTConfig(grid=GRID, channels=4, space_dims=len(store.info.grid))
    assembler = Assembler(model, data, torch.device("cpu"))
    for cut in (windows[0], windows[len(windows) - 1]):
        window = Window(store, "train", cut)
        batch = assembler.batch([window], assembler.empty(1, FRAMES - 1))
        assert bool(batch.frames_BTCxy.isfinite().all())
    for split in SPLITS:
        store.parameters(split)
        for number in range(store.num_trajectories(split)):
            yield store.read(split, number, 0, store.num_frames(split, number))
            store.times(split, number)
    if store.num_trajectories("test"):
        window = Window(store, "test", Cut(0, 0, 1))
        assembler.batch([window], assembler.empty(1, store.num_frames("test")))


@pytest.fixture
def own(describe, coded, tmp_path: Path) -> DatasetStore:
    """Two shards for training, each field with a mask."""
    info = replace(
        describe(NAME, ("u", "v", "mask")),
        scored=(True, True, False),
        fluid_mask="mask",
        coordinates=((0.0, 0.1, 0.3, 1.0), (0.0, 1.0, 2.0, 3.0)),
    )
    fields = coded(0, 5, FRAMES, 3, GRID)
    fields[:, :, 2] = 1
    times = np.array([[0, 1, 2, 4, 8.0]] * 5)
    with StoreWriter(tmp_path, info, shard_bytes=2 * fields[0].nbytes) as writer:
        writer.append("train", fields[:4], {"seed": np.arange(4)}, {"time": times[:4]})
        writer.append("test", fields[4:], {"seed": np.arange(1)}, {"time": times[4:]})
    return open_store(tmp_path, NAME)


@pytest.fixture
def linked(describe, coded, tmp_path: Path) -> DatasetStore:
    """Parts of one published file with the axes in another order."""
    info = replace(describe(NAME, ("u", "v", "mask")), scored=(True, True, False))
    fields = coded(0, 5, FRAMES, 3, GRID)
    fields[:, :, 2] = 1
    with h5py.File(tmp_path / "published.h5", "w") as file:
        file["u"] = fields[:, :, 0].transpose(1, 0, 2, 3)
        file["v"] = fields[:, :, 1:2, None].transpose(0, 1, 2, 5, 4, 3)
    view = View(
        file=str(tmp_path / "published.h5"),
        arrays=(
            ViewedArray("u", ("time", "trajectory", "x", "y")),
            ViewedArray("v", ("trajectory", "time", "channel", "y", "x", "level")),
        ),
        spatial_axes=("x", "y"),
        trajectories=5,
        frames=FRAMES,
    )
    with StoreWriter(tmp_path, info) as writer:
        for split, rows in (("train", range(4)), ("test", range(4, 5))):
            blocks = ((0, fields[row]) for row in rows)
            part = view.part(rows.start, len(rows), FRAMES)
            writer.link(split, part, "0" * 64, blocks, {"seed": np.array(rows)})
    return open_store(tmp_path, NAME)


def outcome(store: DatasetStore, index: object, stored: set[bytes]) -> str | None:
    """Return what is wrong with how the store takes an index; None if it is as it should be."""
    (store.folder / INDEX).write_text(json.dumps(index))
    try:
        found = {frame.tobytes() for t in use(open_store(store.folder.parent, NAME)) for frame in t}
    except DataError as error:
        said = str(error)
        # The file, and where it speaks of the index, which field of it.
        where = r"(index\.json is not a dataset index \(.{2,}\)|/\S+|dataset odd .*model\.history)"
        return None if re.search(where, said) and "\n" not in said else f"unclear: {said}"
    except Exception as error:  # the very thing that must not happen
        return f"{type(error).__name__}: {error}"
    return None if found <= stored else "other values, and not a word"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["own", "linked"])
def test_a_wrong_index_gives_right_values_or_a_sentence(
    kind: str, request: pytest.FixtureRequest
) -> None:
    store: DatasetStore = request.getfixturevalue(kind)
    stored = {frame.tobytes() for trajectory in use(store) for frame in trajectory}
    index = json.loads((store.folder / INDEX).read_text())
    every = list(mutations(index))
    random.Random(0).shuffle(every)
    assert len(every) > 1500
    wrong = {
        what: problem
        for what, mutated in every[:SAMPLED]
        if (problem := outcome(store, mutated, stored)) is not None
    }
    assert wrong == {}


@pytest.mark.parametrize("text", ["", "[" * 100_000, '{"info": ' * 5000, "\xff\xfe", "null", "{}"])
def test_what_is_no_json_is_no_index(text: str, own: DatasetStore) -> None:
    (own.folder / INDEX).write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"index\.json is not a dataset index \(.+\); make the"):
        open_store(own.folder.parent, NAME)


@pytest.mark.parametrize(
    ("place", "value", "sentence"),
    [
        (("info", "scored"), [True], "info.scored has 1 values for 3 channels"),
        (("info", "grid"), [4], "info.grid has 1 values for 2 spatial axes"),
        (("info", "frame_interval"), 0, "info.frame_interval=0: must be more than 0"),
        (("statistics", "std"), [1, -1, 1], "statistics.std.1=-1: must be at least 0"),
        (("splits", "train", 1, "file"), "../a.h5", "splits.train.1: file='../a.h5' does not lie"),
        (("splits", "train", 1, "file"), "a\0.h5", "no file can have this name"),
        (("splits", "test"), 5, "splits.test=5: must be a list"),
        (("splits", "train", 1, "frames"), 2**31, "frames=2147483648: must be less than 21474"),
        (("splits", "train", 0, "trajectories"), 10**30, "must be less than 2147483648"),
        (("info", "fluid_mask"), "u", "info.fluid_mask='u' is no channel that info.scored leaves"),
        (("info", "coordinates"), [[0, 1], [0]], "info.coordinates are of (2, 1) points, and "),
        (("info", "pt"), 5, "it has info.pt, which this version does not know"),
    ],
)
def test_the_sentence_names_the_field(
    place: tuple[Any, ...], value: object, sentence: str, own: DatasetStore
) -> None:
    index = json.loads((own.folder / INDEX).read_text())
    (own.folder / INDEX).write_text(json.dumps(replaced(index, place, value)))
    with pytest.raises(DataError, match=re.escape(sentence)):
        read_index(own.folder / INDEX)


def test_trajectories_of_the_first_format_are_equally_long(own: DatasetStore) -> None:
    index = json.loads((own.folder / INDEX).read_text())
    index["splits"]["train"][0]["frames"] = 6
    (own.folder / INDEX).write_text(json.dumps(index | {"format": 1}))
    with pytest.raises(DataError, match=re.escape("splits.train: frames differ, from 5 to 6")):
        read_index(own.folder / INDEX)
    (own.folder / INDEX).write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"it holds float32 \(.*where index.json says .* \(3, 6"):
        check_largest(open_store(own.folder.parent, NAME))


def test_verify_does_not_count_to_a_number_that_is_wrong(linked: DatasetStore) -> None:
    index = json.loads((linked.folder / INDEX).read_text())
    index["splits"]["train"][0]["trajectories"] = 2**31 - 1
    index["splits"]["train"][0]["view"]["trajectories"] = 2**31 - 1
    (linked.folder / INDEX).write_text(json.dumps(index))
    found = verify_dataset(open_store(linked.folder.parent, NAME))
    assert [problem for problem in found.problems if "published.h5 cannot be read" in problem]
    assert len(found.problems) < 5


def test_a_mask_that_cannot_be_read_is_named_by_its_file(linked: DatasetStore) -> None:
    with h5py.File(linked.folder / LINKED, "r+") as file:
        del file["test/constants"]
        file["test/constants"] = np.ones((1, 1, 5, 5))
    place = re.escape(f"cannot read {linked.folder / LINKED} (it holds float64 (1, 1, 5, 5) where")
    linked.read("train", 0, 0, 1)
    with pytest.raises(DataError, match=place):
        linked.read("test", 0, 0, 1)


def test_a_bad_value_of_a_linked_file_is_named_by_its_place_there(linked: DatasetStore) -> None:
    with h5py.File(linked.shards["test"][0].file, "r+") as file:
        file["u"][2, 4] = np.nan
    frames = linked.read("test", 0, 0, FRAMES)
    with pytest.raises(DataError, match=r"test trajectory 0 \(row 4 of the file\), .* frame 2 "):
        linked.check_finite("test", 0, 0, frames)


@pytest.mark.parametrize("kind", ["own", "linked"])
def test_one_field_is_not_taken_for_two(kind: str, request: pytest.FixtureRequest) -> None:
    store: DatasetStore = request.getfixturevalue(kind)
    index = json.loads((store.folder / INDEX).read_text())
    index["info"]["channels"] = ["u", "v", "w", "mask"]
    index["info"]["scored"] = [True, True, True, False]
    for values in index["statistics"].values():
        values.append(1.0)
    (store.folder / INDEX).write_text(json.dumps(index))
    claimed = open_store(store.folder.parent, NAME)
    with pytest.raises(DataError, match=r"it holds float32 \(.* says real numbers \(.*, 3, 4, 4\)"):
        check_largest(claimed)


@pytest.mark.parametrize(
    ("origin", "channels", "expected"),
    [
        ("generated", ["u", "v", "mask"], "mask"),
        ("generated", ["smoke", "mask"], "mask"),
        ("imported", ["u", "v", "mask"], "mask"),  # of CFDBench
        ("imported", ["pressure_re", "pressure_im", "mask"], ""),  # of helmholtz_staircase
        ("generated", ["u", "density"], ""),
    ],
)
def test_which_mask_an_index_of_the_first_format_means(
    origin: str, channels: list[str], expected: str, make_store
) -> None:
    path = make_store(channels=tuple(channels)).folder / INDEX
    index = json.loads(path.read_text())
    del index["format"], index["info"]["fluid_mask"], index["info"]["coordinates"]
    index["info"] |= {"origin": origin, "scored": [True] * (len(channels) - 1) + [False]}
    path.write_text(json.dumps(index))
    info = read_index(path).info
    assert info.fluid_mask == expected
    assert info.coefficient[-1] == (expected == "")

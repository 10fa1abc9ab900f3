"""What cannot be read is replaced: the same by any number of ranks and after every resume."""

import errno
import itertools
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from dpot_scale.config.batch import BatchConfig
from dpot_scale.config.data import DataConfig
from dpot_scale.data.store import open_files
from dpot_scale.data.store.dataset import DatasetStore
from dpot_scale.data.stream import patience
from dpot_scale.data.stream.assembly import Assembler, Batch
from dpot_scale.data.stream.groups import open_groups
from dpot_scale.data.stream.mixture import BLOCK, Mixture
from dpot_scale.data.stream.patience import Patience
from dpot_scale.data.stream.quarantine import Quarantined, stand_ins
from dpot_scale.data.stream.reader import BatchStream, Share, training_windows
from dpot_scale.errors import DataError, MachineError
from dpot_scale.models.dpot.config import DPOTConfig

CPU = torch.device("cpu")
FRAMES, STEPS, GLOBAL_BATCH = 3, 4, 12
POSITIONS = range(STEPS * GLOBAL_BATCH)
WEIGHTS = {"a": 1.0, "b": 2.0}

Found = tuple[dict[int, torch.Tensor], dict[int, Quarantined]]


def mixture_of(stores: Mapping[str, DatasetStore], shapes: str = "resize") -> Mixture:
    data = DataConfig.model_validate({"weights": WEIGHTS, "shapes": shapes})
    assembler = Assembler(DPOTConfig(grid=4, channels=3), data, CPU)
    grids = {name: assembler.space_of(store) for name, store in stores.items()}
    windows = training_windows(stores, FRAMES)
    return open_groups(windows, grids, data, global_batch=GLOBAL_BATCH, seed=5)


@contextmanager
def stream_of(
    stores: Mapping[str, DatasetStore],
    share: Share,
    known: Mapping[int, int],
    shapes: str,
    first_step: int = 0,
) -> Iterator[Iterator[Batch]]:
    data = DataConfig.model_validate({"weights": WEIGHTS, "shapes": shapes})
    assembler = Assembler(DPOTConfig(grid=4, channels=3), data, CPU)
    stream = BatchStream(stores, mixture_of(stores, shapes), share, assembler, FRAMES, known)
    try:
        yield stream.start(first_step)
    finally:
        stream.close()


def seen(
    stores: Mapping[str, DatasetStore],
    *,
    world_size: int = 1,
    micro_batch: int = 2,
    first_step: int = 0,
    known: Mapping[int, int] | None = None,
    shapes: str = "resize",
) -> Found:
    """Return the frames at each position of some steps, and what could not be read there."""
    batch = BatchConfig(global_batch=GLOBAL_BATCH, micro_batch=micro_batch)
    micro_steps = range(batch.accumulation_steps(world_size))
    frames: dict[int, torch.Tensor] = {}
    quarantined: dict[int, Quarantined] = {}
    for rank in range(world_size):
        share = Share(batch, rank, world_size)
        with stream_of(stores, share, known or {}, shapes, first_step) as batches:
            for _ in itertools.product(range(first_step, STEPS), micro_steps):
                made = next(batches)
                frames |= dict(zip(made.positions, made.frames_BTCxy.clone(), strict=True))
                quarantined |= {one.position: one for one in made.quarantined}
    return frames, quarantined


def spoil(store: DatasetStore, trajectory: int, frame: int) -> None:
    """Make a value of a frame NaN."""
    shard = store.folder / store.shards["train"][0].file
    with h5py.File(shard, "r+") as file:
        file["fields"][trajectory, frame, 0, 0, 0] = np.nan


@pytest.fixture
def spoiled(stores: Mapping[str, DatasetStore]) -> Mapping[str, DatasetStore]:
    """One trajectory of four, and a frame of another dataset, cannot be read."""
    for frame in range(6):
        spoil(stores["a"], 2, frame)
    spoil(stores["b"], 1, 0)
    return stores


def unreadable(stores: Mapping[str, DatasetStore], shapes: str = "resize") -> set[int]:
    mixture, found = mixture_of(stores, shapes), set()
    for position in range(POSITIONS.stop + BLOCK):
        name, cut = mixture.locate(position)
        if (name, cut.trajectory) == ("a", 2) or (name, cut.trajectory, cut.start) == ("b", 1, 0):
            found.add(position)
    return found


def test_another_window_of_the_step_is_seen_in_its_place(spoiled) -> None:
    bad = unreadable(spoiled)
    frames, quarantined = seen(spoiled)
    assert quarantined.keys() == bad & set(POSITIONS)
    assert len(quarantined) > 3
    for position, one in quarantined.items():
        readable = (p for p in stand_ins(position, GLOBAL_BATCH, []) if p not in bad)
        assert one.stand_in == next(readable)
        assert torch.equal(frames[position], frames[one.stand_in])
    assert all(window.isfinite().all() for window in frames.values())


def test_the_record_names_file_trajectory_and_frame(spoiled) -> None:
    mixture = mixture_of(spoiled)
    for position, one in seen(spoiled)[1].items():
        name, cut = mixture.locate(position)
        assert (one.dataset, one.trajectory, one.frame, one.stride) == (name, *cut)
        assert one.file == str(spoiled[name].folder / "train" / "shard-00000.h5")
        assert f"train trajectory {cut.trajectory}" in one.reason


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 12), (2, 2), (3, 4), (6, 1)])
def test_any_number_of_ranks_replaces_the_same(spoiled, world_size, micro_batch) -> None:
    expected, found = seen(spoiled), seen(spoiled, world_size=world_size, micro_batch=micro_batch)
    assert found[1] == expected[1]
    assert all(torch.equal(found[0][position], expected[0][position]) for position in POSITIONS)


@pytest.mark.parametrize("is_known", [True, False])
def test_a_resumed_run_replaces_the_same(spoiled, is_known) -> None:
    """Whether it knows already what could not be read, or finds it again."""
    frames, quarantined = seen(spoiled)
    known = {position: one.stand_in for position, one in quarantined.items()} if is_known else {}
    tail, again = seen(spoiled, first_step=2, world_size=2, known=known)
    later = {position: one for position, one in quarantined.items() if position >= 24}
    assert again == ({} if is_known else later)
    assert all(torch.equal(window, frames[position]) for position, window in tail.items())


def test_what_is_known_is_not_read_again(stores) -> None:
    """Data that can be read by now, after a disturbance, change nothing for a resumed run."""
    frames, quarantined = seen(stores, known={3: 4, 30: 24})
    assert quarantined == {}
    assert torch.equal(frames[3], frames[4])
    assert torch.equal(frames[30], frames[24])


def test_healthy_windows_are_the_same_beside_bad_ones(stores) -> None:
    before, none = seen(stores)
    assert none == {}
    for store in stores.values():
        store.close()
    spoil(stores["a"], 2, 3)
    after, quarantined = seen(stores)
    assert 0 < len(quarantined) < len(POSITIONS)
    kept = [position for position in POSITIONS if position not in quarantined]
    assert all(torch.equal(after[position], before[position]) for position in kept)


def test_a_window_that_can_be_read_from_a_file_opened_anew_is_kept(stores, monkeypatch) -> None:
    """A disturbance that passes leaves no trace."""
    before, _ = seen(stores)
    read, failed = DatasetStore.read, set()

    def disturbed(store, split, trajectory, *rest, **more):
        if trajectory == 2 and store.info.name not in failed:
            failed.add(store.info.name)
            raise DataError("the server does not answer")
        return read(store, split, trajectory, *rest, **more)

    monkeypatch.setattr(DatasetStore, "read", disturbed)
    after, quarantined = seen(stores)
    assert (failed, quarantined) == ({"a", "b"}, {})
    assert all(torch.equal(after[position], before[position]) for position in POSITIONS)


def test_storage_that_is_away_for_a_while_is_waited_for(stores, monkeypatch) -> None:
    monkeypatch.setattr(patience, "WAITS", (0.01, 0.01, 0.01))
    before, _ = seen(stores)
    for store in stores.values():
        store.close()
    opened = fail_to_open(monkeypatch, errno.ESTALE, times=3)
    after, quarantined = seen(stores)
    assert (len(opened), quarantined) == (3, {})
    assert all(torch.equal(after[position], before[position]) for position in POSITIONS)


def test_storage_that_stays_away_is_waited_for_three_times(stores, monkeypatch) -> None:
    """Then each window is judged at once, as a broken disk must not cost that time for each."""
    waited = []

    def awaited(_: Patience, __: object, failure: Exception) -> None:
        waited.append(failure)
        raise failure

    monkeypatch.setattr(Patience, "_awaited", awaited)
    shard = str(stores["a"].folder / "train" / "shard-00000.h5")
    fail_to_open(monkeypatch, errno.EIO, only=shard)
    _, quarantined = seen(stores)
    assert len(waited) == 3
    assert {one.file for one in quarantined.values()} == {shard}


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_a_machine_that_lacks_something_never_costs_a_window(stores, monkeypatch, number) -> None:
    monkeypatch.setattr(patience, "WAITS", (0.01,))
    fail_to_open(monkeypatch, number, only=str(stores["a"].folder / "train" / "shard-00000.h5"))
    with pytest.raises(MachineError, match="the file may be intact"):
        seen(stores)


def fail_to_open(
    monkeypatch: pytest.MonkeyPatch, number: int, *, times: int | None = None, only: str = ""
) -> list[str]:
    """Let files fail to open; return the list of those that have, which grows."""
    open_hdf5, failed = open_files.open_hdf5, list[str]()

    def opened(path: str, mode: str = "r") -> h5py.File:
        if path.startswith(only) and (times is None or len(failed) < times):
            failed.append(path)
            raise OSError(number, os.strerror(number))
        return open_hdf5(path, mode)

    monkeypatch.setattr(open_files, "open_hdf5", opened)
    return failed


def test_a_dataset_that_vanishes_is_replaced_by_the_others(stores) -> None:
    (stores["a"].folder / "train" / "shard-00000.h5").unlink()
    mixture = mixture_of(stores)
    frames, quarantined = seen(stores)
    assert quarantined.keys() == {p for p in POSITIONS if mixture.locate(p)[0] == "a"}
    assert {mixture.locate(one.stand_in)[0] for one in quarantined.values()} == {"b"}
    assert all(torch.equal(frames[p], frames[one.stand_in]) for p, one in quarantined.items())


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 12), (3, 2)])
def test_a_stand_in_is_of_the_same_grid(spoiled, world_size, micro_batch) -> None:
    _, found = seen(spoiled, world_size=world_size, micro_batch=micro_batch, shapes="native")
    mixture = mixture_of(spoiled, "native")
    assert found.keys() == unreadable(spoiled, "native") & set(POSITIONS)
    for position, one in found.items():
        assert mixture.locate(position)[0] == mixture.locate(one.stand_in)[0]


def test_where_nothing_of_a_grid_can_be_read_the_stream_ends(stores) -> None:
    shard = stores["a"].folder / "train" / "shard-00000.h5"
    shard.write_bytes(shard.read_bytes()[:100])
    with pytest.raises(DataError, match=f"cannot read {shard} .* for train trajectory "):
        seen(stores, shapes="native")


def test_a_shard_that_is_cut_while_it_is_read_is_found(stores) -> None:
    shard = stores["b"].folder / "train" / "shard-00000.h5"
    share = Share(BatchConfig(global_batch=GLOBAL_BATCH, micro_batch=12))
    with stream_of(stores, share, {}, "resize") as batches:
        next(batches)
        content = shard.read_bytes()
        with shard.open("r+b") as file:
            file.truncate(len(content) // 2)
        batch = next(b for b in batches if b.quarantined)
        assert {one.file for one in batch.quarantined} == {str(shard)}
        with suppress(OSError):
            shard.write_bytes(content)


def compress(shard: Path) -> None:
    """Store the fields of a shard as published files do: a compressed chunk per trajectory."""
    with h5py.File(shard, "r+") as file:
        fields = file["fields"][:]
        del file["fields"]
        file.create_dataset("fields", data=fields, chunks=(1, *fields.shape[1:]), compression=4)


def test_a_damaged_chunk_costs_the_windows_of_its_trajectory(stores) -> None:
    """It is found when it is unpacked, in the thread that reads ahead of a step."""
    shard = stores["a"].folder / "train" / "shard-00000.h5"
    before, _ = seen(stores)
    for store in stores.values():
        store.close()
    compress(shard)
    with h5py.File(shard) as file:
        chunk = file["fields"].id.get_chunk_info_by_coord((2, 0, 0, 0, 0))
    with shard.open("r+b") as raw:
        raw.seek(chunk.byte_offset + chunk.size // 2)
        raw.write(b"damaged!")
    after, quarantined = seen(stores)
    mixture = mixture_of(stores)
    cuts = {position: mixture.locate(position) for position in POSITIONS}
    bad = {p for p, (name, cut) in cuts.items() if (name, cut.trajectory) == ("a", 2)}
    assert quarantined.keys() == bad
    assert len(bad) > 1
    assert {(one.file, one.trajectory) for one in quarantined.values()} == {(str(shard), 2)}
    assert all(torch.equal(after[p], before[p]) for p in POSITIONS if p not in bad)

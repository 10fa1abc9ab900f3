"""Decides in which order the files of a dataset are, and what belongs to which split."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dpot_scale.data.catalog import CATALOG
from dpot_scale.data.importers.source import Source
from dpot_scale.data.store.dataset import SPLITS, Split
from dpot_scale.errors import DataError

OWN_TEST_SHARE = 0.1  # of a dataset with a name that the catalogue does not have
SPLIT_WORDS: dict[str, Split] = {"test": "test", "train": "train", "valid": "valid"}
SPLIT_WORD = re.compile(rf"(?<![a-z])({'|'.join(SPLIT_WORDS)})")  # not that of "latest"
ANY_SPLIT_WORD = re.compile(rf"(^|[^a-z])({'|'.join(SPLIT_WORDS)})[a-z]*", re.IGNORECASE)


@dataclass(frozen=True)
class Part:
    """Consecutive trajectories of a source that go to one split."""

    source: Source
    split: Split
    first: int
    trajectories: int


def parts_of(
    sources: Sequence[Source], name: str, *, paper: bool = False, needs_train: bool = False
) -> list[Part]:
    """Return the trajectories of a dataset's sources, split by split.

    Sources without a split of their own give the last of all their trajectories to the test; a
    single one is for the test.

    Args:
        sources: The files of the dataset, in order.
        name: The dataset.
        paper: Whether valid files are trained on, as in the reference.
        needs_train: Whether a dataset for evaluation alone is refused.

    Raises:
        DataError: nothing is left for a split that is needed.
    """
    parts = [Part(s, _split(s.split, paper), 0, s.trajectories) for s in sources if s.split]
    parts += _divided([source for source in sources if source.split is None], name)
    needed: set[Split] = {"train", "test"} if needs_train else {"test"}
    missing = needed - {part.split for part in parts}
    if missing:
        raise DataError(
            f"{_place(sources)} holds no {' and no '.join(sorted(missing))} files of dataset "
            f"{name}; import its train and test files together"
        )
    return sorted(parts, key=lambda part: SPLITS.index(part.split))


def has_train(sources: Sequence[Source], *, paper: bool) -> bool:
    """Return whether `parts_of` gives the train split something."""
    without = sum(source.trajectories for source in sources if source.split is None)
    return without > 1 or any(_split(s.split, paper) == "train" for s in sources if s.split)


def _split(published: Split, paper: bool) -> Split:
    return "train" if paper and published == "valid" else published


def _divided(sources: Sequence[Source], name: str) -> list[Part]:
    parts, left = [], 0
    if sources:
        left = sum(s.trajectories for s in sources) - _test_trajectories(sources, name)
    for source in sources:
        train = min(left, source.trajectories)
        left -= train
        parts += [
            Part(source, "train", 0, train),
            Part(source, "test", train, source.trajectories - train),
        ]
    return [part for part in parts if part.trajectories]


def _test_trajectories(sources: Sequence[Source], name: str) -> int:
    entry, trajectories = CATALOG.get(name), sum(source.trajectories for source in sources)
    share = sources[0].test_share or (entry.test_share if entry else OWN_TEST_SHARE)
    return max(1, min(round(share * trajectories), trajectories - 1))


def _place(sources: Sequence[Source]) -> Path:
    first = sources[0].path
    return first if len(sources) == 1 else first.parent


def by_folder_or_name(path: Path) -> Split | None:
    """Return the split that a path names."""
    for folder in reversed(path.parts[-4:-1]):
        if folder.lower() in SPLIT_WORDS:
            return SPLIT_WORDS[folder.lower()]
    in_name = SPLIT_WORD.search(path.name.lower())
    return SPLIT_WORDS[in_name[0]] if in_name else None


def name_without_split(path: Path) -> str:
    """Return the name of a file without words of splits; of a numbered file, that of its folder."""
    name = ANY_SPLIT_WORD.sub("", path.stem).strip("_.- ")
    if name and not name.isdecimal():
        return name
    folders = (folder.name for folder in path.absolute().parents)
    return next(folder for folder in folders if folder.lower() not in SPLIT_WORDS)


def train_before_valid(sources: Sequence[Source]) -> list[Source]:
    """Return published files in an order that does not depend on the file system."""
    return sorted(sources, key=lambda source: ("valid" in str(source.path), _natural(source.path)))


def _natural(path: Path) -> list[tuple[int, str]]:
    """Return a key by which data_9 comes before data_10."""
    words = re.split(r"(\d+)", str(path))
    return [(int(word), "") if word.isdigit() else (-1, word) for word in words]


def with_split(source: Source) -> Source:
    """Return the source with the split that its path names.

    Raises:
        DataError: it names none.
    """
    split = by_folder_or_name(source.path)
    if split is None:
        raise DataError(
            f"{source.path} does not tell by its path whether it is for training or for the test; "
            "keep the published names, with train, valid or test in them"
        )
    return replace(source, split=split)

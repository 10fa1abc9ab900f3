"""What an archive has beside checkpoints: what the run skips, its metrics, and its MLflow run.

A record that grows is not sent whole each time. It lies there in pieces, each named by the SHA-256
of its content, and a list, written last, says of which pieces each record consists. What an
interruption cut is known by its name: a list counts when it is whole.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from fsspec import AbstractFileSystem

from dpot_scale.checkpoints.answers import Answers
from dpot_scale.config.places import METRICS, MLFLOW_RECORD, QUARANTINE, ROLLBACKS
from dpot_scale.config.record import Record, read_record
from dpot_scale.errors import CheckpointError
from dpot_scale.files import write_whole

# What says of the steps up to a checkpoint how they were made; and what MLflow is to know.
RECORDS = (ROLLBACKS, QUARANTINE, METRICS, MLFLOW_RECORD)
FOLDER = "records"  # where pieces and lists lie; versions before had whole records beside it
PIECE_BYTES = 2**20  # of a record that grows, no more is sent again
PIECE = re.compile("[0-9a-f]{64}", re.A)
LIST = re.compile(f"list_([0-9]{{6,}})_{PIECE.pattern}", re.A)


class RecordList(Record):
    """Which pieces, by their sums, make up each record."""

    pieces: dict[str, list[str]]


class _Listed(NamedTuple):
    """A list, and its name there, which counts up."""

    name: str
    number: int
    content: RecordList


NONE = _Listed("", 0, RecordList(pieces={}))


class ArchivedRecords:
    """The records of one run in its archive.

    Args:
        files: The file system.
        answers: Makes the calls to it.
        root: The folder of the run there.
        url: The archive, for sentences.
    """

    def __init__(
        self, files: AbstractFileSystem, answers: Answers, root: PurePosixPath, url: str
    ) -> None:
        self._files = files
        self._answers = answers
        self._root = root
        self._url = url

    def put(self, directory: Path) -> int:
        """Copy what the folder of a run has and the archive lacks; return how many bytes were sent.

        What the folder has no more stays there.

        Raises:
            CheckpointError: a newer version wrote what is there.
        """
        there = self._sizes(FOLDER)
        before = self._newest(there) or NONE
        pieces, sent = dict(before.content.pieces), 0
        for name in RECORDS:
            if (directory / name).exists():
                pieces[name] = []
                for piece in _pieces(directory / name):
                    digest = _sum(piece)
                    pieces[name].append(digest)
                    if there.get(digest) != len(piece):  # a piece that was cut is shorter
                        sent += self._write(digest, piece)
                        there[digest] = len(piece)
        listed = before.name
        if pieces != before.content.pieces:
            content = RecordList(pieces=pieces).model_dump_json().encode()
            listed = f"list_{before.number + 1:06d}_{_sum(content)}"
            sent += self._write(listed, content)
        used = {listed, *(digest for sums in pieces.values() for digest in sums)}
        self._remove(f"{FOLDER}/{name}" for name in there.keys() - used if _is_ours(name))
        self._remove(set(RECORDS) & pieces.keys() & self._sizes(".").keys())  # of before
        return sent

    def get(self, directory: Path) -> None:
        """Copy what the archive has into the folder of a run.

        Raises:
            CheckpointError: it is damaged, or a newer version wrote it.
        """
        listed = self._newest(self._sizes(FOLDER)) or NONE
        for name in RECORDS:
            if name == MLFLOW_RECORD and (directory / name).exists():
                continue  # its owner has made another
            sums = listed.content.pieces.get(name)
            content = self._read(name) if sums is None else b"".join(map(self._piece, sums))
            if content is not None:
                write_whole(directory / name, content)

    def _newest(self, names: Iterable[str]) -> _Listed | None:
        """Return the newest list that is whole; None where there is none."""
        lists = [(int(found[1]), found[0]) for found in map(LIST.fullmatch, names) if found]
        for number, name in sorted(lists, reverse=True):
            content = self._read(f"{FOLDER}/{name}")
            if content is not None and name.endswith(_sum(content)):
                place = f"{self._url}: {self._root.name}/{FOLDER}/{name}"
                found = read_record(RecordList, json.loads(content), place, CheckpointError)
                return _Listed(name, number, found)
        return None

    def _piece(self, digest: str) -> bytes:
        content = self._read(f"{FOLDER}/{digest}")
        if content is None or _sum(content) != digest:
            place = f"{self._root.name}/{FOLDER}"
            raise CheckpointError(
                f"{place} at {self._url} is damaged, which says what the run skips and holds its "
                f"metrics: remove {place} there to go on without"
            )
        return content

    def _sizes(self, folder: str) -> dict[str, int]:
        """Return the bytes of what lies in a folder, by name."""
        try:
            found = self._answers.of(self._files.ls, str(self._root / folder), detail=True)
        except FileNotFoundError:
            return {}
        return {PurePosixPath(entry["name"]).name: entry["size"] for entry in found}

    def _read(self, name: str) -> bytes | None:
        target = str(self._root / name)
        try:
            size = self._answers.of(self._files.size, target)
            return bytes(self._answers.of(self._files.cat_file, target, size=size or 0))
        except FileNotFoundError:
            return None

    def _write(self, name: str, content: bytes) -> int:
        """Write a piece or a list; return its bytes."""
        target = self._root / FOLDER / name
        self._answers.of(self._files.makedirs, str(target.parent), exist_ok=True)
        self._answers.of(self._files.pipe_file, str(target), content, size=len(content))
        return len(content)

    def _remove(self, names: Iterable[str]) -> None:
        for name in sorted(names):
            self._answers.of(self._files.rm_file, str(self._root / name))


def _pieces(record: Path) -> Iterator[bytes]:
    """Return the content of a file in pieces, all but the last of which stay while it grows."""
    with record.open("rb") as file:
        while piece := file.read(PIECE_BYTES):
            yield piece


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_ours(name: str) -> bool:
    """Return whether a name is that of a piece or a list."""
    return bool(LIST.fullmatch(name) or PIECE.fullmatch(name))

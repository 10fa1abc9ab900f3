"""The rule by which an attempt is given up, from the signs of its ranks and a clock."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dpot_scale.engine.peers import GO_ON
from dpot_scale.runs.signs import Sign

GONE_SECONDS = 5.0  # in which a rank whose peer has ended may say so itself


@dataclass
class _Seen:
    """The newest sign of a rank, and since when there is none that is newer."""

    sign: Sign
    since: float
    gone_since: float | None = None


class Hangs:
    """Says when an attempt is to be given up, by what one rank has seen.

    Args:
        others: The signs of the ranks that are watched, by rank.
        limit: Seconds of `limits.hang`; None: nobody is given up for a hang.
        longest_look: Seconds between two looks, beyond which this process itself was stopped, or
            its disk: what it has not seen, nobody failed to do.
        stacks: The file in which people find where the ranks were.
        now: Seconds, by the same clock as all that follow.
    """

    def __init__(
        self,
        others: Mapping[int, Sign],
        limit: float | None,
        longest_look: float,
        stacks: Path,
        now: float,
    ) -> None:
        self._seen = {rank: _Seen(sign, now) for rank, sign in others.items()}
        self._limit = limit
        self._longest_look = longest_look
        self._what_to_do = f"the stacks are in {stacks}; {GO_ON}"
        self._moved = self._looked = now

    @property
    def watched(self) -> list[int]:
        """The ranks whose signs count."""
        return list(self._seen)

    @property
    def signs(self) -> list[Sign]:
        """The newest signs of the others."""
        return [seen.sign for seen in self._seen.values()]

    def look(self, now: float, *, has_moved: bool) -> None:
        """Note a look, and whether this rank has moved on since the one before."""
        if now - self._looked > self._longest_look:
            self.forgive(now)
        self._looked = now
        if has_moved:
            self._moved = now

    def forgive(self, now: float) -> None:
        """Give all ranks the whole limit again, as this one could not see what they did."""
        self._moved = now
        for seen in self._seen.values():
            seen.since = now

    def hear(self, rank: int, sign: Sign | None, now: float) -> None:
        """Note what is read of another rank; None: nothing could be."""
        seen = self._seen[rank]
        if sign is None or sign == seen.sign or sign.attempt < seen.sign.attempt:
            is_gone = not seen.sign.is_closed and seen.sign.is_gone
            seen.gone_since = (seen.gone_since or now) if is_gone else None
            return
        if sign.moves != seen.sign.moves:
            self._moved = now
        seen.sign, seen.since, seen.gone_since = sign, now, None

    def verdict(self, own: Sign, now: float) -> str | None:
        """Return why the attempt is to be given up, if it is: a word, and behind ": " a sentence.

        Args:
            own: The sign of this rank.
            now: Seconds.
        """
        others = [seen for seen in self._seen.values() if not seen.sign.is_closed]
        for seen in others:
            if seen.gone_since is not None and now - seen.gone_since >= GONE_SECONDS:
                return f"lost_peer: {seen.sign.who} ended and the others wait for it; {GO_ON}"
        if self._limit is None:
            return None
        limit = f"{self._limit / 60:g} minutes (limits.hang)"
        for seen in others:
            if now - seen.since >= self._limit:
                why = "it was stopped, or its machine or disk hangs"
                return f"hung: no sign of {seen.sign.who} for {limit}: {why}; {self._what_to_do}"
        if own.rank == 0 and now - self._moved >= self._limit:
            return f"hung: {_stuck([own, *self.signs], limit)}; {self._what_to_do}"
        return None


def _stuck(signs: list[Sign], limit: str) -> str:
    """Return which rank did not move on, and where."""
    stuck = [sign for sign in signs if not (sign.waits or sign.is_closed)]
    if not stuck:
        return f"for {limit} all ranks waited for each other, in {signs[0].at}"
    others = " while the others waited for it" if len(stuck) < len(signs) else ""
    return f"{stuck[0].who} did not move on for {limit}{others}, in {stuck[0].at}"

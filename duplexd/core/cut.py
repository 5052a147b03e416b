"""A cut as the journal recorded it: a marker at one position of the sequence.

Only the ledger writes it. What is known only while the daemon runs (how long the hold lasted,
whether the cut was announced) is kept by the engine's `cut_archive`, since a restart forgets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.core import cut_states

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from duplexd.json_object import Json


class Cut:
    """The point a secondary is suspended at; or a mark, at which none is: see `mark_book.py`.

    `state` is one of `cut_states`. `members` names the controllers that take it together. `crc` and
    `chain` are the checksums of its record and of the one before it; None where this run did not
    write it, or where a new segment begins with it. `why` names the failure of a secondary that
    made the cut, or that made it void. `doubt`: how legs at it differ, which makes it void, but one
    that is prepared only once the others agree. `of`: the numbers of its volumes, as runs; empty
    where that was not recorded. `mark`: the mark that its secondaries were brought to, "" for none.
    """

    __slots__ = (
        "chain", "crc", "doubt", "grade", "group", "id", "mark", "members", "of", "sequence",
        "state", "tag", "time_us", "why",
    )  # fmt: skip

    def __init__(
        self,
        cut_id: str,
        sequence: int,
        time_us: int,
        tag: str,
        state: str,
        group: str = "",
        members: Sequence[str] = (),
        grade: Json | None = None,
        of: Sequence[int] = (),
        doubt: str = "",
        mark: str = "",
    ) -> None:
        self.id = cut_id
        self.sequence = sequence
        self.time_us = time_us
        self.tag = tag
        self.state = state
        self.group = group
        self.members = tuple(members)
        self.grade = grade  # what a canary found
        self.of = tuple(of)
        self.doubt = doubt
        self.mark = mark
        self.crc: int | None = None
        self.chain: int | None = None
        self.why = ""

    @property
    def verdict(self) -> str | None:
        """`consistent` or `void`; None while that is not known."""
        return cut_states.verdict(self.state)

    def pack(self) -> list[object]:
        """For the checkpoint: the arguments of the constructor."""
        doubt = self.doubt if self.state == cut_states.READY else ""
        last = [doubt, self.mark] if self.mark else [doubt] if doubt else []
        return [
            self.id, self.sequence, self.time_us, self.tag, self.state, self.group,
            list(self.members), self.grade, list(self.of), *last,
        ]  # fmt: skip

    def is_of(self, volumes: Iterable[int]) -> bool:
        """Whether it was made of any of these volumes; True where that was not recorded."""
        starts, ends = self.of[::2], self.of[1::2]
        return not self.of or any(
            start <= number <= end
            for number in volumes
            for start, end in zip(starts, ends, strict=True)
        )

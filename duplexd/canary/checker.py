"""Is a set of secondary images one state that really existed? Pure: images in, findings out.

The images are compared with what the client recorded. The cut was made between the moments `asked`
and `done`, given once or for each volume:

- **missing**: a record acknowledged before its volume's `asked` is not there;
- **too new**: a record issued after its volume's `done` is there;
- **broken**: a record is there, but one that it depends on is not: the one it names, its
  predecessor in its chain, or the last record of any writer that was acknowledged before it was
  issued;
- **torn**: a block is neither empty nor one whole record in its own slot.

A record counts as there when its slot holds it or a newer one, which was written over it. Records
of earlier epochs are ignored if they were there when this epoch began (`earlier`: the newest of
each epoch and writer). A newer one was written since, by another canary or out of a broken
connection: **late**. Then nothing can be said.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from duplexd.canary.record import RECORD_BYTES, Place, Placement, Record, TornError, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from duplexd.canary.history import History

    Moments = int | Sequence[int]  # one for all volumes, or one for each

MISSING, TOO_NEW, BROKEN, TORN, LATE = "missing", "too new", "broken", "torn", "late"
EXAMPLES_MAX = 3  # of each kind


@dataclass(slots=True)
class Findings:
    """How many records were found, and the faults by kind, the first of each in words."""

    records: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)

    @property
    def consistent(self) -> bool:
        """True if there is no fault."""
        return self.faults == 0

    @property
    def faults(self) -> int:
        """Faults of all kinds. A late record is none, but nothing was checked then."""
        return self.missing + self.too_new + self.broken + self.torn

    @property
    def missing(self) -> int:
        """See the head of the file, as for the others."""
        return self.counts[MISSING]

    @property
    def too_new(self) -> int:
        return self.counts[TOO_NEW]

    @property
    def broken(self) -> int:
        return self.counts[BROKEN]

    @property
    def torn(self) -> int:
        return self.counts[TORN]

    @property
    def late(self) -> int:
        return self.counts[LATE]

    def note(self, kind: str, text: str) -> None:
        """Count a case; keep the first of its kind as examples."""
        self.counts[kind] += 1
        if self.counts[kind] <= EXAMPLES_MAX:
            self.examples.append(f"{kind}: {text}")


def check(
    placement: Placement,
    images: Sequence[bytes],
    history: History,
    asked: Moments,
    done: Moments,
    epoch: int = 0,
    earlier: Mapping[tuple[int, int], int] = MappingProxyType({}),
) -> Findings:
    """Check the images (one a volume, at least `placement.volume_bytes` long) of one cut."""
    findings = Findings()
    found = _read(placement, images, epoch, earlier, findings)
    if findings.late:
        return findings
    findings.records = len(found)
    asked, done = _each(asked, placement), _each(done, placement)
    for writer in range(placement.writers):
        _check_missing(
            placement,
            found,
            writer,
            [history.acknowledged_before(writer, moment) for moment in asked],
            findings,
        )
    for place, record in found.items():
        if record.number > history.issued_before(record.writer, done[place.volume]):
            findings.note(
                TOO_NEW,
                f"{_name(record.writer, record.number)} on {_where(place)} "
                "was issued after the cut was done",
            )
        for writer, number in sorted(_dependencies(record, history)):
            if not _there(placement, found, writer, number):
                findings.note(
                    BROKEN,
                    f"{_name(record.writer, record.number)} is there, {_name(writer, number)} on "
                    f"{_where(placement.place(writer, number))} is not",
                )
    return findings


def _read(
    placement: Placement,
    images: Sequence[bytes],
    epoch: int,
    earlier: Mapping[tuple[int, int], int],
    findings: Findings,
) -> dict[Place, Record]:
    found = {}
    for place in _places(placement):
        try:
            record = parse(images[place.volume][place.offset : place.offset + RECORD_BYTES])
        except TornError as error:
            findings.note(TORN, f"{_where(place)}: {error}")
            continue
        if record is None:
            continue
        if record.epoch != epoch:
            if record.number > earlier.get((record.epoch, record.writer), 0):
                findings.note(
                    LATE,
                    f"{_name(record.writer, record.number)} of another epoch on {_where(place)}",
                )
            continue
        if (
            record.writer >= placement.writers
            or record.number < 1
            or placement.place(record.writer, record.number) != place
        ):
            findings.note(
                TORN,
                f"{_where(place)}: holds {_name(record.writer, record.number)}, "
                "which belongs to another slot",
            )
            continue
        found[place] = record
    return found


def _each(moments: Moments, placement: Placement) -> Sequence[int]:
    return [moments] * placement.volumes if isinstance(moments, int) else moments


def _places(placement: Placement) -> Iterator[Place]:
    for volume in range(placement.volumes):
        for offset in range(0, placement.volume_bytes, RECORD_BYTES):
            yield Place(volume, offset)


def _check_missing(
    placement: Placement,
    found: Mapping[Place, Record],
    writer: int,
    newest: Sequence[int],
    findings: Findings,
) -> None:
    """Each slot of the writer must hold at least its last record up to `newest` of its volume."""
    last = max(newest)
    for number in range(max(1, last - placement.period + 1), last + 1):
        place = placement.place(writer, number)
        if number <= newest[place.volume] and not _there(placement, found, writer, number):
            findings.note(
                MISSING,
                f"{_name(writer, number)} on {_where(place)} was acknowledged before the cut",
            )


def _dependencies(record: Record, history: History) -> set[tuple[int, int]]:
    issued = history.issued_at(record.writer, record.number)
    depends = {
        (writer, history.acknowledged_before(writer, issued)) for writer in range(history.writers)
    }
    depends |= {(record.writer, record.number - 1), (record.named_writer, record.named_number)}
    return {(writer, number) for writer, number in depends if number}


def _there(placement: Placement, found: Mapping[Place, Record], writer: int, number: int) -> bool:
    record = found.get(placement.place(writer, number))
    return record is not None and record.number >= number


def _name(writer: int, number: int) -> str:
    return f"record {number} of writer {writer}"


def _where(place: Place) -> str:
    return f"volume {place.volume} at {place.offset}"

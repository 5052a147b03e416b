"""What volumes held at a mark, by the journals alone: each record up to it, from the first on.

No code of duplexd that moves a secondary is used, and the daemons may run on. The journals must
have all records since the images were made.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from duplexd.journal.format import MARKER, TRIM, WRITE, ZERO
from duplexd.verify_cut.walk import Walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.support.cluster import Cluster, Member

_TRIES = 20


def contents(
    journal: Path, sequences: Iterable[int], volume_bytes: int
) -> dict[int, dict[str, bytes]]:
    """The first bytes of each volume at each of these numbers."""
    walk, found = Walk(journal, _TRIES), dict[int, dict[str, bytes]]()
    wanted, names, images = sorted(set(sequences)), dict[int, str](), dict[int, bytearray]()

    def keep(before: int) -> None:
        while wanted and wanted[0] < before:
            found[wanted.pop(0)] = {names[number]: bytes(each) for number, each in images.items()}

    for buffer, record in walk.records():
        keep(record.sequence)
        payload = buffer[record.payload_start : record.end]
        if record.kind == MARKER:
            fields = json.loads(payload)
            if fields["m"] == "volume":
                names[fields["id"]] = fields["name"]
                images[fields["id"]] = bytearray(volume_bytes)
        elif record.kind in {WRITE, ZERO, TRIM} and record.offset < volume_bytes:
            end = min(record.offset + record.length, volume_bytes)
            length = end - record.offset
            data = bytes(payload[:length]) if record.kind == WRITE else bytes(length)
            images[record.volume][record.offset : end] = data
    assert walk.first == 1, "the journal does not reach back to its first record"
    keep(walk.sequence + 1)
    assert not wanted, f"{journal} ends at {walk.sequence}, before {wanted}"
    return found


def images_at(
    cluster: Cluster,
    members: Sequence[Member],
    marks: Sequence[Mapping[str, int]],
    volume_bytes: int,
) -> list[list[bytes]]:
    """For each mark, by its number on each controller: the image of each member."""
    found = {
        name: contents(
            daemon.files.state_dir / "journal", [mark[name] for mark in marks], volume_bytes
        )
        for name, daemon in cluster.daemons.items()
    }
    return [
        [found[each.controller][mark[each.controller]][each.volume] for each in members]
        for mark in marks
    ]

"""A controller without a daemon: its journal and the two images of its volumes.

The project's own writer writes the journal, so that the second reader is tested against real bytes.
"""

from __future__ import annotations

import fcntl
import json
from typing import TYPE_CHECKING, ClassVar

from duplexd.core.ledger import Ledger, Place
from duplexd.journal import checkpoint_file as checkpoint
from duplexd.journal.format import SEGMENT_HEADER_BYTES, TRIM, WRITE, ZERO
from duplexd.journal.segment import Ring
from duplexd.journal.writer import Writer
from duplexd.limits import EngineLimits, ProofLimits
from duplexd.runtime.disk import RealDisk
from duplexd.verify_cut import document
from duplexd.verify_cut.check import check

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.json_object import Json
    from duplexd.verify_cut.report import MemberReport, Report

SIZE = 1 << 20
SEGMENT = SEGMENT_HEADER_BYTES + (1 << 16)
CUT = "0123456789abcdef"
BLOCK = 4096
LIMITS = ProofLimits()
NO_WAIT = ProofLimits(start_seconds_max=0.0)


def fill(byte: int, length: int = BLOCK) -> bytes:
    return bytes([byte]) * length


class World:
    """Changes go to the journal, the primary and, before the cut, the secondary."""

    running: ClassVar[list[World]] = []

    def __init__(
        self,
        directory: Path,
        name: str = "alpha",
        volumes: tuple[str, ...] = ("data",),
        segments: int = 8,
    ) -> None:
        self.running.append(self)
        self.name = name
        self.directory = directory / name
        (self.directory / "state" / "journal").mkdir(parents=True)
        self.state_dir = self.directory / "state"
        self.ring = Ring(
            RealDisk(),
            str(self.state_dir / "journal"),
            name.encode().ljust(16, b"\1"),
            SEGMENT,
            segments,
        )
        self.lock("17\nserving\n")
        self._held = (self.state_dir / "lock").open("rb")
        fcntl.flock(self._held, fcntl.LOCK_EX)
        self.ring.live.append(self.ring.grow())
        while self.ring.can_grow():
            self.ring.spares.append(self.ring.grow())
        self.writer = Writer(self.ring, 0, 0)
        self.ids = {volume: number for number, volume in enumerate(volumes, 1)}
        self.mirrors = dict.fromkeys(volumes, True)
        self.sequence = self.crc = self.chain = 0
        for volume in volumes:
            for leg in ("a", "b"):
                path = self.image(leg, volume)
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(b"")
                with path.open("r+b") as file:
                    file.truncate(SIZE)
        self.mark({"m": "open", "boot": "a-boot", "version": 1})

    def image(self, leg: str, volume: str = "data") -> Path:
        return self.directory / leg / f"{volume}.img"

    @property
    def primary(self) -> Path:
        return self.image("a")

    @property
    def secondary(self) -> Path:
        return self.image("b")

    # What a daemon does

    def mark(self, marker: Json) -> int:
        number = self.writer.append_marker(
            json.dumps(marker, separators=(",", ":")).encode(), 1_000_000
        )
        self.writer.write()
        return number

    def attach(self) -> None:
        """New images: nothing but zeroes."""
        for volume, number in self.ids.items():
            self.mark({"m": "volume", "id": number, "name": volume, "size": SIZE})
        self.mark({"m": "attach", "volumes": list(self.ids.values())})

    def write(self, offset: int, data: bytes, volume: str = "data") -> int:
        return self._change(WRITE, volume, offset, len(data), data)

    def zero(self, offset: int, length: int, volume: str = "data", trim: bool = False) -> int:
        return self._change(TRIM if trim else ZERO, volume, offset, length, b"")

    def _change(self, kind: int, volume: str, offset: int, length: int, data: bytes) -> int:
        number = self.writer.append(kind, self.ids[volume], offset, length, data, 0, 1_000_000)
        self.writer.write()
        for leg in ("a", "b") if self.mirrors[volume] else ("a",):
            poke(self.image(leg, volume), offset, data or bytes(length))
        return number

    def cut(
        self,
        members: list[str] | None = None,
        group: str = "db",
        ready: bool = True,
        tag: str = "nightly",
    ) -> int:
        marker: Json = {
            "m": "cut",
            "id": CUT,
            "tag": tag,
            "volumes": list(self.ids.values()),
        }
        if members:
            marker |= {"group": group, "members": members}
        self.chain = self.writer.chain
        self.sequence = self.mark(marker)
        self.crc = self.writer.chain
        self.mirrors = dict.fromkeys(self.mirrors, False)
        if members and ready:
            self.mark({"m": "ready", "cut": CUT})
        return self.sequence

    def drop_oldest(self) -> None:
        """As a daemon that needs the space."""
        segment = self.ring.live.pop(0)
        self.ring.spares.append(self.ring.recycle(segment))

    def save_checkpoint(self, closed: bool = False, ledger: Json | None = None) -> None:
        state = {
            "controller": self.ring.controller.hex(),
            **(ledger or {}),
            "sequence": self.writer.sequence,
            "boot": "a-boot",
            "closed": closed,
        }
        (self.state_dir / "checkpoint").write_bytes(checkpoint.pack(state))

    @classmethod
    def close_all(cls) -> None:
        """Close their journals."""
        while cls.running:
            world = cls.running.pop()
            world.ring.close()
            world.kill()

    def kill(self) -> None:
        """From now on no daemon runs. It says nothing in the journal."""
        self._held.close()

    def lock(self, text: str) -> None:
        """As a daemon that starts: its process id, then `serving` once it has recovered."""
        (self.state_dir / "lock").write_text(text)

    # What a certificate says of it

    def member(self, **changes: object) -> Json:
        return {
            "name": self.name,
            "sequence": self.sequence,
            "time": 1.0,
            "journal": {
                "identity": self.ring.controller.hex(),
                "crc": self.crc,
                "chain": self.chain,
                "directory": str(self.state_dir),
            },
            "volumes": [
                {
                    "id": number,
                    "name": volume,
                    "size": SIZE,
                    "primary": str(self.image("a", volume)),
                    "secondary": str(self.image("b", volume)),
                }
                for volume, number in self.ids.items()
            ],
        } | changes


def remembered(*markers: Json) -> Json:
    """The checkpoint of a daemon after a cut with another controller, then these markers."""
    ledger = Ledger(EngineLimits())
    written: list[Json] = [
        {"m": "volume", "id": 1, "name": "data", "size": SIZE},
        {"m": "attach", "volumes": [1]},
        {
            "m": "cut",
            "id": CUT,
            "tag": "nightly",
            "volumes": [1],
            "group": "db",
            "members": ["alpha", "beta"],
        },
        {"m": "ready", "cut": CUT},
        *markers,
    ]
    for number, marker in enumerate(written, 1):
        ledger.unpack_and_apply(Place(number, 1_000_000), marker)
    return Ledger.pack_snapshot(ledger.snapshot(len(written), {}))


def poke(path: Path, offset: int, data: bytes) -> None:
    """Change a file without the journal."""
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def flip(path: Path, offset: int) -> None:
    poke(path, offset, bytes([path.read_bytes()[offset] ^ 1]))


def certificate(*members: Json, **changes: object) -> Json:
    body = {
        "version": 1,
        "group": "db",
        "tag": "nightly",
        "cut": CUT,
        "verdict": "consistent",
        "controllers": list(members),
    } | changes
    return {"certificate": body, "sha256": document.check_sum(body)}


def save(directory: Path, value: object) -> str:
    path = directory / "cut.json"
    path.write_text(json.dumps(value))
    return str(path)


def verify(
    directory: Path,
    *worlds: World,
    images: dict[tuple[str, str], str] | None = None,
    limits: ProofLimits = LIMITS,
    **changes: object,
) -> Report:
    """Check a good certificate of these controllers."""
    path = save(directory, certificate(*(world.member() for world in worlds), **changes))
    return check(document.read(path), {}, images or {}, limits)


def only(report: Report) -> MemberReport:
    """The report's one controller."""
    (member,) = report.controllers
    return member

"""Backups for tests: manifests and files without a daemon."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from duplexd.backup.saved import FILE, Manifest, SavedVolume

if TYPE_CHECKING:
    from pathlib import Path

CUT = "0123456789abcdef"


def manifest(name: str, content: bytes = b"", **fields: object) -> Manifest:
    """Of one volume, `data`."""
    volume = SavedVolume(
        name="data",
        controller="alpha",
        volume="data",
        size=4096,
        file="data.qcow2",
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    usual: dict[str, object] = {
        "id": name,
        "targets": ("db",),
        "tag": "nightly",
        "cut": CUT,
        "verdict": "consistent",
        "cut_time": 1e9,
        "started": 1e9,
        "finished": 1e9 + 1,
        "program": "duplexd 0",
        "controllers": {"alpha": 7},
        "verify_cut": "confirmed",
        "volumes": (volume,),
        "certificate": {"certificate": {}, "sha256": ""},
    }
    return Manifest(**(usual | fields))  # type: ignore[arg-type]


def name_of(day: int) -> str:
    """The name of a backup of that day."""
    return f"202601{day:02}T020000Z-{CUT}"


def put(directory: Path, name: str, content: bytes = b"image", **fields: object) -> Path:
    """A backup in a directory."""
    path = directory / name
    path.mkdir(parents=True)
    (path / "data.qcow2").write_bytes(content)
    (path / FILE).write_text(manifest(name, content, **fields).text())
    return path

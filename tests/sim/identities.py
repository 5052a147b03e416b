"""After every crash: would a start recognise the images? Nobody but the daemon wrote to them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.engine.checkpoint_on_disk import CheckpointFile
from duplexd.engine.opening import places
from duplexd.engine.recovery.identify import Evidence
from duplexd.engine.recovery.read import read_journal
from duplexd.errors import DuplexdError
from tests.sim.small import SMALL

if TYPE_CHECKING:
    from duplexd.core.pair import PairRecord
    from duplexd.images.probe import Found
    from tests.sim.disk import SimDisk
    from tests.sim.machine import Machine


def check_images(machine: Machine) -> None:
    """No image may be called changed. Looks at a copy of the disk."""
    twin, config = machine.disk.twin(), machine.config()
    try:
        journal = read_journal(
            twin,
            CheckpointFile(twin, "/state"),
            config.controller,
            twin.boot_id(),
            SMALL,
            lambda *_progress: None,
        )
    except (DuplexdError, OSError):
        return  # there is no start
    evidence, known = Evidence(journal), journal.ledger.known()
    for name, volume in config.volumes.items():
        record = known.get(name)
        if record is None:
            continue
        one, other = places(volume, record.swapped)
        primary = _look(twin, evidence, record, one.path, volume.mode)
        secondary = None
        if other is not None and record.usable:
            secondary = _look(twin, evidence, record, other.path, volume.mode)
        for judgement in evidence.judge(record, volume.mode, primary, secondary):
            assert judgement is None or judgement.kind in {"same", "new"}, (
                f"{name}, {record.state}: {judgement}"
            )


def _look(
    disk: SimDisk, evidence: Evidence, record: PairRecord, path: str, mode: str
) -> Found | None:
    return evidence.look(record, disk.open(path), mode) if disk.exists(path) else None

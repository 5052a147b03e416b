"""What is copied from a primary while a batch is between the journal and the primary."""

from __future__ import annotations

import asyncio
import os
from threading import Event
from typing import TYPE_CHECKING, Any

from duplexd.backend import WRITE, Change
from duplexd.config import load as config
from duplexd.engine import volumes as provisioning
from duplexd.engine.controller import Controller
from duplexd.images.open import open_leg
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.threads import ThreadWorkers
from tests.support.fault_leg import FaultLeg

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

MIB = 1 << 20
SIZE = 8 * MIB
AT = 5 * MIB  # in the second piece that is copied
PATIENCE_SECONDS = 60.0


class _Client:
    def __init__(self) -> None:
        self.answered = asyncio.Event()

    def finished(self, _change: Change) -> None:
        self.answered.set()

    def flush_replies(self) -> None:
        pass


def test_a_copy_does_not_put_older_content_over_what_was_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_copy, may_write, writing = Event(), Event(), Event()

    def slow(operation: str) -> None:
        if operation == "read_into":
            may_copy.wait(PATIENCE_SECONDS)
        elif operation == "write":
            writing.set()
            may_write.wait(PATIENCE_SECONDS)

    def gated(disk: Any, path: str, size: int) -> tuple[Any, bool]:
        leg, created = open_leg(disk, path, size)
        return (FaultLeg(leg, slow) if path.endswith("primary.img") else leg), created

    monkeypatch.setattr(provisioning, "open_leg", gated)
    (tmp_path / "primary.img").write_bytes(os.urandom(SIZE))
    (tmp_path / "secondary.img").write_bytes(bytes(SIZE))
    settings = config.parse(
        f'[controller]\nname = "alpha"\nstate_dir = "{tmp_path}/state"\njournal_size = "64MiB"\n[nbd]\nlisten = ["unix:{tmp_path}/s"]\n'
        f'[volumes.data]\nsize = {SIZE}\nprimary = "{tmp_path}/primary.img"\nsecondary = "{tmp_path}/secondary.img"\n',
        f"{tmp_path}/duplexd.toml",
    )

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        disk_workers, journal_workers = (
            ThreadWorkers(loop, "disk", 4),
            ThreadWorkers(loop, "journal", 2),
        )
        try:
            controller = Controller(
                settings, RealDisk(), RealClock(), disk_workers, None, journal_workers
            )
            await controller.start()
            pair, client = controller.pairs["data"], _Client()
            controller.submit([Change(client, 0, pair, WRITE, AT, MIB, os.urandom(MIB))])
            assert await loop.run_in_executor(None, writing.wait, PATIENCE_SECONDS)
            may_copy.set()  # the change is in the journal, and nowhere else
            await asyncio.sleep(0.5)  # a copy that does not wait for it gets there meanwhile
            may_write.set()
            await client.answered.wait()
            async with asyncio.timeout(PATIENCE_SECONDS):
                await controller.resync_wait(["data"])
            assert pair.state == "DUPLEX"
            await controller.stop()
        finally:
            may_copy.set()
            may_write.set()
            disk_workers.close()
            journal_workers.close()

    asyncio.run(scenario())
    assert (tmp_path / "primary.img").read_bytes() == (tmp_path / "secondary.img").read_bytes()

"""`duplexd demo`: group cuts beside naive splits under load, then 1,000 pairs at once.

The exit status is an assertion: it is 0 only if no group cut was found broken *and* a naive split
was, for else the check proves nothing. All files are in a temporary directory, which is removed at
the end, also after Ctrl-C.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from duplexd.backup.scratch import for_sockets
from duplexd.canary.record import Placement
from duplexd.demo.daemon import DaemonError, DaemonProcess
from duplexd.demo.scene import Scene
from duplexd.demo.show import Row, Table, say
from duplexd.units import KIB, MIB, format_size

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from duplexd.demo.scene import Cut

DEMO_PATH_BYTES = 48  # of the path of a socket below the temporary directory
NAMES = ["data", "index", "log", "blobs"]
PLACEMENT = Placement(writers=8, volumes=len(NAMES), slots=64)
VOLUME_BYTES = 64 * MIB
JOURNAL_BYTES = 64 * MIB
ROUNDS = 10
WRITING_SECONDS = 0.3

MANY = 1000
MANY_PLACEMENT = Placement(writers=4, volumes=16, slots=8)
MANY_VOLUME_BYTES = 256 * KIB
MANY_WRITING_SECONDS = 1.0

NEXT_STEPS = """
Do it yourself
  start a daemon:          make run                  (configs/duplexd.toml, data under ./var)
  mount one of its volumes, as root:
                           modprobe nbd
                           nbd-client -unix var/nbd.sock /dev/nbd0 -name data -block-size 4096
                           mkfs.ext4 /dev/nbd0 && mount /dev/nbd0 /mnt
  then try these three:    export DUPLEXD_SOCKET=var/control.sock
                           .venv/bin/duplexctl status --watch
                           .venv/bin/duplexctl suspend db --tag before-upgrade
                           .venv/bin/duplexctl resync db --wait
"""


@dataclass(slots=True)
class Totals:
    """What the exit status depends on."""

    group_faults: int = 0
    naive_faults: int = 0
    pause_s: float = 0.0


def main(rounds: int = ROUNDS, pairs: int = MANY) -> int:
    """Run the demo. Returns its exit status: 1 if a group cut was broken, or no naive split was."""
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_main(rounds, pairs))
    except (KeyboardInterrupt, asyncio.CancelledError):
        say("\nStopped; everything of the demo is removed.")
        return 130
    except (DaemonError, OSError) as error:
        print(f"duplexd demo: {error}", file=sys.stderr)
        return 1


async def _main(rounds: int, pairs: int) -> int:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    totals = Totals()
    await _rounds(rounds, totals)
    await _many(pairs, totals)
    say(NEXT_STEPS.rstrip())
    if totals.group_faults:
        say("\nFAILED: a group cut was found broken.")
    elif not totals.naive_faults:
        say("\nFAILED: the naive split was never found broken, so the checker proves nothing.")
    return 1 if totals.group_faults or not totals.naive_faults else 0


@contextlib.asynccontextmanager
async def _daemon(names: list[str], size: int, journal_size: int) -> AsyncIterator[DaemonProcess]:
    directory = Path(tempfile.mkdtemp(prefix="duplexd-demo-", dir=for_sockets(DEMO_PATH_BYTES)))
    daemon = DaemonProcess(directory / "d", names, size, journal_size)
    try:
        await daemon.start()
        try:
            yield daemon
        except OSError as error:
            daemon.raise_if_ended(error)
            raise
    finally:
        try:
            await daemon.stop()
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def _explanation(rounds: int) -> str:
    names = ", ".join(NAMES)
    return f"""
{len(NAMES)} volumes ({names}) of {format_size(VOLUME_BYTES)}, each a pair of
images, all in one group, served on a Unix socket.
{PLACEMENT.writers} writers write to the volumes in turn. A record is issued only when the
records that it depends on, most of them on other volumes, are acknowledged.
Meanwhile, {rounds} times each:
  group cut    the whole group is suspended in one step
  one by one   each volume is suspended by itself, one after the other
Each time the secondaries, which a backup would read, are searched for broken
dependencies: records that are there while one that they depend on is not.
"""


async def _rounds(rounds: int, totals: Totals) -> None:
    async with _daemon(NAMES, VOLUME_BYTES, JOURNAL_BYTES) as daemon:
        say(_explanation(rounds))
        async with Scene(daemon, PLACEMENT) as scene:
            usual_s = await scene.write_for(WRITING_SECONDS)
            with Table() as table:
                for number in range(1, rounds + 1):
                    table.add(await _round(scene, number, totals))
            written = scene.workload.history.acknowledged
        say(
            "What the writers write while a resync runs is new: it is mirrored, not counted as "
            "copied."
        )
        say(f"\n{written} records written, no error. Longest wait of a write around a group cut:")
        say(f"{totals.pause_s * 1e3:.1f} ms; with no cut: {usual_s * 1e3:.1f} ms.")


async def _round(scene: Scene, number: int, totals: Totals) -> Row:
    await scene.write_for(WRITING_SECONDS)
    cut = await scene.cut_group(f"demo {number}")
    _count(cut, totals)
    await scene.write_for(WRITING_SECONDS)
    changed = await scene.changed_bytes()
    copied = await scene.resync()
    await scene.write_for(WRITING_SECONDS)
    naive = await scene.cut_one_by_one(f"naive {number}")
    totals.naive_faults += naive.findings.broken
    await scene.resync()
    return Row(
        cut=str(number),
        pause_ms=cut.pause_s * 1e3,
        held_ms=cut.held_s * 1e3,
        writes_held=cut.writes_held,
        verdict=cut.verdict,
        group_broken=cut.findings.broken,
        group_faults=cut.findings.faults,
        naive_broken=naive.findings.broken,
        changed=format_size(changed),
        copied=format_size(copied),
    )


def _count(cut: Cut, totals: Totals) -> None:
    totals.pause_s = max(totals.pause_s, cut.pause_s)
    if not cut.findings.consistent or cut.verdict != "consistent":
        totals.group_faults += 1
        for example in cut.findings.examples:
            say(f"  {example}")


async def _many(pairs: int, totals: Totals) -> None:
    names = [f"v{number:04}" for number in range(pairs)]
    async with (
        _daemon(names, MANY_VOLUME_BYTES, JOURNAL_BYTES) as daemon,
        Scene(daemon, MANY_PLACEMENT) as scene,
    ):
        usual_s = await scene.write_for(MANY_WRITING_SECONDS)
        cut = await scene.cut_group()
        _count(cut, totals)
        found = "0 broken" if cut.findings.consistent else f"{cut.findings.faults} faults"
        say(
            f"\n{pairs} pairs in one group, cut in one step while {MANY_PLACEMENT.writers} "
            f"writers write: {found}, {cut.verdict}."
        )
        say(
            f"Write pause {cut.pause_s * 1e3:.1f} ms (client) / {cut.held_s * 1e3:.1f} ms "
            f"(daemon); longest wait with no cut: {usual_s * 1e3:.1f} ms."
        )
        say(
            f"The command returned after {cut.command_s * 1e3:.0f} ms, when all secondaries were "
            "durable."
        )

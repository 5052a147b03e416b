"""Runs one case: breaks the part, brings the fault out, looks at everything, repairs."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from prometheus_client.parser import text_string_to_metric_families

from duplexd.nbd_aio.connecting import connect
from tests.support.commands import lines
from tests.support.daemon import PATIENCE_SECONDS
from tests.support.reliability.clients import Load, check_ext4, make_ext4, probe
from tests.support.reliability.health_row import HealthRow, health_row, metrics_text, worst_level
from tests.support.reliability.rig import ANSWER_SECONDS_MAX, KEPT, KIB, MIB, SECTOR, rig

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.reliability.cases import Case
    from tests.support.reliability.rig import Rig

KEPT_BYTES = 256 * KIB
# Metrics that move in good times too.
_EVERYDAY = (
    "duplexd_nbd_requests", "duplexd_nbd_bytes", "duplexd_nbd_connections", "duplexd_journal",
    "duplexd_sequence", "duplexd_batches", "duplexd_changes_by", "duplexd_checkpoints",
    "duplexd_event_loop", "duplexd_nbd_request_duration", "duplexd_changed_bytes",
    "duplexd_events", "duplexd_secondary_lag", "duplexd_copied_bytes", "duplexd_cut",
    "duplexd_findings", "duplexd_leg_free", "duplexd_state_dir_free", "duplexd_last_consistent",
    "process_",
)  # fmt: skip
# Log lines of good times, and those that depend on what was under way when the fault came.
_ROUTINE = frozenset(
    {
        # said of each finding some seconds after its own event, and not at once
        "not well", "well again",
        "NBD client connected", "NBD client disconnected", "command", "copied", "starting",
        "recovery", "listening for NBD clients", "no longer listening", "ready", "stopping",
        "stopped", "checkpoint-failed", "requests of the volume succeed again",
    }
)  # fmt: skip


class Row(NamedTuple):
    """One row of the table, as measured."""

    part: str
    fault: str
    client: str
    state: str
    health: str
    log: str
    metrics: str
    resolved: str


class Measured(NamedTuple):
    """A row of each page."""

    row: Row
    health: HealthRow


async def measure(case: Case, directory: Path) -> Measured:
    """Run it. Asserts what holds in every case: nothing acknowledged is lost, volumes on other
    disks do not notice a failing image, both legs are equal at the end.
    """
    with rig(directory) as broken, ExitStack() as stack:
        kept = await prepare(broken)
        logged, metrics = len(broken.daemon.lines()), scrape(broken)
        text = metrics_text(broken.daemon)
        if case.trigger == "start":
            await asyncio.to_thread(broken.daemon.stop)
        fault = case.breaks(broken.disks[case.part], broken.pattern(case.part))
        load = await bring_out(case, broken, stack)
        seen = "" if load is None or case.waits else await load.seen()
        if case.waits and fault is not None:
            await asyncio.to_thread(fault.wait_met)
        client = await what_clients_see(case, broken, seen)
        await wait_event(case.event, broken, logged)
        state = what_status_says(broken)
        assert (client, state) == (case.client, case.state), f"{client}; {state}"
        health = what_health_says(broken)
        log, moved = what_was_logged(broken, logged), what_moved(broken, metrics)
        unwell = await health_row(case.part, case.fault, broken, "data", text, worst_level(log))
        resolved = await resolve(case, broken, load if case.waits else None)
        await check_content(broken, kept)
        row = Row(case.part, case.fault, client, state, health, log, moved, resolved)
        return Measured(row, unwell)


async def prepare(broken: Rig) -> bytes:
    """Content that must come through: an ext4 file system, and some bytes of `data`."""
    make_ext4(broken)
    kept = os.urandom(KEPT_BYTES)
    async with connect(broken.files.uri("data")) as nbd:
        await nbd.write(KEPT, kept)
        await nbd.write(SECTOR, kept)
        await nbd.flush()
    return kept


async def bring_out(case: Case, broken: Rig, stack: ExitStack) -> Load | None:
    """Do what meets the fault."""
    if case.trigger == "load":
        load = Load(broken)
        stack.callback(load.end)
        return load
    if case.trigger == "start":
        await asyncio.to_thread(broken.daemon.start)
    elif case.trigger == "verify":
        _, said = await asyncio.to_thread(
            broken.daemon.request, "POST", "/v1/verify", {"targets": ["db"]}
        )
        assert str(broken.files.secondary_of("data")) in str(said), f"verify blames nobody: {said}"
    elif case.trigger == "resync":
        await asyncio.to_thread(broken.daemon.request, "POST", "/v1/suspend", {"targets": ["db"]})
        async with connect(broken.files.uri("data")) as nbd:
            await nbd.write(SECTOR, bytes(MIB))
        await lines(broken.daemon, "POST", "/v1/resync", {"targets": ["db"], "wait": True})
    return None


# --- what is seen


async def what_clients_see(case: Case, broken: Rig, load: str) -> str:
    """Errors of the load, then what single requests get while the fault lasts."""
    seen = {f"during the load: {load}"} if load else set()
    if case.trigger.startswith("read"):
        async with connect(broken.files.uri("data")) as nbd:
            place = SECTOR if "sector" in case.trigger else KEPT
            try:
                await nbd.read(place, KEPT_BYTES)
            except OSError as error:
                seen.add(f"the read: {error.strerror}")
    data, other = await asyncio.gather(probe(broken, "data"), probe(broken, "other"))
    later = ", ".join(f"{kind} {got}" for kind, got in data.items() if got != "ok")
    if case.part != "journal":
        assert set(other.values()) == {"ok"}, f"another volume noticed: {other}"
    else:
        assert other == data, "the journal serves all volumes alike"
    return "; ".join([*sorted(seen), *([f"then: {later}"] if later else [])]) or "no error"


async def wait_event(event: str, broken: Rig, after: int) -> None:
    """What follows from a fault may come after the answers to clients."""
    if event:
        await asyncio.to_thread(
            broken.daemon.wait_log, f'"event": "{event}"', after=after, seconds=ANSWER_SECONDS_MAX
        )


def what_status_says(broken: Rig) -> str:
    volume = broken.status()["data"]
    words = [str(volume["state"]), *([str(volume["reason"])] if volume["reason"] else [])]
    if volume.get("swapped"):
        words.append("(swapped)")
    if not volume.get("served", True):
        words.append("(not served)")
    return " ".join(words)


def what_health_says(broken: Rig) -> str:
    assert broken.health("/healthz") == 200
    return "ready" if broken.health("/readyz") == 200 else "not ready"


def what_was_logged(broken: Rig, after: int) -> str:
    found = {
        f"{line['level']} `{line['event']}`"
        for line in broken.logged(after)
        if line.get("event") not in _ROUTINE
    }
    return ", ".join(sorted(found)) or "nothing"


class Sample(NamedTuple):
    """One sample of a scrape."""

    family: str
    name: str
    is_gauge: bool


def scrape(broken: Rig) -> dict[Sample, float]:
    """All samples."""
    _, text = broken.daemon.request("GET", "/metrics", timeout=ANSWER_SECONDS_MAX)
    return {
        Sample(family.name, f"{one.name}{sorted(one.labels.items())}", family.type == "gauge"): (
            one.value
        )
        for family in text_string_to_metric_families(text)
        for one in family.samples
    }


def what_moved(broken: Rig, before: dict[Sample, float]) -> str:
    """Metrics that tell of the fault. Events are counted too, see the log. Counters may have begun
    again, with a restart.
    """
    moved = {
        sample.family
        for sample, value in scrape(broken).items()
        if (value > (was := before.get(sample, 0.0)) or (sample.is_gauge and value != was))
        and not sample.family.startswith(_EVERYDAY)
    }
    return ", ".join(f"`{name.removeprefix('duplexd_')}`" for name in sorted(moved)) or "none"


# --- what resolves it


async def resolve(case: Case, broken: Rig, load: Load | None) -> str:
    """Repair the disk; then what it takes until all is as before: the first that helps."""
    disk = broken.disks[case.part]
    disk.lift()
    disk.fill(None)
    if load is not None:
        assert not await load.seen(), "what waited has failed"
    if await good_soon(broken):
        return "nothing"
    if await resync(broken):
        return "resync"
    await asyncio.to_thread(broken.daemon.stop)
    await asyncio.to_thread(broken.daemon.start)
    if await good_soon(broken):
        return "restart"
    assert await resync(broken), f"nothing resolves it: {broken.status()}"
    return "restart, resync"


async def good_soon(broken: Rig) -> bool:
    """Nothing says that it takes a command, so it may only take a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await good(broken):
        if time.monotonic() > deadline or not may_become_good(broken):
            return False
        await asyncio.sleep(0.1)
    return True


def may_become_good(broken: Rig) -> bool:
    """No pair is suspended, and the controller has not failed."""
    failed = next(
        value for sample, value in scrape(broken).items() if sample.name == "duplexd_failed[]"
    )
    states = {pair["state"] for pair in broken.status().values()}
    return not failed and states <= {"DUPLEX", "PENDING"}


async def resync(broken: Rig) -> bool:
    code, _ = await asyncio.to_thread(
        broken.daemon.request, "POST", "/v1/resync", {"targets": ["db"], "wait": True}
    )
    return code == 200 and await good(broken)


async def good(broken: Rig) -> bool:
    """Ready, all pairs DUPLEX, requests succeed and the legs are equal."""
    if {pair["state"] for pair in broken.status().values()} != {"DUPLEX"}:
        return False
    if broken.health("/readyz") != 200 or set((await probe(broken, "data")).values()) != {"ok"}:
        return False
    code, body = await asyncio.to_thread(
        broken.daemon.request, "POST", "/v1/verify", {"targets": ["db", "other"]}
    )
    return code == 200 and bool(body["equal"])


async def check_content(broken: Rig, kept: bytes) -> None:
    """Stop, and look at the images themselves."""
    assert await asyncio.to_thread(broken.daemon.stop) == 0
    for volume in ("data", "fs"):
        assert broken.below("primary", volume) == broken.below("secondary", volume), volume
    assert broken.below("primary", "data")[KEPT : KEPT + KEPT_BYTES] == kept
    check_ext4(broken.files.directory, broken.below("primary", "fs"))

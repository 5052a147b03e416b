"""What has to hold at any moment of the day, and after it.

- a volume that is served returns every acknowledged change
- a secondary that status calls usable holds what the volume held at one moment, and those of one
  cut the same moment; of a cut that was called consistent, the moment of the command
- legs that mirror are equal; an image that is being copied is called unusable
- nothing contradicts a certificate as long as its cut is not left
- an exit code of 0 is given by a controller that has not failed
- a call that failed is named: in the log, in an answer, in the status
- a start after it serves, or says what to adopt; resyncs make all pairs DUPLEX, with equal legs
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from duplexd.verify_cut import document
from duplexd.verify_cut.check import check
from tests.support.blocks import check as check_blocks
from tests.support.system_calls.day import DAY, empty
from tests.support.system_calls.tracer import AFTER, BEFORE, Fault, Place
from tests.support.system_calls.world import (
    NAMES,
    REQUEST_SECONDS_MAX,
    EndedError,
    World,
    entries,
    make_files,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.system_calls.launcher import Launcher

Json = dict[str, Any]


class Outcome(NamedTuple):
    """Of a day with a fault. `met`: it came to the call. `named`: the call that failed is named."""

    fault: Fault
    met: bool
    named: bool
    ended: int | None  # the exit status, if the daemon ended by itself


async def live(directory: Path, launcher: Launcher, fault: Fault) -> Outcome:
    """A day with a fault, and what comes after it. AssertionError if a promise is broken."""
    world = World(make_files(directory), launcher, fault)
    try:
        return await _live(world, fault)
    except AssertionError as error:
        said = "\n".join(world.refused)
        raise AssertionError(
            f"{fault}; found in step {world.step!r}: {error}\n{said}\n{world.daemon.log()}"
        ) from error
    finally:
        world.disconnect()
        world.daemon.kill()


async def _live(world: World, fault: Fault) -> Outcome:
    ended: int | None = None
    try:
        await _day(world)
    except EndedError:
        assert world.daemon.process is not None
        ended = world.daemon.process.returncode
        expected = {-9} if fault.what in {BEFORE, AFTER} else {1, 6}
        assert world.met(), f"the daemon ended with {ended} by itself"
        assert ended in expected, f"the daemon ended with {ended}"
    world.disconnect()
    met = world.met()
    named = met and (fault.what in {BEFORE, AFTER} or _is_named(world, fault))
    if world.daemon.running:
        await _end(world)
    await after(world)
    return Outcome(fault, met, named, ended)


async def live_well(directory: Path, launcher: Launcher) -> list[Place]:
    """A day in which nothing fails: its calls."""
    world = World(make_files(directory), launcher)
    try:
        await _day(world)
        found = [place for place, _ in world.calls()]
        await after(world)
    finally:
        world.disconnect()
        world.daemon.kill()
    assert not world.refused, world.refused
    log = world.daemon.log()
    assert all(f'"how": "{how}"' in log for how in ("journal", "map")), log
    return found


async def _day(world: World) -> None:
    looked = False
    for name, step in DAY.items():
        world.enter(name)
        await step(world)
        if not looked:
            await world.quiet()
        if world.daemon.running and not looked and world.met():  # later on, all else is as usual
            looked = True
            await look(world)
    world.enter("end of the day")


async def _end(world: World) -> None:
    """A stop: exit code 0 only if the controller is well."""
    found = await world.ask("GET", "/v1/status")
    failed = found is None or found["controller"]["failed"]
    code = await world.end()
    assert code in {0, 1}, f"the stop ended with {code}"
    assert not (failed and code == 0), f"exit code 0 of a controller that failed: {failed}"
    assert (
        code == 0 or '"level": "error"' in world.daemon.log() or "duplexd: " in world.daemon.log()
    )


async def after(world: World) -> None:
    """The next life, in which nothing fails."""
    world.enter("afterwards")
    for name in NAMES:  # one that could not be made is put there by its owner
        if world.story[1:] and not world.files.secondary_of(name).exists():
            empty(world.files.secondary_of(name))
    await world.start(traced=False)
    await look(world)
    await _adopt(world)
    await _settle(world)
    for name in NAMES:
        if (await world.status())[name]["state"] != "DUPLEX":
            assert await world.resync(name), world.refused[-1]
    await _mirrored(world)
    await look(world)
    found = await world.ask("POST", "/v1/verify", {"targets": NAMES})
    assert found is not None, world.refused[-1]
    assert found["equal"], found
    assert await world.end() == 0
    for name in NAMES:
        primary, secondary = (path.read_bytes() for path in _legs(world, name))
        assert primary == secondary, f"{name}: the legs differ after the stop"
    left = [path.name for path in world.files.state_dir.rglob("*") if path.suffix == ".stg"]
    assert not left, f"left behind: {left}"


def _legs(world: World, name: str) -> tuple[Path, Path]:
    return world.files.primary(name), world.files.secondary_of(name)


async def _adopt(world: World) -> None:
    """A primary that failed while its pair was suspended, and for which the journal did not keep
    all it lacked, is taken as it is. (It lacks nothing: a sync that failed here lost nothing.)
    """
    for name, volume in (await world.status()).items():
        if not volume["served"]:
            assert "which this image lacks" in volume["error"], volume
            found = await world.ask("POST", "/v1/adopt", {"targets": [name]})
            assert found is not None, world.refused[-1]


async def _settle(world: World) -> None:
    for name, model in world.models.items():
        data = await world.read(name)
        assert data is not None, f"{name} is not served: {world.refused[-1]}"
        model.settle(data, f"volume {name}")
    world.note()


async def _mirrored(world: World) -> None:
    """Wait until all are DUPLEX, and the `async` one has no lag."""
    deadline = time.monotonic() + REQUEST_SECONDS_MAX
    while True:
        found = await world.status()
        if all(
            found[name]["state"] == "DUPLEX" and not found[name]["secondary"]["lag_bytes"]
            for name in NAMES
        ):
            return
        assert time.monotonic() < deadline, f"not all pairs became DUPLEX: {found}"
        await asyncio.sleep(0.01)


# ---------------------------------------------------------------------------------- at any moment


async def look(world: World) -> None:
    """Compare what status says with what is on the images, with no change in flight."""
    found = await world.status()
    for name in NAMES:
        await _look_at_volume(world, name, found[name])
    usable: dict[str, dict[str, bytes]] = {}
    for name in NAMES:
        at, image = await _secondary(world, name)
        if at != "" and image is not None:
            usable.setdefault(at, {})[name] = image
    for cut, images in usable.items():
        _look_at_cut(world, cut, images)
    _look_at_certificates(world, await world.status())


async def _secondary(world: World, name: str) -> tuple[str, bytes | None]:
    """What a usable secondary holds, and the cut it is at; nothing if it is on the way."""
    before = (await world.status())[name]
    image = _read(before["secondary"]["path"])
    if before != (await world.status())[name]:
        return "", None
    secondary, state = before["secondary"], before["state"]
    if image is None or len(image) != before["size"]:
        assert secondary["error"] or not before["served"], before
        assert state != "DUPLEX", before
        return "", None
    if state == "SUSPENDED" and secondary["usable"]:
        assert secondary["cut"] is not None, before
        return secondary["cut"]["id"], image
    if state == "PENDING" and secondary["usable"]:
        return f"a resync of {name}", image
    if state == "DUPLEX" and before["mode"] == "sync" and secondary["usable"]:
        assert _read(before["primary"]["path"]) == image, f"{name}: the legs differ"
    return "", None


def _read(path: str) -> bytes | None:
    try:
        with open(path, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


async def _look_at_volume(world: World, name: str, status: Json) -> None:
    data = await world.read(name)
    if data is None and status["served"]:  # that read may be the first to meet the failure
        status = (await world.status())[name]
    if status["served"]:
        assert data is not None, f"{name} is called served, and: {world.refused[-1]}"
        check_blocks(data, world.models[name].allowed(), f"volume {name}")
    else:
        assert status["error"], status


def _look_at_cut(world: World, cut: str, images: dict[str, bytes]) -> None:
    found = entries(world.story, images)
    assert found, f"the secondaries of {', '.join(images)} at cut {cut} hold no state that was"
    for name in images:
        known = world.cuts.get(name)
        if known is not None and known.id == cut:
            moment = world.story[known.entry]
            same = [number for number in found if world.story[number][name] == moment[name]]
            assert same, f"{name} is not at its cut: entries {found}, not {known.entry}"


def _look_at_certificates(world: World, found: dict[str, Json]) -> None:
    """A volume that was at a cut that was called consistent still is, unless its image failed."""
    for name, cut in world.cuts.items():
        secondary = found[name]["secondary"]
        at = secondary["cut"]
        if at is None or at["id"] != cut.id or not secondary["usable"]:
            reason = str(found[name]["reason"])
            assert "error" in reason or name in world.replaced, (
                f"{name} left its cut: {found[name]}"
            )
            continue
        assert at["verdict"] == "consistent", found[name]
        report = check(document.read(cut.certificate), {}, {})
        assert report.outcome in {"confirmed", "recorded"}, json.dumps(report.json())


# -------------------------------------------------------------------------------------- the names


def _is_named(world: World, fault: Fault) -> bool:
    """Whether the file that failed is named where an operator looks."""
    file = fault.place.file
    varies = file.removesuffix(".tmp").endswith(("NNNN.seg", "NNNN.maps", ".stg", "(new)"))
    file = os.path.dirname(file) if varies else file.removesuffix(".tmp")
    wanted = str(world.files.directory / file)
    said = [line for line in world.daemon.lines() if '"level": "info"' not in line]
    return any(wanted in line for line in (*said, *world.refused))

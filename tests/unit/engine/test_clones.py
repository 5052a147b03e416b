"""Clones on a whole controller: who gets one, what ends it, whose requests it has."""

from __future__ import annotations

import asyncio
import errno
from random import Random
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import FLUSH, TRIM, WRITE, ZERO, Change
from duplexd.core.clone import Clone
from duplexd.core.leaving import Leaving
from duplexd.errors import LimitError, NotFoundError, UsageError, WrongStateError
from duplexd.limits import EngineLimits
from tests.unit.engine.cores import SIZE, Core, Peer, new_disk, running, settings

if TYPE_CHECKING:
    from collections.abc import Callable

TWO = {"data": "sync", "wal": "async"}
BOTH = list(TWO)
BLOCK = 4096


class Client:
    """A connection that has chosen a clone."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def end_reading(self, why: str) -> None:
        self.ended.append(why)


async def at_cut(core: Core, tag: str = "nightly") -> str:
    await core.write("data", 100, b"at the cut")
    made = await core.controller.suspend(BOTH, tag)
    await core.write("data", 100, b"after that")
    return str(made["cut"])


async def cloned(core: Core, name: str = "test", limit: int | None = None) -> str:
    cut = await at_cut(core)
    await core.controller.clones.make(BOTH, cut, name, limit)
    return cut


def opened(core: Core, name: str = "data@latest+test") -> tuple[Clone, Client]:
    clone, client = core.controller.volume(name), Client()
    assert isinstance(clone, Clone)
    clone.joined(client, "user 7")
    return clone, client


def change(clone: Clone, kind: int, offset: int, data: bytes = b"", length: int = 0) -> Change:
    """Send one; each has a client of its own, and with it the answer."""
    made = Change(Peer(), 0, clone, kind, offset, length or len(data), data)
    takes = clone.takes
    (takes.flush(made) if kind == FLUSH else takes.submit([made]))
    return made


def is_answered(made: Change) -> bool:
    assert isinstance(made.client, Peer)
    return made in made.client.answers


async def done(core: Core, made: Change) -> int:
    await core.until(lambda: is_answered(made))
    return made.error


async def write(core: Core, clone: Clone, offset: int, data: bytes) -> int:
    return await done(core, change(clone, WRITE, offset, data))


async def read(core: Core, clone: Clone, offset: int, length: int) -> tuple[int, bytes]:
    answers: list[tuple[int, bytes]] = []
    core.controller.read(clone, offset, length, 0, lambda *answer: answers.append(answer))
    await core.until(lambda: bool(answers))
    ((number, content),) = answers
    return number, bytes(content)


# -------------------------------------------------------------------------------- making and names


async def test_a_clone_is_a_writable_volume_by_every_name_of_its_cut() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        clone, _ = opened(core)
        for name in (f"data@{cut}+test", "data@nightly+test"):
            assert core.controller.volume(name) is clone
        assert (clone.of, clone.read_only, clone.size) == ("data", False, SIZE)
        assert f"wal@{cut}+test" in core.controller.point_names()
        for name in ("data@latest+other", "data@other+test", "nonesuch@latest+test"):
            assert core.controller.volume(name) is None


async def test_what_is_written_is_read_and_neither_volume_nor_secondary_has_it() -> None:
    async with running(TWO) as core:
        await cloned(core)
        clone, _ = opened(core)
        numbers = core.controller.sequence
        assert await read(core, clone, 100, 10) == (0, b"at the cut")
        assert await write(core, clone, 103, b"HERE") == 0
        assert await done(core, change(clone, FLUSH, 0)) == 0
        assert await read(core, clone, 100, 10) == (0, b"at HEREcut")
        assert await core.read("data", 100, 10) == (0, b"after that")
        assert core.image("data", "b")[100:110] == b"at the cut"
        assert core.controller.sequence == numbers


async def test_two_clones_of_one_cut_do_not_see_each_other() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        await core.controller.clones.make(["data"], cut, "other")
        (one, _), (other, _) = opened(core), opened(core, "data@latest+other")
        await write(core, one, 100, b"ONE")
        assert await read(core, other, 100, 10) == (0, b"at the cut")


async def test_all_volumes_get_one_or_none_does() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        clones = core.controller.clones
        with pytest.raises(WrongStateError, match="data has a clone 'test' already"):
            await clones.make(BOTH, cut, "test")
        await clones.make(["wal"], cut, "half")
        with pytest.raises(WrongStateError, match="wal has a clone 'half' already"):
            await clones.make(BOTH, cut, "half")
        assert core.controller.volume("data@latest+half") is None
        with pytest.raises(WrongStateError, match="cannot be read at cut 00ff now: data, wal"):
            await clones.make(BOTH, "00ff", "more")
        with pytest.raises(UsageError, match="above clone_limit"):
            await clones.make(BOTH, cut, "more", 1 << 60)
        assert [each["name"] for each in clones.show(["wal"])["clones"]] == ["test", "half"]


async def test_there_are_only_so_many() -> None:
    async with running(TWO, limits=EngineLimits(clones_max=3)) as core:
        cut = await cloned(core)
        with pytest.raises(LimitError, match="clones_max"):
            await core.controller.clones.make(BOTH, cut, "more")
        assert await core.controller.clones.make(["data"], cut, "more")


async def test_an_overlay_that_cannot_be_made_leaves_no_clone() -> None:
    async with running(TWO) as core:
        cut = await at_cut(core)
        core.disk.fail("/state/clones", errno.ENOSPC, operation="create", times=1)
        with pytest.raises(OSError, match="No space"):
            await core.controller.clones.make(BOTH, cut, "test")
        assert core.controller.clones.show()["clones"] == []
        await core.controller.resync(BOTH)


async def test_a_cut_that_is_left_while_the_overlay_is_made_gets_no_clone() -> None:
    async with running(TWO) as core:
        cut = await at_cut(core)
        making = asyncio.create_task(core.controller.clones.make(BOTH, cut, "test"))
        await core.controller.resync(BOTH)
        with pytest.raises(WrongStateError, match="cannot be read"):
            await making
        await core.controller.resync_wait(BOTH)
        assert core.controller.clones.show()["clones"] == []


def comparing(
    expected: bytes, reads: list[tuple[bytes, bytes]]
) -> Callable[[int, bytearray], None]:
    """Takes the answer to a read."""
    return lambda _, content: reads.append((bytes(content), expected))


# ------------------------------------------------------------------------------------ as a reader


async def test_it_keeps_the_secondaries_at_the_cut_until_it_is_dropped() -> None:
    async with running(TWO) as core:
        await cloned(core)
        with pytest.raises(WrongStateError, match=r"is read at cut \w+ by clone test"):
            await core.controller.resync(BOTH)
        (reader,) = core.controller.status()["volumes"][0]["readers"]
        assert (reader["name"], reader["kind"]) == ("clone test", "clone")
        assert await core.controller.clones.drop(BOTH, "test") == {"name": "test", "volumes": BOTH}
        await core.controller.resync(BOTH)
        await core.controller.resync_wait(BOTH)
        assert core.equal()
        assert [each["kind"] for each in core.named("reader-ended")] == ["clone", "clone"]
        with pytest.raises(NotFoundError, match="no clone 'test'"):
            await core.controller.clones.drop(BOTH, "test")


async def test_who_held_it_ends_it_and_not_another_of_that_name() -> None:
    async with running(TWO) as core:
        cut = await cloned(core)
        clones = core.controller.clones
        ends = clones.ends(BOTH, "test")
        await clones.drop(["data"], "test")
        await clones.make(["data"], cut, "test")
        await clones.end(ends)
        assert [end.result() for end in ends] == ["it was dropped"] * 2
        assert [row["volume"] for row in clones.show()["clones"]] == ["data"]


async def test_force_ends_it_and_its_clients_learn_of_it() -> None:
    async with running(TWO) as core:
        await cloned(core)
        clone, client = opened(core)
        await write(core, clone, 0, b"x")
        await core.controller.resync(BOTH, how=Leaving(force=True))
        assert len(client.ended) == 1
        assert (await write(core, clone, 0, b"y"), (await read(core, clone, 0, 1))[0]) == (
            errno.EIO,
            errno.EIO,
        )
        assert core.controller.volume("data@latest+test") is None
        await core.controller.resync_wait(BOTH)
        assert core.equal()


async def test_a_secondary_that_fails_ends_it() -> None:
    async with running(TWO) as core:
        await cloned(core)
        clone, client = opened(core)
        core.controller.failed_legs.lost(core.pair(), OSError(errno.EIO, "gone"))
        assert len(client.ended) == 1
        assert (await read(core, clone, 0, 1))[0] == errno.EIO
        assert core.controller.volume("wal@latest+test") is not None


async def test_one_whose_secondary_was_opened_anew_is_not_listed_as_if_it_were_there() -> None:
    async with running(TWO) as core:
        await cloned(core)
        clones, points = core.controller.clones, core.controller.points
        clone, client = opened(core)
        points.end(clone.pair, "the secondary was opened anew")
        assert (await read(core, clone, 0, 10))[0] == errno.EIO
        assert [row["volume"] for row in clones.show()["clones"]] == ["wal"]
        assert client.ended == ["the secondary was opened anew"]
        assert core.controller.readers.why_not(clone.pair.id) == ""


async def test_a_start_knows_none_and_has_no_reader_left() -> None:
    disk = new_disk()
    core = await Core.begin(disk, settings(TWO))
    cut = await cloned(core)
    clone, _ = opened(core)
    await write(core, clone, 100, b"gone soon")
    await core.crash(power=False)
    core = await Core.begin(disk, settings(TWO))
    assert core.controller.clones.show()["clones"] == []
    assert core.controller.volume(f"data@{cut}+test") is None
    assert core.image("data", "b")[100:110] == b"at the cut"
    await core.controller.resync(BOTH)
    await core.controller.resync_wait(BOTH)
    await core.controller.stop()


# --------------------------------------------------------------------------------------- requests


async def test_requests_that_overlap_are_done_in_order_of_arrival_over_connections() -> None:
    async with running(TWO) as core:
        await cloned(core)
        clone, _ = opened(core)
        random, model, sent = Random(3), bytearray(4 * BLOCK), []
        assert await done(core, change(clone, ZERO, 0, length=len(model))) == 0
        reads: list[tuple[bytes, bytes]] = []
        for _ in range(300):
            offset = random.randrange(len(model))
            length = min(random.choice([1, 100, BLOCK]), len(model) - offset)
            kind = random.choice([WRITE, WRITE, ZERO, TRIM, 0])
            if kind == WRITE:
                data = random.randbytes(length)
                sent.append(change(clone, WRITE, offset, data))
                model[offset : offset + length] = data
            elif kind == ZERO:
                sent.append(change(clone, ZERO, offset, length=length))
                model[offset : offset + length] = bytes(length)
            elif kind == TRIM:
                offset = offset // BLOCK * BLOCK
                sent.append(change(clone, TRIM, offset, length=BLOCK))
                model[offset : offset + BLOCK] = bytes(BLOCK)
            else:
                compare = comparing(bytes(model[offset : offset + length]), reads)
                core.controller.read(clone, offset, length, 0, compare)
            if random.random() < 0.1:
                await asyncio.sleep(0)
        await core.until(lambda: all(is_answered(each) for each in sent))
        assert [each.error for each in sent] == [0] * len(sent)
        assert len(reads) > 30
        assert all(content == expected for content, expected in reads)
        assert await read(core, clone, 0, len(model)) == (0, bytes(model))


async def test_the_limit_is_that_of_one_volume_and_its_client_alone_meets_it() -> None:
    async with running(TWO) as core:
        await cloned(core, limit=BLOCK)
        (clone, client), (other, _) = opened(core), opened(core, "wal@latest+test")
        assert await write(core, clone, 0, b"x") == 0
        assert await write(core, clone, BLOCK, b"x") == errno.ENOSPC
        assert await write(core, other, BLOCK, b"x") == 0
        assert await core.write("data", BLOCK, b"x") == 0
        assert await read(core, clone, 0, 1) == (0, b"x")
        assert client.ended == []
        (row,) = core.controller.clones.show(["data"])["clones"]
        assert (row["used_bytes"], row["limit_bytes"], row["connections"]) == (BLOCK, BLOCK, 1)
        assert row["first_fault"] == f"change of 1 bytes at {BLOCK}: No space left on device"


async def test_an_error_of_the_secondary_goes_to_the_client_and_changes_no_state() -> None:
    async with running(TWO) as core:
        await at_cut(core)
        leg, before = core.secondary(), core.states()
        cut = core.pair().cut
        assert cut is not None
        await core.controller.clones.make(BOTH, cut.id, "test")
        clone, client = opened(core)
        leg.fail("read_into")
        assert (await read(core, clone, 100, 10))[0] == errno.EIO
        leg.heal()
        assert await read(core, clone, 100, 10) == (0, b"at the cut")
        assert (core.states(), client.ended) == (before, [])


async def test_what_a_client_that_goes_has_waiting_is_dropped() -> None:
    async with running(TWO) as core:
        await cloned(core)
        clone, _ = opened(core)
        first = change(clone, WRITE, 0, b"first")
        await core.turns(1)  # it has begun
        second = change(clone, WRITE, 0, b"never")
        clone.takes.disconnected(second.client)
        assert await done(core, first) == 0
        assert await read(core, clone, 0, 5) == (0, b"first")
        assert not is_answered(second)


async def test_a_stop_ends_clones_and_closes_their_overlays() -> None:
    async with running(TWO) as core:
        await cloned(core)
        _, client = opened(core)
    assert client.ended == ["the daemon stops"]

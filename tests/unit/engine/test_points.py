"""Points as exports: when there is one, what is read of it, and how it ends."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from duplexd.core.leaving import Leaving
from duplexd.core.point import Point
from duplexd.errors import LimitError, NotFoundError, WrongStateError
from tests.unit.engine.cores import Core, new_disk, run, running, settings

if TYPE_CHECKING:
    from duplexd.backend import Extent

TWO = {"data": "sync", "wal": "async"}
FORCE = Leaving(force=True)


class Client:
    """A connection that has chosen a point."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def end_reading(self, why: str) -> None:
        self.ended.append(why)


async def cut(core: Core, reader: str = "", tag: str = "nightly") -> str:
    await core.write("data", 100, b"at the cut")
    made = await core.controller.suspend(list(TWO), tag, reader=reader)
    await core.write("data", 100, b"after that")
    return str(made["cut"])


def opened(core: Core, name: str) -> tuple[Point, Client]:
    """A client that has chosen this point."""
    point, client = core.controller.volume(name), Client()
    assert isinstance(point, Point)
    point.joined(client, "user 7")
    return point, client


async def read(core: Core, point: Point, offset: int, length: int) -> tuple[int, bytes]:
    answers: list[tuple[int, bytes]] = []
    core.controller.read(point, offset, length, 0, lambda *answer: answers.append(answer))
    await core.until(lambda: bool(answers))
    ((number, content),) = answers
    return number, bytes(content)


async def duplex(core: Core, how: Leaving = FORCE) -> None:
    await core.controller.resync(list(TWO), how=how)
    await core.controller.resync_wait(list(TWO))


# ------------------------------------------------------------------------------- when there is one


async def test_there_is_a_point_exactly_while_the_pair_is_at_a_cut() -> None:
    async with running(TWO) as core:
        assert list(core.controller.point_names()) == []
        assert core.controller.volume("data@latest") is None
        made = await cut(core)
        assert list(core.controller.point_names()) == [f"data@{made}", f"wal@{made}"]
        await duplex(core)
        assert list(core.controller.point_names()) == []
        assert core.controller.volume(f"data@{made}") is None


@pytest.mark.parametrize("by", ["id", "tag", "latest"])
async def test_a_point_is_found_by_every_name_of_its_cut_and_is_one_volume(by: str) -> None:
    async with running(TWO) as core:
        made = await cut(core)
        name = {"id": made, "tag": "nightly", "latest": "latest"}[by]
        point = core.controller.volume(f"data@{name}")
        assert point is core.controller.volume(f"data@{made}")
        assert point is not None
        assert (point.name, point.of, point.read_only) == (f"data@{made}", "data", True)
        assert core.controller.volume(f"nonesuch@{name}") is None
        assert core.controller.volume("data@other") is None


async def test_a_void_cut_can_be_read_by_its_id_alone() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        await core.controller.cuts.grade(made, False, 1, "broken")
        assert core.controller.volume(f"data@{made}") is not None
        assert core.controller.volume("data@latest") is None
        assert core.controller.volume("data@nightly") is None


async def test_there_is_no_point_before_its_cut_is_settled() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        core.controller.archive.unsettled.add(made)
        assert core.controller.volume(f"data@{made}") is None
        core.controller.archive.unsettled.discard(made)
        assert core.controller.volume(f"data@{made}") is not None


async def test_an_unusable_secondary_cannot_be_read() -> None:
    async with running(TWO) as core:
        await cut(core)
        pair = core.pair()
        core.controller.failed_legs.lost(pair, OSError(errno.EIO, "gone"))
        assert pair.cut is not None
        assert core.controller.volume(f"data@{pair.cut.id}") is None


# -------------------------------------------------------------------------------- what is read


async def test_a_read_returns_what_the_secondary_had_at_the_cut() -> None:
    async with running(TWO) as core:
        await cut(core)
        point, _ = opened(core, "data@latest")
        assert await read(core, point, 100, 10) == (0, b"at the cut")
        assert await core.read("data", 100, 10) == (0, b"after that")


async def test_the_extents_are_those_of_the_secondary() -> None:
    async with running(TWO) as core:
        await cut(core)
        await core.write("data", 1 << 20, b"x" * 4096)
        point, _ = opened(core, "data@latest")
        found: list[list[Extent]] = []
        core.controller.extents(point, 1 << 20, 4096, False, found.append)
        await core.until(lambda: bool(found))
        assert found == [[(1 << 20, 4096, False)]]


async def test_an_error_of_the_secondary_goes_to_the_client_and_suspends_nothing_more() -> None:
    async with running(TWO) as core:
        await cut(core)
        leg = core.secondary()
        point, client = opened(core, "data@latest")
        before = core.states()
        leg.fail("read_into")
        assert (await read(core, point, 100, 10))[0] == errno.EIO
        assert (core.states(), client.ended) == (before, [])


async def test_a_read_that_finds_no_memory_is_answered() -> None:
    async with running(TWO) as core:
        await cut(core)
        leg = core.secondary()
        point, _ = opened(core, "data@latest")

        def no_memory(_operation: str) -> None:
            raise MemoryError

        leg.delay = no_memory
        assert (await read(core, point, 100, 10))[0] == errno.ENOMEM
        leg.delay = None


async def test_a_read_that_a_worker_has_begun_is_thrown_away_when_the_point_ends() -> None:
    async with running(TWO) as core:
        await cut(core)
        point, _ = opened(core, "data@latest")
        answers: list[int] = []
        core.controller.read(point, 100, 10, 0, lambda number, _: answers.append(number))
        core.controller.points.end(core.pair(), "the test")
        await core.until(lambda: bool(answers))
        assert answers == [errno.EIO]
        assert not point.read_cached(100, memoryview(bytearray(10)))


async def test_a_point_of_an_image_that_was_replaced_is_not_read_on() -> None:
    """Another point takes its place, and only that one would end when the secondary moves."""
    async with running(TWO) as core:
        made = await cut(core)
        old, _ = opened(core, f"data@{made}")
        core.faulty()
        new, _ = opened(core, f"data@{made}")
        assert new is not old
        await duplex(core, Leaving(force=True))
        for point in (old, new):
            assert (await read(core, point, 100, 10))[0] == errno.EIO


# ---------------------------------------------------------------------------- what readers keep


async def test_a_client_that_reads_a_point_keeps_the_secondary_at_its_cut() -> None:
    async with running(TWO) as core:
        await cut(core)
        point, client = opened(core, "data@latest")
        with pytest.raises(WrongStateError, match="user 7"):
            await core.controller.resync(list(TWO))
        assert set(core.states().values()) == {"SUSPENDED"}
        point.left(client)
        await duplex(core, Leaving())
        assert set(core.states().values()) == {"DUPLEX"}


async def test_a_forced_resync_ends_all_readers_and_they_learn_of_it() -> None:
    async with running(TWO) as core:
        made = await cut(core, reader="nightly")
        point, client = opened(core, f"data@{made}")
        await duplex(core, FORCE)
        assert set(core.states().values()) == {"DUPLEX"}
        assert len(client.ended) == 1
        assert (await read(core, point, 100, 10))[0] == errno.EIO
        ended = [(event["reader"], event["kind"]) for event in core.named("reader-ended")]
        assert ended == [("nightly", "named"), ("user 7", "connection")]
        point.left(client)
        assert core.controller.timeline.ledger.readers.names(core.pair().id) == []


async def test_nobody_opens_a_point_while_a_command_leaves_the_cut() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        pairs = [core.pair(name) for name in TWO]
        async with core.controller.readers.leaving(pairs, Leaving()):
            assert core.controller.volume(f"data@{made}") is None
        assert core.controller.volume(f"data@{made}") is not None


@pytest.mark.parametrize("command", ["roll_forward", "lose_changes"])
async def test_a_swap_is_refused_while_the_secondary_is_read_and_forced_otherwise(
    command: str,
) -> None:
    async with running(TWO) as core:
        await cut(core, reader="nightly")
        options = (command == "roll_forward", None, command == "lose_changes")
        with pytest.raises(WrongStateError, match="data is read at cut"):
            await core.controller.swap(["data"], *options)
        assert not core.pair().record.swapped
        await core.controller.swap(["data"], *options, force=True)
        assert core.pair().record.swapped
        assert core.named("reader-ended")[0]["volumes"] == ["data"]


async def test_auto_resync_leaves_alone_what_is_read() -> None:
    async with running(TWO) as core:
        await cut(core)
        opened(core, "data@latest")
        with pytest.raises(WrongStateError, match="user 7"):
            await core.controller.commands.resync_again(list(TWO))
        assert set(core.states().values()) == {"SUSPENDED"}


async def test_a_command_that_forgets_to_ask_cannot_move_what_is_read() -> None:
    async with running(TWO) as core:
        await cut(core, reader="nightly")
        with pytest.raises(WrongStateError, match="nightly"):
            await core.controller.resyncs.resync([core.pair(name) for name in TWO])
        assert set(core.states().values()) == {"SUSPENDED"}


async def test_a_failed_secondary_ends_its_readers() -> None:
    async with running(TWO) as core:
        await cut(core, reader="nightly")
        _, client = opened(core, "data@latest")
        core.controller.failed_legs.lost(core.pair(), OSError(errno.EIO, "gone"))
        assert len(client.ended) == 1
        ended = {event["reader"]: event["volumes"] for event in core.named("reader-ended")}
        assert ended == {"user 7": ["data"], "nightly": ["data"]}
        assert core.controller.timeline.ledger.readers.names(core.pair("wal").id) == ["nightly"]


# -------------------------------------------------------------------------------- named readers


@pytest.mark.parametrize("how", ["kill", "power cut", "stop"])
def test_a_named_reader_survives_every_end_of_the_daemon(how: str) -> None:
    disk = new_disk()

    async def before() -> None:
        core = await Core.begin(disk, settings(TWO))
        await cut(core, reader="nightly")
        await (core.controller.stop() if how == "stop" else core.crash(how == "power cut"))

    async def after() -> None:
        core = await Core.begin(disk, settings(TWO))
        with pytest.raises(WrongStateError, match="nightly"):
            await core.controller.resync(list(TWO))
        await core.controller.stop()

    run(before())
    run(after())


async def test_the_last_reader_that_ends_begins_the_resync() -> None:
    async with running(TWO) as core:
        made = await cut(core, reader="a")
        await core.controller.suspend(list(TWO), existing=True, reader="b")
        first = await core.controller.resync(list(TWO), how=Leaving(made, "a"))
        assert (first["readers"], {row["how"] for row in first["volumes"]}) == (["b"], {"read"})
        assert set(core.states().values()) == {"SUSPENDED"}
        await duplex(core, Leaving(made, "b"))
        assert set(core.states().values()) == {"DUPLEX"}


async def test_a_reader_that_was_ended_learns_it_from_its_own_resync() -> None:
    async with running(TWO) as core:
        await cut(core, reader="a")
        await core.controller.release_reader(list(TWO), "a")
        with pytest.raises(WrongStateError, match="reader 'a' does not read data, wal"):
            await core.controller.resync(list(TWO), how=Leaving(reader="a"))
        assert set(core.states().values()) == {"SUSPENDED"}


async def test_a_resync_of_another_cut_does_nothing() -> None:
    async with running(TWO) as core:
        first = await cut(core)
        await duplex(core)
        second = await cut(core)
        with pytest.raises(WrongStateError, match=f"not at cut {first}"):
            await core.controller.resync(list(TWO), how=Leaving(first))
        await duplex(core, Leaving(second))
        assert set(core.states().values()) == {"DUPLEX"}


async def test_two_readers_cannot_have_one_name() -> None:
    async with running(TWO) as core:
        await cut(core, reader="a")
        with pytest.raises(WrongStateError, match="read by 'a' already"):
            await core.controller.suspend(list(TWO), existing=True, reader="a")


async def test_a_suspend_that_fails_leaves_no_reader_behind() -> None:
    """Its message says to resync, and the same command is given again."""
    async with running(TWO) as core:
        await cut(core)
        image = core.disk.take("/b/data.img")
        with pytest.raises(WrongStateError, match=r"not at cut .* any more: data"):
            await core.controller.suspend(list(TWO), existing=True, reader="a")
        core.disk.give("/b/data.img", image)
        await duplex(core, Leaving())
        await cut(core, reader="a")
        assert core.controller.timeline.ledger.readers.names(core.pair("wal").id) == ["a"]


async def test_the_number_of_named_readers_is_bounded() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        most = core.pair().record.limits.named_readers_max
        for number in range(most):
            await core.controller.add_reader(list(TWO), f"r{number}", made)
        with pytest.raises(LimitError, match="named_readers_max"):
            await core.controller.add_reader(list(TWO), "more", made)


async def test_a_reader_of_a_cut_that_is_not_there_is_refused() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        await duplex(core)
        with pytest.raises(WrongStateError, match=f"not at cut {made}"):
            await core.controller.add_reader(list(TWO), "late", made)


async def test_an_unknown_reader_is_not_found() -> None:
    async with running(TWO) as core:
        await cut(core)
        with pytest.raises(NotFoundError, match="'nobody'"):
            await core.controller.release_reader(list(TWO), "nobody")


async def test_a_void_cut_keeps_no_reader() -> None:
    async with running(TWO) as core:
        made = await cut(core)
        await core.controller.cuts.grade(made, False, 1, "broken")
        result = await core.controller.suspend(list(TWO), existing=True, reader="a")
        assert (result["verdict"], result["reader"]) == ("void", None)
        await duplex(core, Leaving())


async def test_status_and_cuts_show_the_readers() -> None:
    async with running(TWO) as core:
        made = await cut(core, reader="nightly")
        opened(core, "data@latest")
        volumes = {row["name"]: row for row in core.controller.status()["volumes"]}
        assert [each["name"] for each in volumes["data"]["readers"]] == ["nightly", "user 7"]
        assert [each["kind"] for each in volumes["wal"]["readers"]] == ["named"]
        assert core.controller.cuts.show(made)["readers"] == ["nightly", "user 7"]


def test_a_start_whose_configuration_removes_the_secondary_ends_its_readers() -> None:
    """Nobody is there who could be refused."""
    disk = new_disk()

    async def before() -> None:
        core = await Core.begin(disk, settings(TWO))
        await cut(core, reader="nightly")
        await core.controller.stop()

    async def after() -> None:
        core = await Core.begin(disk, settings(TWO | {"data": ""}))
        (event,) = core.named("reader-ended")
        assert (event["reader"], event["volumes"]) == ("nightly", ["data"])
        assert core.states() == {"data": "SIMPLEX", "wal": "SUSPENDED"}
        await core.controller.stop()

    run(before())
    run(after())

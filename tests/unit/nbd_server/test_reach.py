"""Who may reach which volume: the rule, and what a client that may not sees of it."""

from __future__ import annotations

import asyncio
import ipaddress
import os
from itertools import product
from typing import TYPE_CHECKING

import pytest

from duplexd.backend import WRITE
from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd_server.listeners import Listeners
from duplexd.nbd_server.reach import OPEN, Access, Door, Listener, Policy, may
from duplexd.net.address import UnixAddress
from duplexd.net.allow import Allow, Caller, parse_allow, resolve
from tests.unit.nbd_server.memory_backend import MemoryVolume
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, Peer, eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from duplexd.backend import Volume
    from tests.unit.nbd_server.memory_backend import MemoryBackend

ALICE = Caller(uid=1000, groups=frozenset({1000, 50}))
REMOTE = Caller(address=ipaddress.ip_address("10.1.2.3"), names=frozenset({"backup.example"}))
NOBODY = Allow(uids=frozenset({os.getuid() + 1}))
ME = Allow(uids=frozenset({os.getuid()}))


def allow(*entries: str) -> Allow:
    return resolve("allow", [parse_allow(each) for each in entries])


@pytest.mark.parametrize(
    ("entry", "caller", "admitted"),
    [
        ("user:1000", ALICE, True),
        ("user:1001", ALICE, False),
        ("group:50", ALICE, True),
        ("group:51", ALICE, False),
        ("address:10.0.0.0/8", REMOTE, True),
        ("address:192.168.0.0/16", REMOTE, False),
        ("address:10.1.2.3", REMOTE, True),
        ("address:fd00::/8", REMOTE, False),
        ("certificate:backup.example", REMOTE, True),
        ("certificate:*.example", REMOTE, False),
        ("certificate:BACKUP.example", REMOTE, False),
        ("address:0.0.0.0/0", ALICE, False),
        ("user:4294967295", REMOTE, False),
    ],
)
def test_an_entry_admits_who_matches_it(entry: str, caller: Caller, admitted: bool) -> None:
    assert allow(entry).admits(caller) == admitted


def test_one_of_several_entries_is_enough() -> None:
    assert allow("user:5", "group:50").admits(ALICE)


@pytest.mark.parametrize("text", ["backup", "user:", "host:x", "address:10.0.0.1/8", 7])
def test_an_entry_that_says_nothing_is_a_mistake(text: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        parse_allow(text)


def test_the_table_of_two_doors() -> None:
    lists = {None: True, allow("user:1000"): True, allow("user:1"): False}
    for (one, passes), (other, passes_too), read_only, read_only_too in product(
        lists.items(), lists.items(), (False, True), (False, True)
    ):
        expected = Access.NO
        if passes and passes_too:
            expected = Access.READ_ONLY if read_only or read_only_too else Access.FULL
        assert may(ALICE, Door(one, read_only), Door(other, read_only_too)) == expected


def test_only_root_is_not_special() -> None:
    assert may(Caller(uid=0), OPEN, Door(allow("user:1000"))) == Access.NO


MIB = 1 << 20


class Serving:
    """Listeners that a test may give other rules."""

    def __init__(self, backend: MemoryBackend, path: str) -> None:
        self.address = UnixAddress(path)
        self.listeners = Listeners(backend, [Listener(self.address)], NbdLimits())

    async def rules(self, policy: Policy, door: Door = OPEN) -> None:
        await self.listeners.update([Listener(self.address, door)], policy)

    async def peer(self) -> Peer:
        peer = Peer(self.address)
        await peer.open()
        return peer


@pytest.fixture
async def serving(backend: MemoryBackend, tmp_path: Path) -> AsyncIterator[Serving]:
    serving = Serving(backend, f"{tmp_path}/s")
    await serving.listeners.start()
    yield serving
    await serving.listeners.stop(PATIENCE_SECONDS)


def option(number: int, data: bytes) -> bytes:
    return m.OPTION.pack(c.OPTION_MAGIC, number, len(data)) + data


def go(name: str) -> bytes:
    return m.U32.pack(len(name)) + name.encode() + m.U16.pack(0)


async def answer(peer: Peer, number: int, data: bytes, before: bytes = b"") -> bytes:
    """What the server sends to one option of a new client, and to those before it, after its
    greeting.
    """
    greeting = len(m.greeting(0))
    options = before + option(number, data) + option(c.OPT_ABORT, b"")
    await peer.send(m.CLIENT_FLAGS.pack(3) + options)
    received = b""
    while more := await peer.receive():
        received += more
    peer.close()
    return received[greeting:]


@pytest.mark.parametrize("number", [c.OPT_GO, c.OPT_INFO])
async def test_what_is_not_allowed_looks_like_what_does_not_exist(
    serving: Serving, number: int
) -> None:
    await serving.rules(Policy({"data": Door(NOBODY)}))
    hidden = await answer(await serving.peer(), number, go("data"))
    absent = await answer(await serving.peer(), number, go("gone"))
    assert hidden.replace(b"data", b"gone") == absent


@pytest.mark.parametrize("number", [c.OPT_LIST_META_CONTEXT, c.OPT_SET_META_CONTEXT])
@pytest.mark.parametrize("context", [c.CONTEXT_ALLOCATION, f"{c.CONTEXT_DIRTY_BITMAP}monday"])
async def test_what_is_not_allowed_has_no_contexts(
    serving: Serving, backend: MemoryBackend, number: int, context: str
) -> None:
    for volume in backend.volumes.values():
        volume.dirty["monday"] = []
    await serving.rules(Policy({"data": Door(NOBODY)}))

    async def asked(name: str) -> bytes:
        query = m.context_data(name, [context])
        structured = option(c.OPT_STRUCTURED_REPLY, b"")
        return await answer(await serving.peer(), number, query, before=structured)

    assert context.encode() in await asked("wal")
    hidden = await asked("data")
    assert m.U32.pack(c.REP_ERR_UNKNOWN) in hidden
    assert hidden.replace(b"data", b"gone") == await asked("gone")


async def test_a_default_export_that_is_not_allowed_looks_like_none(serving: Serving) -> None:
    await serving.rules(Policy({"data": Door(NOBODY)}, default="data"))
    hidden = await answer(await serving.peer(), c.OPT_GO, go(""))
    await serving.rules(Policy({"data": Door(NOBODY)}))
    assert hidden == await answer(await serving.peer(), c.OPT_GO, go(""))


async def test_export_name_of_what_is_not_allowed_closes(serving: Serving) -> None:
    await serving.rules(Policy({"data": Door(NOBODY)}))
    assert await answer(await serving.peer(), c.OPT_EXPORT_NAME, b"data") == b""


async def test_list_shows_what_is_allowed(serving: Serving) -> None:
    await serving.rules(Policy({"data": Door(NOBODY)}))
    listed = await answer(await serving.peer(), c.OPT_LIST, b"")
    assert b"wal" in listed
    assert b"data" not in listed


async def test_a_listener_without_a_way_in_closes_at_once(serving: Serving) -> None:
    await serving.rules(Policy(), Door(NOBODY))
    peer = await serving.peer()
    assert await peer.receive() == b""
    peer.close()


@pytest.mark.parametrize("default", ["wal", ""])
async def test_the_default_export_is_the_configured_one_or_none_of_several(
    serving: Serving, default: str
) -> None:
    await serving.rules(Policy(default=default))
    given = await answer(await serving.peer(), c.OPT_INFO, go(""))
    assert (m.U32.pack(c.REP_ERR_UNKNOWN) in given) == (not default)


async def test_the_only_volume_is_the_default_export(
    serving: Serving, backend: MemoryBackend
) -> None:
    del backend.volumes["wal"]
    given = await answer(await serving.peer(), c.OPT_INFO, go(""))
    assert m.U32.pack(c.REP_ERR_UNKNOWN) not in given


async def test_a_read_only_volume_is_read_and_not_changed(
    serving: Serving, backend: MemoryBackend
) -> None:
    await serving.rules(Policy({"data": Door(ME, read_only=True)}))
    peer = await serving.peer()
    await peer.go("data")
    assert peer.nbd.flags & c.FLAG_READ_ONLY
    assert not peer.nbd.flags & (c.FLAG_SEND_TRIM | c.FLAG_SEND_WRITE_ZEROES)
    peer.nbd.flags ^= c.FLAG_READ_ONLY | c.FLAG_SEND_TRIM | c.FLAG_SEND_WRITE_ZEROES  # as if
    refused = [
        peer.nbd.write(0, b"x" * 4096),
        peer.nbd.write(0, b"x" * (1 << 20)),
        peer.nbd.trim(0, 4096),
        peer.nbd.write_zeroes(0, 4096),
    ]
    served = peer.nbd.read(0, 16)
    replies = await peer.replies(5)
    assert [replies[cookie].error for cookie in refused] == [c.EPERM] * 4
    assert (replies[served].error, replies[served].data) == (0, bytes(16))
    assert not [change for batch in backend.batches for change in batch if change.kind == WRITE]
    peer.close()


@pytest.mark.parametrize("door", [Door(NOBODY), Door(None, read_only=True)])
async def test_new_rules_hold_for_who_has_just_chosen_a_volume(
    serving: Serving, backend: MemoryBackend, door: Door
) -> None:
    """So many options came with the choice that transmission begins a turn of the loop later."""
    loop, find, found = asyncio.get_running_loop(), backend.volume, list[str]()

    def volume(name: str) -> Volume | None:
        found.append(name)
        if len(found) == 4:  # the choice
            loop.call_soon(serving.listeners.server.admit, Policy({"data": door}), {})
        return find(name)

    peer = await serving.peer()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "volume", volume)
        await peer.send(
            m.CLIENT_FLAGS.pack(3)
            + option(c.OPT_INFO, go("data")) * 3
            + option(c.OPT_GO, go("data"))
        )
        assert await peer.closed()
    assert len(found) >= 4
    peer.close()


@pytest.mark.parametrize("door", [Door(NOBODY), Door(None, read_only=True)])
async def test_who_may_do_less_by_new_rules_is_disconnected(serving: Serving, door: Door) -> None:
    peer = await serving.peer()
    await peer.go("data")
    await serving.rules(Policy({"data": door}))
    assert await peer.closed()
    peer.close()


async def test_who_may_do_as_much_by_new_rules_stays(serving: Serving) -> None:
    peer = await serving.peer()
    await peer.go("data")
    await serving.rules(Policy({"data": Door(ME), "wal": Door(NOBODY)}))
    read = peer.nbd.read(0, 16)
    assert (await peer.reply(read)).error == 0
    peer.close()


async def test_the_mode_of_a_socket_follows_a_reload(serving: Serving) -> None:
    assert os.stat(serving.address.path).st_mode & 0o777 == 0o660
    await serving.listeners.update([Listener(serving.address, mode=0o600)])
    assert os.stat(serving.address.path).st_mode & 0o777 == 0o600


# ------------------------------------------------------------------------------- points of volumes


@pytest.fixture
def points(backend: MemoryBackend) -> MemoryBackend:
    """Each volume is at a cut."""
    for name in list(backend.volumes):
        backend.volumes[f"{name}@c1"] = MemoryVolume(f"{name}@c1", 1 << 20)
    return backend


async def test_list_shows_the_points_of_what_is_allowed(
    serving: Serving, points: MemoryBackend
) -> None:
    assert [*points.point_names()] == ["data@c1", "wal@c1"]
    await serving.rules(Policy({"data": Door(NOBODY)}))
    listed = await answer(await serving.peer(), c.OPT_LIST, b"")
    assert b"wal@c1" in listed
    assert b"data@c1" not in listed


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize("number", [c.OPT_GO, c.OPT_INFO])
async def test_a_point_of_what_is_not_allowed_looks_like_what_does_not_exist(
    serving: Serving, number: int
) -> None:
    await serving.rules(Policy({"data": Door(NOBODY)}))
    hidden = await answer(await serving.peer(), number, go("data@c1"))
    absent = await answer(await serving.peer(), number, go("gone@c1"))
    assert hidden.replace(b"data", b"gone") == absent


@pytest.mark.usefixtures("points")
async def test_a_point_is_read_only_for_who_may_write_to_its_volume(serving: Serving) -> None:
    peer = await serving.peer()
    await peer.go("data@c1")
    assert peer.nbd.flags & c.FLAG_READ_ONLY
    assert peer.nbd.flags & c.FLAG_CAN_MULTI_CONN
    peer.nbd.flags ^= c.FLAG_READ_ONLY  # as if
    refused, served = peer.nbd.write(0, b"x" * 4096), peer.nbd.read(0, 16)
    replies = await peer.replies(2)
    assert (replies[refused].error, replies[served].error) == (c.EPERM, 0)
    peer.close()


async def test_who_reads_a_point_that_ends_is_disconnected(
    serving: Serving, points: MemoryBackend
) -> None:
    peer = await serving.peer()
    await peer.go("data@c1")
    ((reader, name),) = points.volumes["data@c1"].readers.items()
    assert name == f"user {os.getuid()}"
    reader.end_reading("the test")
    assert await peer.closed()
    assert not points.volumes["data@c1"].readers
    peer.close()


async def test_a_goodbye_that_was_not_received_saves_nothing_of_what_the_rules_exclude(
    serving: Serving, backend: MemoryBackend
) -> None:
    peer = await serving.peer()
    await peer.go("data")
    backend.holding = True
    for index in range(50):
        peer.nbd.write(index * 512, b"x" * 512)
    peer.nbd.disconnect()
    await peer.send()
    peer.half_close()
    await serving.rules(Policy({"data": Door(NOBODY)}))  # in the same turn of the loop
    await eventually(lambda: backend.volumes["data"].connections == 0)
    backend.release()
    assert backend.volumes["data"].data[: 50 * 512] == bytes(50 * 512)
    peer.close()


async def test_a_goodbye_keeps_nobody_connected_whom_the_rules_exclude(
    serving: Serving, backend: MemoryBackend
) -> None:
    """It waits for the replies to all that it sent before DISC, as slowly as it likes."""
    peer = await serving.peer()
    await peer.go("data")
    for _ in range(200):
        peer.nbd.read(0, MIB)
    peer.nbd.disconnect()
    await peer.send()
    peer.half_close()
    (connection,) = serving.listeners.server.connections
    await eventually(lambda: connection.is_ending)
    await serving.rules(Policy({"data": Door(NOBODY)}))
    received = 0
    while more := await peer.receive():
        received += len(more)
    assert received < 100 * MIB
    await eventually(lambda: backend.volumes["data"].connections == 0)
    peer.close()


@pytest.mark.usefixtures("points")
async def test_new_rules_of_a_volume_hold_for_who_reads_its_point(serving: Serving) -> None:
    peer = await serving.peer()
    await peer.go("data@c1")
    await serving.rules(Policy({"data": Door(NOBODY)}))
    assert await peer.closed()
    peer.close()

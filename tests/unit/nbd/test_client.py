"""The client's half, against the server's half over a fake wire, and against servers that
misbehave.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient, NotOfferedError, RefusedError
from duplexd.nbd.messages import ProtocolError
from tests.unit.nbd.wire import FLAGS, MemoryServer, talk


def connected(export: str = "data") -> tuple[NbdClient, MemoryServer]:
    client, server = NbdClient(export), MemoryServer()
    talk(client, server)
    assert client.ready
    return client, server


def greeted(*, list_exports: bool = False) -> NbdClient:
    client = NbdClient("data", list_exports=list_exports)
    client.receive(m.greeting(3))
    client.data_to_send()
    return client


def test_go_gives_size_flags_and_block_sizes() -> None:
    client, _ = connected()
    assert (client.size, client.flags, client.block_sizes) == (1 << 20, FLAGS, (1, 4096, 32 << 20))


def test_list_ends_with_abort() -> None:
    client, server = NbdClient(list_exports=True), MemoryServer()
    talk(client, server)
    assert client.exports == ["data", "wal"]
    assert client.closed
    assert server.handshake.reason == "aborted by the client"


def test_a_look_at_an_export_ends_with_abort() -> None:
    client, server = NbdClient("data", only_look=True), MemoryServer()
    talk(client, server)
    assert (client.size, client.ready, client.closed) == (1 << 20, False, True)
    assert server.handshake.reason == "aborted by the client"


def test_unknown_export_is_refused_with_the_servers_message() -> None:
    with pytest.raises(RefusedError, match="no export 'nope'") as raised:
        talk(NbdClient("nope"), MemoryServer())
    assert raised.value.code == c.REP_ERR_UNKNOWN


def test_refusal_without_a_message() -> None:
    with pytest.raises(RefusedError, match="error 2"):
        greeted().receive(m.option_reply(c.OPT_GO, c.REP_ERR_POLICY))


@pytest.mark.parametrize("lists", [True, False])
@pytest.mark.parametrize("error", [c.REP_ERR_POLICY, c.REP_ERR_SHUTDOWN, c.REP_ERR_TLS_REQD])
def test_a_client_that_was_refused_says_goodbye(lists: bool, error: int) -> None:
    client = greeted(list_exports=lists)
    with pytest.raises(RefusedError):
        client.receive(m.option_error(c.OPT_LIST if lists else c.OPT_GO, error, "no"))
    assert client.data_to_send() == m.option(c.OPT_ABORT)
    assert client.closed


# ------------------------------------------------------------------------------ older servers

UNKNOWN_GO = m.option_error(c.OPT_GO, c.REP_ERR_UNSUP, "what is GO")


@pytest.mark.parametrize(("flags", "zeroes"), [(3, 0), (1, 124)])
def test_a_server_without_go_is_asked_by_export_name(flags: int, zeroes: int) -> None:
    client = NbdClient("dätä")
    client.receive(m.greeting(flags))
    client.data_to_send()
    assert client.receive(UNKNOWN_GO) == []
    assert client.data_to_send() == m.option(c.OPT_EXPORT_NAME, "dätä".encode())
    answer = m.EXPORT.pack(1 << 30, FLAGS) + bytes(zeroes)
    for byte in answer[:-1]:
        client.receive(bytes([byte]))
    assert not client.ready
    client.receive(answer[-1:])
    assert (client.ready, client.size, client.flags) == (True, 1 << 30, FLAGS)
    client.flush()
    (reply,) = client.receive(m.simple_reply(0, 1))
    assert reply.error == 0


def test_a_server_without_fixed_newstyle_gets_no_other_option() -> None:
    client = NbdClient("data")
    client.receive(m.greeting(2))
    assert client.data_to_send() == m.CLIENT_FLAGS.pack(2) + m.option(c.OPT_EXPORT_NAME, b"data")
    client.receive(m.EXPORT.pack(4096, FLAGS))
    assert client.ready
    with pytest.raises(ProtocolError, match="cannot list"):
        NbdClient(list_exports=True).receive(m.greeting(2))


def test_export_name_without_flags_is_not_an_export() -> None:
    client = NbdClient("data")
    client.receive(m.greeting(2))
    with pytest.raises(ProtocolError, match="did not describe"):
        client.receive(m.EXPORT.pack(4096, 0))


# --------------------------------------------------------------------- what the server offers


def with_export(flags: int, *block_sizes: int) -> NbdClient:
    """A client that is ready on an export like that."""
    client = greeted()
    sizes = [m.option_reply(c.OPT_GO, INFO, m.info_block_size(*block_sizes))] if block_sizes else []
    export = m.option_reply(c.OPT_GO, INFO, m.info_export(1 << 30, flags))
    client.receive(b"".join([*sizes, export, m.option_reply(c.OPT_GO, ACK)]))
    assert client.ready
    return client


Request = Callable[[NbdClient], int]
REQUESTS: dict[str, Request] = {
    "read": lambda client: client.read(0, 4096),
    "write": lambda client: client.write(0, bytes(4096)),
    "fua": lambda client: client.write(0, bytes(4096), fua=True),
    "flush": lambda client: client.flush(),
    "trim": lambda client: client.trim(0, 4096),
    "zero": lambda client: client.write_zeroes(0, 4096),
}


@pytest.mark.parametrize(
    ("flags", "allowed"),
    [
        (c.FLAG_HAS_FLAGS, {"read", "write"}),
        (c.FLAG_HAS_FLAGS | c.FLAG_SEND_FLUSH, {"read", "write", "flush"}),
        (c.FLAG_HAS_FLAGS | c.FLAG_SEND_FUA, {"read", "write", "fua"}),
        (c.FLAG_HAS_FLAGS | c.FLAG_SEND_TRIM, {"read", "write", "trim"}),
        (c.FLAG_HAS_FLAGS | c.FLAG_SEND_WRITE_ZEROES, {"read", "write", "zero"}),
        (FLAGS, set(REQUESTS)),
        (FLAGS | c.FLAG_READ_ONLY, {"read", "flush"}),
    ],
)
def test_only_what_the_server_offers_is_sent(flags: int, allowed: set[str]) -> None:
    for name, ask in REQUESTS.items():
        client = with_export(flags)
        assert client.can_flush == bool(flags & c.FLAG_SEND_FLUSH)
        assert client.can_fua == bool(flags & c.FLAG_SEND_FUA)
        if name in allowed:
            ask(client)
            assert client.data_to_send()
            continue
        with pytest.raises(NotOfferedError) as raised:
            ask(client)
        assert raised.value.errno == (errno.EPERM if flags & c.FLAG_READ_ONLY else errno.EOPNOTSUPP)
        assert (client.data_to_send(), client.in_flight) == (b"", 0)


def test_block_sizes_of_the_server_are_kept() -> None:
    client = with_export(FLAGS, 512, 4096, 1 << 20)
    assert client.block_sizes == (512, 4096, 1 << 20)
    for offset, length in [(1, 512), (512, 511), (512, 1)]:
        with pytest.raises(ValueError, match="multiples of 512 bytes"):
            client.read(offset, length)
    with pytest.raises(ValueError, match="takes up to 1048576"):
        client.read(0, (1 << 20) + 512)
    with pytest.raises(ValueError, match="takes up to 1048576"):
        client.write(0, bytes((1 << 20) + 512))
    assert client.data_to_send() == b""
    client.read(512, 1 << 20)
    client.trim(0, 2 << 20)  # without a payload
    assert client.in_flight == 2


@pytest.mark.parametrize(
    "sizes",
    [(0, 4096, 1 << 20), (3, 4096, 1 << 20), (512, 4095, 1 << 20), (1, 0, 1 << 20), (1, 4096, 512),
     (8192, 4096, 1 << 20), (1 << 17, 1 << 17, 1 << 20)],
)  # fmt: skip
def test_bad_block_sizes_raise(sizes: tuple[int, int, int]) -> None:
    with pytest.raises(ProtocolError, match="bad block sizes"):
        with_export(FLAGS, *sizes)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 100),
    st.integers(1, 100),
    st.lists(st.tuples(st.integers(0, 999), st.binary(min_size=1, max_size=300)), max_size=8),
)
def test_fragments_change_nothing(
    to_client: int, to_server: int, writes: list[tuple[int, bytes]]
) -> None:
    client, server = NbdClient("data"), MemoryServer()
    talk(client, server, to_client, to_server)
    expected = bytearray(2000)
    for offset, data in writes:
        client.write(offset, data)
        expected[offset : offset + len(data)] = data
    cookie = client.read(0, len(expected))
    replies = {reply.cookie: reply for reply in talk(client, server, to_client, to_server)}
    assert [reply.error for reply in replies.values()] == [0] * (len(writes) + 1)
    assert replies[cookie].data == expected


def test_every_command_arrives_with_its_flags() -> None:
    client, server = connected()
    cookies = [
        client.write(0, b"abc", fua=True),
        client.write_zeroes(0, 10, fua=True, no_hole=True),
        client.trim(5, 6, fua=True),
        client.flush(),
        client.write_zeroes(1, 2),
        client.trim(3, 4),
    ]
    assert client.in_flight == 6
    assert [reply.cookie for reply in talk(client, server)] == cookies
    assert client.in_flight == 0
    assert [
        (flags, command, offset, length) for flags, command, _, offset, length, _ in server.seen
    ] == [
        (1, c.CMD_WRITE, 0, 3),
        (3, c.CMD_WRITE_ZEROES, 0, 10),
        (1, c.CMD_TRIM, 5, 6),
        (0, c.CMD_FLUSH, 0, 0),
        (0, c.CMD_WRITE_ZEROES, 1, 2),
        (0, c.CMD_TRIM, 3, 4),
    ]


def test_failed_read_has_no_data() -> None:
    client, server = connected()
    client.read(1 << 20, 1)
    client.read(0, 2)
    assert [(reply.error, reply.data) for reply in talk(client, server)] == [
        (c.EINVAL, b""),
        (0, b"\0\0"),
    ]


def test_replies_in_flight_still_come_after_disconnect() -> None:
    client, server = connected()
    client.read(0, 4)
    client.disconnect()
    before = client.closed
    (reply,) = client.receive(server.receive(client.data_to_send()))
    assert reply.data == bytes(4)
    assert (before, client.closed) == (False, True)
    assert client.receive(b"junk") == []
    assert server.receiver.ended


def test_disconnect_during_the_handshake_is_an_abort() -> None:
    client = greeted()
    client.disconnect()
    assert client.data_to_send() == m.option(c.OPT_ABORT)
    assert client.closed


def test_disconnect_before_the_greeting_sends_nothing() -> None:
    client = NbdClient("data")
    client.disconnect()
    assert client.data_to_send() == b""
    assert client.closed


@pytest.mark.parametrize("state", ["fresh", "haggling", "closed"])
def test_requests_outside_of_transmission_raise(state: str) -> None:
    client = {"fresh": NbdClient, "haggling": greeted, "closed": lambda: connected()[0]}[state]()
    if state == "closed":
        client.disconnect()
    with pytest.raises(ProtocolError):
        client.flush()


INFO, SERVER, ACK = c.REP_INFO, c.REP_SERVER, c.REP_ACK


@pytest.mark.parametrize(
    "answer",
    [
        m.option_reply(c.OPT_GO, ACK),  # without describing the export
        m.option_reply(c.OPT_LIST, ACK),  # to an option that was not sent
        m.option_reply(c.OPT_GO, SERVER, m.U32.pack(0)),
        m.option_reply(c.OPT_GO, 99),
        m.option_reply(c.OPT_GO, INFO, b"\0"),
        m.option_reply(c.OPT_GO, INFO, m.info_export(1, 1)[:-1]),
        m.option_reply(c.OPT_GO, INFO, m.info_block_size(1, 2, 3) + b"x"),
        m.OPTION_REPLY.pack(1, c.OPT_GO, ACK, 0),
        m.OPTION_REPLY.pack(c.OPTION_REPLY_MAGIC, c.OPT_GO, ACK, c.OPTION_BYTES_MAX + 1),
    ],
)
def test_bad_answers_to_go_raise(answer: bytes) -> None:
    with pytest.raises(ProtocolError):
        greeted().receive(answer)


@pytest.mark.parametrize("entry", [b"", b"\0\0\0", m.U32.pack(2) + b"x"])
def test_bad_list_entries_raise(entry: bytes) -> None:
    with pytest.raises(ProtocolError):
        greeted(list_exports=True).receive(m.option_reply(c.OPT_LIST, SERVER, entry))


def test_information_that_was_not_asked_for_is_ignored() -> None:
    client = greeted()
    client.receive(m.option_reply(c.OPT_GO, INFO, m.info_text(c.INFO_NAME, b"x")))
    client.receive(
        m.option_reply(c.OPT_GO, INFO, m.info_export(7, 1)) + m.option_reply(c.OPT_GO, ACK)
    )
    assert (client.ready, client.size) == (True, 7)


@pytest.mark.parametrize(
    "greeting",
    [b"SSH-2.0-OpenSSH_9.2p1", m.GREETING.pack(c.INIT_MAGIC, 0x420281861253, 0)],
)
def test_a_server_of_another_protocol_raises(greeting: bytes) -> None:
    with pytest.raises(ProtocolError):
        NbdClient("data").receive(greeting)


@pytest.mark.parametrize("answer", [bytes(16), m.simple_reply(0, 77)])
def test_bad_replies_raise(answer: bytes) -> None:
    client, _ = connected()
    client.flush()
    with pytest.raises(ProtocolError):
        client.receive(answer)


def test_no_zeroes_is_only_asked_for_when_offered() -> None:
    client = NbdClient("data")
    client.receive(m.greeting(1))
    assert client.data_to_send().startswith(m.CLIENT_FLAGS.pack(1))


def test_a_list_that_does_not_end_is_refused() -> None:
    client, name = greeted(list_exports=True), b"x" * 4096
    entry = m.option_reply(c.OPT_LIST, SERVER, m.U32.pack(len(name)) + name)
    with pytest.raises(ProtocolError, match="does not end"):
        client.receive(entry * 10_000)
    assert len(client.exports) < 5000

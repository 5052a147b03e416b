"""What the client negotiates before GO, with the server's half and with servers that lack it."""

from __future__ import annotations

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient, NotOfferedError, RefusedError
from duplexd.nbd.handshake import TRANSMISSION, Handshake
from duplexd.nbd.messages import ProtocolError
from tests.unit.nbd.wire import ALL_OFFERS, FLAGS, OPTIONS_MAX, FakeExports, answered

CONTEXTS = [c.CONTEXT_ALLOCATION, "qemu:dirty-bitmap:none"]


def haggled(client: NbdClient, server: Handshake) -> None:
    """Carry bytes both ways until both are quiet; TLS is nothing but a promise here."""
    answer = server.greeting()
    while answer:
        client.receive(answer)
        if client.wants_tls:
            server.secured()
            client.secured()
        answer = answered(server, client.data_to_send())


def test_structured_replies_and_contexts_are_negotiated() -> None:
    client = NbdClient("data", structured=True, contexts=CONTEXTS)
    server = Handshake(FakeExports(), OPTIONS_MAX, offers=ALL_OFFERS)
    haggled(client, server)
    assert (server.state, client.ready, client.structured) == (TRANSMISSION, True, True)
    assert client.contexts == [c.CONTEXT_ALLOCATION]
    assert server.negotiated.structured
    assert server.negotiated.contexts == ((1, c.CONTEXT_ALLOCATION),)


def test_a_server_without_them_is_used_without() -> None:
    client = NbdClient("data", structured=True, contexts=CONTEXTS)
    haggled(client, Handshake(FakeExports(), OPTIONS_MAX))
    assert (client.ready, client.structured, client.contexts) == (True, False, [])
    with pytest.raises(NotOfferedError):
        client.block_status(0, 4096)


def test_contexts_are_not_asked_for_without_structured_replies() -> None:
    client = NbdClient("data", structured=True, contexts=CONTEXTS)
    client.receive(m.greeting(3))
    client.data_to_send()
    client.receive(m.option_error(c.OPT_STRUCTURED_REPLY, c.REP_ERR_UNSUP, "no"))
    asked = [c.INFO_BLOCK_SIZE, c.INFO_DESCRIPTION]
    assert client.data_to_send() == m.option(c.OPT_GO, m.go_data("data", asked))


def test_nothing_is_asked_before_tls_is_up() -> None:
    client = NbdClient("data", tls=True, structured=True, contexts=CONTEXTS)
    client.receive(m.greeting(3))
    assert client.data_to_send() == m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_STARTTLS)
    client.receive(m.option_reply(c.OPT_STARTTLS, c.REP_ACK))
    assert (client.wants_tls, client.data_to_send()) == (True, b"")
    client.secured()
    assert client.data_to_send() == m.option(c.OPT_STRUCTURED_REPLY)


@pytest.mark.parametrize("lists", [False, True])
def test_a_server_that_requires_tls_gets_it(lists: bool) -> None:
    client = NbdClient("data", tls=True, list_exports=lists)
    haggled(client, Handshake(FakeExports(), OPTIONS_MAX, tls="required"))
    assert (client.closed, client.exports) == (True, ["data", "wal"]) if lists else client.ready


def test_a_client_that_wants_tls_does_not_go_on_without() -> None:
    client = NbdClient("data", tls=True)
    with pytest.raises(RefusedError, match="TLS is not configured"):
        haggled(client, Handshake(FakeExports(), OPTIONS_MAX))
    assert client.data_to_send() == m.option(c.OPT_ABORT)
    with pytest.raises(ProtocolError, match="no TLS"):
        NbdClient("data", tls=True).receive(m.greeting(2))


def test_plain_text_behind_the_answer_to_starttls_is_refused() -> None:
    client = NbdClient("data", tls=True)
    client.receive(m.greeting(3))
    injected = m.option_reply(c.OPT_STRUCTURED_REPLY, c.REP_ACK)
    with pytest.raises(ProtocolError, match="plain text"):
        client.receive(m.option_reply(c.OPT_STARTTLS, c.REP_ACK) + injected)


@pytest.mark.parametrize(
    "entries",
    [
        [(1, "base:other")],
        [(1, c.CONTEXT_ALLOCATION), (1, CONTEXTS[1])],
        [(1, c.CONTEXT_ALLOCATION), (2, c.CONTEXT_ALLOCATION)],
    ],
)
def test_contexts_that_were_not_asked_for_are_refused(entries: list[tuple[int, str]]) -> None:
    client = NbdClient("data", structured=True, contexts=CONTEXTS)
    client.receive(m.greeting(3))
    client.receive(m.option_reply(c.OPT_STRUCTURED_REPLY, c.REP_ACK))
    with pytest.raises(ProtocolError, match="context"):
        client.receive(b"".join(m.context_reply(c.OPT_SET_META_CONTEXT, *each) for each in entries))


def test_contexts_of_an_option_that_failed_are_forgotten() -> None:
    client = NbdClient("data", structured=True, contexts=CONTEXTS)
    client.receive(m.greeting(3))
    client.receive(m.option_reply(c.OPT_STRUCTURED_REPLY, c.REP_ACK))
    client.receive(m.context_reply(c.OPT_SET_META_CONTEXT, 1, c.CONTEXT_ALLOCATION))
    client.receive(m.option_error(c.OPT_SET_META_CONTEXT, c.REP_ERR_UNKNOWN, "no"))
    assert client.contexts == []
    export = m.option_reply(c.OPT_GO, c.REP_INFO, m.info_export(1 << 20, FLAGS))
    client.receive(export + m.option_reply(c.OPT_GO, c.REP_ACK))
    assert client.ready


@pytest.mark.parametrize(("offset", "length"), [(0, 1 << 32), (-1, 10), (1 << 64, 1), (0, -1)])
def test_a_range_that_no_request_can_name_is_refused(offset: int, length: int) -> None:
    client = NbdClient("data")
    haggled(client, Handshake(FakeExports(), OPTIONS_MAX))
    with pytest.raises(ValueError, match="no range"):
        client.trim(offset, length)
    assert (client.in_flight, client.data_to_send()) == (0, b"")

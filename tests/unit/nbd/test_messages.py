"""Fixed messages have the bytes that the specification shows."""

from __future__ import annotations

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m


def test_greeting_spells_its_magics() -> None:
    assert m.greeting(3) == b"NBDMAGICIHAVEOPT\x00\x03"


def test_option_carries_its_length() -> None:
    assert (
        m.option(c.OPT_EXPORT_NAME, b"data")
        == b"IHAVEOPT" + bytes.fromhex("00000001 00000004") + b"data"
    )


def test_option_reply_carries_option_kind_and_length() -> None:
    assert m.option_reply(c.OPT_GO, c.REP_ACK) == bytes.fromhex(
        "0003e889045565a9 00000007 00000001 00000000"
    )


def test_option_error_has_the_error_bit_and_a_text() -> None:
    assert (
        m.option_error(c.OPT_GO, c.REP_ERR_UNKNOWN, "no")
        == bytes.fromhex("0003e889045565a9 00000007 80000006 00000002") + b"no"
    )


def test_list_entry_has_the_length_of_the_name_in_bytes() -> None:
    assert m.list_entry("dä")[20:] == bytes.fromhex("00000003") + "dä".encode()


def test_request_is_28_bytes() -> None:
    assert m.request(1, c.CMD_WRITE, 2, 3, 4) == bytes.fromhex(
        "25609513 0001 0001 0000000000000002 0000000000000003 00000004"
    )


def test_simple_reply_is_16_bytes() -> None:
    assert m.simple_reply(28, 2) == bytes.fromhex("67446698 0000001c 0000000000000002")


def test_information_starts_with_its_kind() -> None:
    assert m.info_export(4096, 1) == bytes.fromhex("0000 0000000000001000 0001")
    assert m.info_block_size(1, 4096, 1 << 25) == bytes.fromhex("0003 00000001 00001000 02000000")
    assert m.info_text(c.INFO_NAME, b"data") == b"\x00\x01data"


def test_go_carries_name_and_kinds() -> None:
    assert m.go_data("a", [3, 1]) == bytes.fromhex("00000001") + b"a" + bytes.fromhex(
        "0002 0003 0001"
    )


@pytest.mark.parametrize("text", ["x" * 2000, "ä" * 2000, "xä" + "ä" * 2000])
def test_long_text_is_cut_between_characters(text: str) -> None:
    short = m.short_text(text)
    assert c.REPLY_TEXT_BYTES_MAX - 1 <= len(short) <= c.REPLY_TEXT_BYTES_MAX
    assert text.startswith(short.decode())

"""Messages of the kernel's NBD driver, against bytes that were recorded in a guest with Linux 6.1.

There the family had the number 32 and its group 9; the device was /dev/nbd5.
"""

from __future__ import annotations

import errno
import sys

import pytest

from duplexd.attach import netlink
from duplexd.attach.netlink import Device, Family, Message

pytestmark = pytest.mark.skipif(sys.byteorder != "little", reason="recorded on a PC")

FAMILY = 32
DEVICE = Device(5, 30, 60, "backend text")
GET_FAMILY_ANSWER = bytes.fromhex(
    "b400000010000000010000008100000001020000"
    "080002006e626400060001002000000008000300010000000800040000000000080005000a000000"
    "54000600140001000800010001000000080002000a000000140002000800010002000000080002000a000000"
    "140003000800010003000000080002000a000000140004000800010005000000080002000a000000"
    "24000700200001000800020009000000110001006e62645f6d635f67726f757000000000"
)
CONNECT_REQUEST = bytes.fromhex(
    "7c000000200005000200000000000000010100000800010005000000"
    "0c0004001e000000000000000c0008003c00000000000000"
    "11000a006261636b656e642074657874000000000c00020000001000000000000c0003000002000000000000"
    "0c0005000d01000000000000100007800c0001800800010005000000"
)
CONNECT_ANSWER = bytes.fromhex("1c000000200000000200000081000000010100000800010005000000")
ACKNOWLEDGED = bytes.fromhex(
    "240000000200000104000000810000000000000058000000200005000400000000000000"
)
BUSY = bytes.fromhex("90000000020000000300000081000000f0ffffff") + CONNECT_REQUEST
LINK_DEAD = bytes.fromhex("1c000000200000000000000000000000040100000800010005000000")
# After these the kernel answered without an error, too
RECONFIGURE_OTHER = bytes.fromhex(
    "50000000200005000600000000000000030100000800010005000000"
    "0c0004001e000000000000000c0008003c000000000000000a000a006f74686572000000"
    "100007800c0001800800010007000000"
)
DISCONNECT_REQUEST = bytes.fromhex("1c000000200005000700000000000000020100000800010005000000")


def test_the_numbers_of_the_driver_are_found() -> None:
    (message,) = netlink.parse(GET_FAMILY_ANSWER)
    assert netlink.family(message) == Family(FAMILY, 9)


def test_what_the_kernel_took_is_what_is_packed() -> None:
    assert netlink.connect(FAMILY, 2, DEVICE, 1 << 20, 512, 0x10D, [5]) == CONNECT_REQUEST
    other = DEVICE._replace(backend="other")
    assert netlink.reconfigure(FAMILY, 6, other, [7]) == RECONFIGURE_OTHER
    assert netlink.disconnect(FAMILY, 7, 5) == DISCONNECT_REQUEST


def test_a_new_size_is_sent_without_sockets() -> None:
    """As `connect` packs it, which the kernel took."""
    (request,) = netlink.parse(netlink.resize(FAMILY, 6, DEVICE, 1 << 20))
    assert request.command == netlink.RECONFIGURE
    size = CONNECT_REQUEST.index(bytes.fromhex("0c000200")) + 4
    assert request.attributes[netlink.SIZE] == CONNECT_REQUEST[size : size + 8]
    assert netlink.SOCKETS not in request.attributes


def test_several_sockets_are_several_items() -> None:
    one, two = (netlink.reconfigure(FAMILY, 6, DEVICE, fds) for fds in ([7], [7, 8]))
    assert two[-24:] == one[-12:] + one[-12:-4] + (8).to_bytes(4, "little")


def test_answers_are_an_error_an_acknowledgement_or_something_to_say() -> None:
    (answer,) = netlink.parse(CONNECT_ANSWER)
    assert answer == Message(2, None, netlink.CONNECT, {netlink.INDEX: bytes([5, 0, 0, 0])})
    assert [message.error for message in netlink.parse(ACKNOWLEDGED)] == [0]
    assert [message.error for message in netlink.parse(BUSY)] == [errno.EBUSY]
    assert len(list(netlink.parse(CONNECT_ANSWER + ACKNOWLEDGED))) == 2


def test_a_notice_names_the_device_that_lost_a_connection() -> None:
    (notice,) = netlink.parse(LINK_DEAD)
    assert netlink.dead_link(notice) == 5
    assert [netlink.dead_link(each) for each in netlink.parse(CONNECT_ANSWER)] == [None]
    assert [netlink.dead_link(each) for each in netlink.parse(ACKNOWLEDGED)] == [None]


@pytest.mark.parametrize("length", range(1, len(LINK_DEAD)))
def test_a_message_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match="bytes"):
        list(netlink.parse(LINK_DEAD[:length]))


def test_lengths_that_do_not_add_up_are_refused() -> None:
    for place in (0, 20):  # of the message, of its attribute
        for length in (0, 3, 255):
            wrong = bytearray(LINK_DEAD)
            wrong[place] = length
            with pytest.raises(ValueError, match="bytes"):
                list(netlink.parse(bytes(wrong)))


def test_an_answer_without_the_group_is_refused() -> None:
    (message,) = netlink.parse(CONNECT_ANSWER)
    with pytest.raises(ValueError, match="attribute"):
        netlink.family(message)

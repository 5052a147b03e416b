"""Odd inputs in transmission: requests that are out of range, unknown, or not requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.prober.talk import (
    EXPORT_BYTES,
    EXTENDED,
    FIRST_COOKIE,
    HARMLESS_COOKIE,
    SECOND_COOKIE,
    SIMPLE,
    SIMPLE_MAGIC,
    STRUCTURED,
    Odd,
    extended_request,
    option,
    request,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

READ, WRITE, DISC, FLUSH, TRIM, CACHE, WRITE_ZEROES, BLOCK_STATUS = range(8)
FUA, NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN = (1 << bit for bit in range(6))
NAMES = ("READ", "WRITE", "DISC", "FLUSH", "TRIM", "CACHE", "WRITE_ZEROES", "BLOCK_STATUS")
END, MIB = EXPORT_BYTES, 1 << 20


def _read(name: str, offset: int, length: int, beginning: str = SIMPLE, flags: int = 0) -> Odd:
    data = request(READ, offset, length, flags=flags)
    return Odd(name, beginning, data, reads=((FIRST_COOKIE, length),))


def ranges() -> Iterator[Odd]:
    """Where each command ends: the end of the export, of 64 bits, and of what fits a message."""
    yield _read("READ of no bytes", 0, 0)
    yield _read("READ of no bytes at the end", END, 0)
    yield _read("READ of one byte", 7, 1)
    yield _read("READ of 32 MiB", 0, 32 * MIB)
    yield _read("READ of 64 MiB", 0, 64 * MIB)
    yield _read("READ of 64 MiB + 1", 0, 64 * MIB + 1)
    yield _read("READ of 4 GiB - 1", 0, (1 << 32) - 1)
    for name, command, data in (
        ("READ", READ, b""),
        ("WRITE", WRITE, bytes(4096)),
        ("TRIM", TRIM, b""),
        ("WRITE_ZEROES", WRITE_ZEROES, b""),
        ("CACHE", CACHE, b""),
        ("BLOCK_STATUS", BLOCK_STATUS, b""),
    ):
        for where, offset in (
            ("beyond the end", END),
            ("over the end", END - 2048),
            ("at 2^63", 1 << 63),
            ("where offset and length pass 2^64", (1 << 64) - 2048),
        ):
            yield Odd(f"{name} {where}", SIMPLE, request(command, offset, 4096, data=data))
    for name, command in (("WRITE", WRITE), ("TRIM", TRIM), ("WRITE_ZEROES", WRITE_ZEROES)):
        yield Odd(f"{name} of no bytes", SIMPLE, request(command, 0, 0))
        yield Odd(f"{name} of no bytes beyond the end", SIMPLE, request(command, END + 512, 0))
    for name, length in (
        ("32 MiB", 32 * MIB),
        ("64 MiB", 64 * MIB),
        ("64 MiB + 512", 64 * MIB + 512),
    ):
        data = request(WRITE, 0, length, data=bytes(length))
        yield Odd(f"WRITE of {name}", SIMPLE, data)
    yield Odd("TRIM of 4 GiB - 512", SIMPLE, request(TRIM, 0, (1 << 32) - 512))
    yield Odd("WRITE_ZEROES of 4 GiB - 512", SIMPLE, request(WRITE_ZEROES, 0, (1 << 32) - 512))
    yield Odd("FLUSH with a range", SIMPLE, request(FLUSH, 4096, 4096))
    yield Odd("FLUSH with a range beyond the end", SIMPLE, request(FLUSH, END, 4096))
    yield Odd("BLOCK_STATUS of no bytes", STRUCTURED, request(BLOCK_STATUS, 0, 0))


def commands() -> Iterator[Odd]:
    for number in (8, 9, 255, 0xFFFF):
        yield Odd(f"unknown command {number}", SIMPLE, request(number, 0, 512))
    for command, data in (
        (READ, b""),
        (WRITE, bytes(512)),
        (FLUSH, b""),
        (TRIM, b""),
        (CACHE, b""),
        (WRITE_ZEROES, b""),
    ):
        length = 0 if command == FLUSH else 512
        for flag, flag_name in (
            (FUA, "FUA"),
            (NO_HOLE, "NO_HOLE"),
            (DF, "DF"),
            (REQ_ONE, "REQ_ONE"),
            (FAST_ZERO, "FAST_ZERO"),
            (PAYLOAD_LEN, "PAYLOAD_LEN"),
            (1 << 15, "0x8000"),
        ):
            yield Odd(
                f"{NAMES[command]} with {flag_name}",
                SIMPLE,
                request(command, 0, length, flags=flag, data=data),
                reads=((FIRST_COOKIE, length),) if command == READ else (),
            )
    yield Odd("BLOCK_STATUS without a context", SIMPLE, request(BLOCK_STATUS, 0, 4096))


def streams() -> Iterator[Odd]:
    """What is not a request, or not alone."""
    read = request(READ, 0, 512)
    one = ((FIRST_COOKIE, 512),)
    yield Odd("a wrong request magic", SIMPLE, request(READ, 0, 512, magic=0x25609514))
    yield Odd("the magic of a reply", SIMPLE, request(READ, 0, 512, magic=SIMPLE_MAGIC))
    yield Odd("an option", SIMPLE, option(3))
    yield Odd("one byte", SIMPLE, b"x", last=True)
    yield Odd("half a header of a request", SIMPLE, read[:13], last=True)
    yield Odd(
        "a WRITE whose payload ends early",
        SIMPLE,
        request(WRITE, 0, 4096, data=bytes(100)),
        last=True,
    )
    yield Odd("one cookie twice", SIMPLE, read * 2, reads=one, answers=2)
    yield Odd("cookie 0", SIMPLE, request(READ, 0, 512, cookie=0), reads=((0, 512),))
    yield Odd(
        "the highest cookie",
        SIMPLE,
        request(READ, 0, 512, cookie=(1 << 64) - 1),
        reads=(((1 << 64) - 1, 512),),
    )
    yield Odd("a READ and the end, without DISC", SIMPLE, read, reads=one, last=True, racing=True)
    yield Odd("DISC", SIMPLE, request(DISC), last=True)
    yield Odd("DISC with a range and flags", SIMPLE, request(DISC, 77, 99, flags=3), last=True)
    yield Odd("a READ and DISC", SIMPLE, read + request(DISC), reads=one, last=True, racing=True)
    yield Odd(
        "a WRITE with FUA and DISC",
        SIMPLE,
        request(WRITE, 0, 512, flags=FUA, data=bytes(512)) + request(DISC),
        last=True,
        racing=True,
    )
    writes = b"".join(
        request(WRITE, place << 12, 4096, cookie=0x100 + place, data=bytes(4096))
        for place in range(64)
    )
    yield Odd("64 WRITEs and DISC", SIMPLE, writes + request(DISC), last=True, racing=True)
    yield Odd("a READ after DISC", SIMPLE, request(DISC) + read, reads=one, last=True)
    yield Odd(
        "a refused WRITE before a good one",
        SIMPLE,
        request(WRITE, END, 512, data=bytes(512))
        + request(WRITE, 0, 512, cookie=SECOND_COOKIE, data=bytes(512)),
        answers=2,
    )


def structured() -> Iterator[Odd]:
    yield _read("READ", 0, 4096, STRUCTURED)
    yield _read("READ of no bytes", 0, 0, STRUCTURED)
    yield _read("READ over the end", END - 2048, 4096, STRUCTURED)
    yield _read("READ with DF", 0, 64 << 10, STRUCTURED, DF)
    yield _read("READ of 32 MiB with DF", 0, 32 * MIB, STRUCTURED, DF)
    yield _read("READ of 64 MiB + 1", 0, 64 * MIB + 1, STRUCTURED)
    yield _read("READ with FUA and DF", 0, 512, STRUCTURED, FUA | DF)
    yield Odd("WRITE", STRUCTURED, request(WRITE, 0, 512, data=bytes(512)))
    yield Odd("WRITE over the end", STRUCTURED, request(WRITE, END, 512, data=bytes(512)))
    yield Odd("WRITE with DF", STRUCTURED, request(WRITE, 0, 512, flags=DF, data=bytes(512)))
    yield Odd("FLUSH", STRUCTURED, request(FLUSH))
    yield Odd("BLOCK_STATUS", STRUCTURED, request(BLOCK_STATUS, 0, MIB))
    yield Odd("BLOCK_STATUS of all", STRUCTURED, request(BLOCK_STATUS, 0, END))
    yield Odd("BLOCK_STATUS of one byte", STRUCTURED, request(BLOCK_STATUS, 511, 1))
    yield Odd("BLOCK_STATUS over the end", STRUCTURED, request(BLOCK_STATUS, END - 512, 1024))
    for flag, flag_name in ((REQ_ONE, "REQ_ONE"), (DF, "DF"), (FUA, "FUA")):
        data = request(BLOCK_STATUS, 0, MIB, flags=flag)
        yield Odd(f"BLOCK_STATUS with {flag_name}", STRUCTURED, data)
    yield Odd("unknown command 77", STRUCTURED, request(77))


def extended() -> Iterator[Odd]:
    yield Odd("READ", EXTENDED, extended_request(READ, 0, 4096))
    yield Odd("READ of 2^40 bytes", EXTENDED, extended_request(READ, 0, 1 << 40))
    yield Odd("a compact request", EXTENDED, request(READ, 0, 512))
    write = extended_request(WRITE, 0, 512, flags=PAYLOAD_LEN, data=bytes(512))
    yield Odd("WRITE with PAYLOAD_LEN", EXTENDED, write)
    yield Odd(
        "WRITE without PAYLOAD_LEN", EXTENDED, extended_request(WRITE, 0, 512, data=bytes(512))
    )
    yield Odd("TRIM of 2^40 bytes", EXTENDED, extended_request(TRIM, 0, 1 << 40))
    yield Odd("WRITE_ZEROES of all", EXTENDED, extended_request(WRITE_ZEROES, 0, END))
    yield Odd("BLOCK_STATUS of all", EXTENDED, extended_request(BLOCK_STATUS, 0, END))
    yield Odd(
        "READ with PAYLOAD_LEN and 512 bytes",
        EXTENDED,
        extended_request(READ, 0, 512, flags=PAYLOAD_LEN, data=bytes(512)),
    )


def all_of_transmission() -> list[Odd]:
    odd = [*ranges(), *commands(), *streams(), *structured(), *extended()]
    assert HARMLESS_COOKIE not in {cookie for each in odd for cookie, _ in each.reads}
    return odd

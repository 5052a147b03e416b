"""Odd inputs before the transmission: what is sent instead of client flags, and options."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING

from tests.support.prober.talk import (
    CONNECT,
    EXPORT,
    FLAGS,
    HAGGLE,
    HAGGLE_STRUCTURED,
    Odd,
    contexts,
    named,
    option,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_U32 = Struct(">I")
NAME = EXPORT.encode()
EXPORT_NAME, ABORT, LIST, PEEK, STARTTLS, INFO, GO = 1, 2, 3, 4, 5, 6, 7
STRUCTURED_REPLY, LIST_META, SET_META, EXTENDED_HEADERS = 8, 9, 10, 11
LONG = 1 << 31


def instead_of_flags() -> Iterator[Odd]:
    for flags in (0, 1, 2, 4, 0x80000000, 0xFFFFFFFF):
        yield Odd(f"client flags {flags:#x}", CONNECT, _U32.pack(flags))
    yield Odd("nothing", CONNECT, b"", last=True)
    yield Odd("three of the four bytes of the flags", CONNECT, FLAGS[:3], last=True)
    yield Odd("an HTTP request", CONNECT, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", last=True)
    yield Odd("a TLS hello", CONNECT, b"\x16\x03\x01\x02\x00" + bytes(512), last=True)
    yield Odd("1 MiB of zeroes", CONNECT, bytes(1 << 20), last=True)
    yield Odd("flags alone, then the end", CONNECT, FLAGS, last=True)


def options() -> Iterator[Odd]:
    for number in (0, PEEK, 12, 255, 1 << 31, (1 << 32) - 1):
        yield Odd(f"unknown option {number}", HAGGLE, option(number))
    for length in (1, 4096, 65536, 65537, 100_000, 1 << 20):
        yield Odd(f"unknown option with {length} bytes", HAGGLE, option(99, bytes(length)))
    yield Odd("an option that says 2 GiB", HAGGLE, option(99, length=LONG), last=True)
    yield Odd("an option that says 4 GiB - 1", HAGGLE, option(99, length=(1 << 32) - 1), last=True)
    yield Odd("200 unknown options", HAGGLE, option(99) * 200)
    yield Odd("a wrong option magic", HAGGLE, b"IHAVEOPX" + option(LIST)[8:])
    yield Odd("half a header of an option", HAGGLE, option(LIST)[:9], last=True)
    yield Odd("half the data of an option", HAGGLE, option(99, bytes(5), length=10), last=True)
    yield Odd("LIST", HAGGLE, option(LIST))
    yield Odd("LIST three times", HAGGLE, option(LIST) * 3)
    yield Odd("LIST with data", HAGGLE, option(LIST, b"x"))
    yield Odd("LIST with 70 KiB of data", HAGGLE, option(LIST, bytes(70 << 10)))
    yield Odd("ABORT", HAGGLE, option(ABORT))
    yield Odd("ABORT with data", HAGGLE, option(ABORT, b"bye"))
    yield Odd("STARTTLS", HAGGLE, option(STARTTLS))
    yield Odd("STARTTLS with data", HAGGLE, option(STARTTLS, b"x"))
    for name, number in (
        ("STRUCTURED_REPLY", STRUCTURED_REPLY),
        ("EXTENDED_HEADERS", EXTENDED_HEADERS),
    ):
        yield Odd(name, HAGGLE, option(number))
        yield Odd(f"{name} with data", HAGGLE, option(number, b"x"))
        yield Odd(f"{name} twice", HAGGLE, option(number) * 2)
    yield Odd(
        "STRUCTURED_REPLY after EXTENDED_HEADERS",
        HAGGLE,
        option(EXTENDED_HEADERS) + option(STRUCTURED_REPLY),
    )


def infos() -> Iterator[Odd]:
    """INFO and GO differ only after success, so the malformed ones are tried with both."""
    malformed = {
        "without data": b"",
        "with 3 bytes": b"\0\0\0",
        "without a count": _U32.pack(len(NAME)) + NAME,
        "with a name longer than the data": named(NAME, length=len(NAME) + 50),
        "with a name of 4 GiB": named(NAME, length=(1 << 32) - 1),
        "with fewer requests than counted": named(NAME, 0, count=3),
        "with 65,535 requests counted and none there": named(NAME, count=0xFFFF),
        "with a byte too much": named(NAME) + b"x",
        "with a NUL in the name": named(b"da\0ta"),
        "with a name that is not UTF-8": named(b"\xff\xfe"),
        "with a name of 4,096 bytes": named(b"n" * 4096),
        "with a name of 4,097 bytes": named(b"n" * 4097),
        "of an unknown export": named(b"nosuch"),
        "of an export with a line end": named(b"data\n"),
        "of the export ../data": named(b"../data"),
    }
    for what, data in malformed.items():
        for verb, number in (("INFO", INFO), ("GO", GO)):
            yield Odd(f"{verb} {what}", HAGGLE, option(number, data))
    well_formed = {
        "INFO": named(NAME),
        "INFO of the empty name": named(b""),
        "INFO of every kind": named(NAME, 0, 1, 2, 3),
        "INFO of unknown kinds": named(NAME, 99, 0xFFFF),
        "INFO of one kind 100 times": named(NAME, *[3] * 100),
        "INFO of 20,000 kinds": named(NAME, *[3] * 20_000),
    }
    for what, data in well_formed.items():
        yield Odd(what, HAGGLE, option(INFO, data))


def export_names() -> Iterator[Odd]:
    for what, name in {
        "an unknown export": b"nosuch",
        "a name with NUL": b"da\0ta",
        "a name that is not UTF-8": b"\xff\xfe",
        "a name of 5,000 bytes": b"n" * 5000,
    }.items():
        yield Odd(f"EXPORT_NAME of {what}", HAGGLE, option(EXPORT_NAME, name), last=True)
    yield Odd("EXPORT_NAME", HAGGLE, option(EXPORT_NAME, NAME), last=True)


def meta_contexts() -> Iterator[Odd]:
    allocation = b"base:allocation"
    for verb, number in (("LIST_META_CONTEXT", LIST_META), ("SET_META_CONTEXT", SET_META)):
        good = contexts(NAME, allocation)
        yield Odd(f"{verb} without structured replies", HAGGLE, option(number, good))
        for what, data in {
            "of base:allocation": good,
            "of base:allocation twice": contexts(NAME, allocation, allocation),
            "without queries": contexts(NAME),
            "of base:": contexts(NAME, b"base:"),
            "of base": contexts(NAME, b"base"),
            "of base:nosuch": contexts(NAME, b"base:nosuch"),
            "of another namespace": contexts(NAME, b"x-nosuch:a"),
            "of qemu:": contexts(NAME, b"qemu:"),
            "of qemu:dirty-bitmap:": contexts(NAME, b"qemu:dirty-bitmap:"),
            "of qemu:dirty-bitmap:nosuch": contexts(NAME, b"qemu:dirty-bitmap:nosuch"),
            "of an empty query": contexts(NAME, b""),
            "of a query of 5,000 bytes": contexts(NAME, b"base:" + b"a" * 4995),
            "of a query that is not UTF-8": contexts(NAME, b"base:\xff"),
            "of 1,000 queries": contexts(NAME, *[b"x:y"] * 1000),
            "with fewer queries than counted": contexts(NAME, allocation, count=3),
            "with 2^32 - 1 queries counted": contexts(NAME, allocation, count=(1 << 32) - 1),
            "with a byte too much": good + b"x",
            "without data": b"",
            "of an unknown export": contexts(b"nosuch", allocation),
            "of a name of 4,097 bytes": contexts(b"n" * 4097, allocation),
        }.items():
            yield Odd(f"{verb} {what}", HAGGLE_STRUCTURED, option(number, data))


def all_of_haggling() -> list[Odd]:
    return [
        *instead_of_flags(),
        *options(),
        *infos(),
        *export_names(),
        *meta_contexts(),
    ]

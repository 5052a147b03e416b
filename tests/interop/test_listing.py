"""Clients that list two thousand volumes and ask about each: within the time limits of a handshake,
over TCP too, where a delayed acknowledgement for each would add up to minutes.

libnbd 1.14 leaves its question about the contexts of a volume in its own kernel's buffer
(MSG_MORE), which sends it 0.2 s later, to any server. So over TCP it lists a part of them.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.interop.conftest import Client, Served

NAMES = [f"volume {number:04d} ä" for number in range(2000)]


@pytest.fixture
def many(serve_memory: Callable[..., Iterator[Served]]) -> Iterator[Served]:
    yield from serve_memory(dict.fromkeys(NAMES, 4096))


def test_qemu_nbd(many: Served, transport: str, client: Client) -> None:
    where = (
        ["-k", many.socket] if transport == "unix" else ["-b", "127.0.0.1", "-p", str(many.port)]
    )
    lines = client("qemu-nbd", "--list", *where).splitlines()
    assert lines[0] == f"exports available: {len(NAMES)}"
    assert [line for line in lines if "export:" in line] == [f" export: {n!r}" for n in NAMES]
    descriptions = [line for line in lines if "description:" in line]
    assert descriptions == [f"  description: duplexd volume {name}" for name in NAMES]


def test_nbdinfo(
    serve_memory: Callable[..., Iterator[Served]], transport: str, client: Client
) -> None:
    names = NAMES if transport == "unix" else NAMES[:20]
    listed = ""
    for served in serve_memory(dict.fromkeys(names, 4096)):
        listed = client("nbdinfo", "--json", "--list", served.uri("", transport))
    exports = json.loads(listed)["exports"]
    assert [export["export-name"] for export in exports] == names
    assert [export["description"] for export in exports] == [
        f"duplexd volume {name}" for name in names
    ]


def test_nbd_client(many: Served, transport: str, client: Client) -> None:
    where = ["-u", many.socket] if transport == "unix" else ["127.0.0.1", str(many.port)]
    output = client("nbd-client", "-l", *where)
    assert output.splitlines()[-len(NAMES) :] == [f"{n}: duplexd volume {n}" for n in NAMES]

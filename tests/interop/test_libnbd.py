"""nbdinfo, nbdcopy, nbdsh."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.interop.conftest import VOLUMES, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.interop.conftest import Client, NbdServer


def test_nbdinfo_shows_what_is_offered(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    (export,) = json.loads(client("nbdinfo", "--json", nbd_server.uri("data", transport)))[
        "exports"
    ]
    expected = {
        "export-name": "data",
        "export-size": VOLUMES["data"],
        "is_rotational": False,
        "is_read_only": False,
        "can_cache": True,
        "can_df": True,
        "can_fast_zero": True,
        "can_flush": True,
        "can_fua": True,
        "can_multi_conn": True,
        "can_trim": True,
        "can_zero": True,
        "block_size_minimum": 1,
        "block_size_preferred": 4096,
        "block_size_maximum": 32 << 20,
    }
    assert {name: export[name] for name in expected} == expected
    assert export["description"].partition(", lineage ")[0] == "duplexd volume data"
    assert export["contexts"] == ["base:allocation"]


def test_nbdinfo_lists_every_volume(nbd_server: NbdServer, transport: str, client: Client) -> None:
    exports = json.loads(client("nbdinfo", "--json", "--list", nbd_server.uri("", transport)))[
        "exports"
    ]
    assert {export["export-name"]: export["export-size"] for export in exports} == VOLUMES


def test_nbdinfo_reports_multi_conn(nbd_server: NbdServer, transport: str, client: Client) -> None:
    client("nbdinfo", "--can", "multi-conn", nbd_server.uri("data", transport))
    client("nbdinfo", "--can", "df", nbd_server.uri("data", transport))
    client("nbdinfo", "--is", "read-only", nbd_server.uri("data", transport), status=2)


def test_nbdinfo_map_covers_the_volume(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    extents = json.loads(client("nbdinfo", "--map", "--json", nbd_server.uri("data", transport)))
    assert sum(extent["length"] for extent in extents) == VOLUMES["data"]


def test_a_check_within_a_script_of_nbdsh_is_seen(client: Client) -> None:
    """The negative control of the scripts below."""
    assert "AssertionError" in client("nbdsh", "-c", "assert h.aio_is_ready()", status=1)


SPARSE = """
h.add_meta_context("base:allocation")
h.connect_uri("{uri}")
assert h.get_structured_replies_negotiated()
h.pwrite(b"d" * 65536, 1 << 20)
h.pwrite(b"e" * 65536, 4 << 20)
h.trim(65536, 4 << 20)

extents = []
h.block_status(8 << 20, 0, lambda name, offset, found, error: extents.extend(found))
hole = nbd.STATE_HOLE | nbd.STATE_ZERO
assert extents == [1 << 20, hole, 65536, 0, (7 << 20) - 65536, hole], extents
one = []
h.block_status(8 << 20, 0, lambda *found: one.extend(found[2]), nbd.CMD_FLAG_REQ_ONE)
assert one == [1 << 20, hole], one

def read(flags=0):
    chunks = []
    def chunk(buf, offset, kind, error):
        chunks.append((offset, len(buf), kind))
    data = h.pread_structured(4 << 20, 0, chunk, flags)
    assert data == bytes(1 << 20) + b"d" * 65536 + bytes((3 << 20) - 65536)
    return chunks

assert read() == [
    (0, 1 << 20, nbd.READ_HOLE),
    (1 << 20, 65536, nbd.READ_DATA),
    ((1 << 20) + 65536, (3 << 20) - 65536, nbd.READ_HOLE),
], read()
assert read(nbd.CMD_FLAG_DF) == [(0, 4 << 20, nbd.READ_DATA)]
"""


def test_a_sparse_volume_shows_its_holes(
    serve_daemon: Callable[[], Iterator[NbdServer]], transport: str, client: Client
) -> None:
    for server in serve_daemon():
        client("nbdsh", "-c", SPARSE.format(uri=server.uri("data", transport)))
        output = client("nbdinfo", "--map", server.uri("data", transport))
        assert [line.split()[1:] for line in output.splitlines()] == [
            ["1048576", "3", "hole,zero"],
            ["65536", "0", "data"],
            [str(VOLUMES["data"] - (1 << 20) - 65536), "3", "hole,zero"],
        ]


FRAGMENTED = """
h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h.connect_uri("{uri}")
for page in range(0, 2000, 2):
    h.pwrite(b"d" * 4096, page << 12)
answers, at = [], 0
while at < 2000 << 12:
    found = []
    h.block_status((2000 << 12) - at, at, lambda _name, _offset, got, _error: found.extend(got))
    at += sum(found[::2])
    answers.append(found)
assert 4 <= len(answers) <= 5 and max(map(len, answers)) <= 2 * 577, [*map(len, answers)]
assert sum(answers, []) == [4096, 0, 4096, nbd.STATE_HOLE | nbd.STATE_ZERO] * 1000
"""


def test_of_a_fragmented_volume_each_answer_has_some_extents(
    serve_daemon: Callable[[], Iterator[NbdServer]], transport: str, client: Client
) -> None:
    for server in serve_daemon():
        client("nbdsh", "-c", FRAGMENTED.format(uri=server.uri("data", transport)))


LAST_WORDS = """
import nbd
h.connect_uri("{uri}")
bufs = [nbd.Buffer.from_bytearray(bytearray([i + 1]) * (1 << 20)) for i in range(60)]
for i, buf in enumerate(bufs):
    h.aio_pwrite(buf, i << 20)
h.aio_disconnect()
try:
    while not (h.aio_is_closed() or h.aio_is_dead()):
        h.poll(-1)
except nbd.Error:
    pass  # libnbd forgets what it had sent
"""
THEN = """
h.connect_uri("{uri}")
assert h.get_size() == {size}
missing = [i for i in range(60) if h.pread(1 << 20, i << 20) != bytes([i + 1]) * (1 << 20)]
assert not missing, missing
"""


def test_writes_before_a_disconnect_are_done(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    uri = nbd_server.uri("data", transport)
    client("nbdsh", "-c", LAST_WORDS.format(uri=uri))
    client("nbdsh", "-c", THEN.format(uri=uri, size=VOLUMES["data"]))


def test_unknown_volume_is_an_error_with_its_name(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    assert "No such file or directory for export: nope" in client(
        "nbdinfo", nbd_server.uri("nope", transport), status=1
    )


def test_nbdcopy_both_ways(
    nbd_server: NbdServer, transport: str, client: Client, image: Path, tmp_path: Path
) -> None:
    uri = nbd_server.uri("data", transport)
    client("nbdcopy", "--flush", image, uri)
    client("nbdcopy", "--connections=4", "--requests=64", uri, tmp_path / "out.raw")
    assert digest(tmp_path / "out.raw") == digest(image)


LEGACY = """
h.set_handshake_flags({flags})
h.connect_uri("{uri}")
assert h.get_size() == {size}, h.get_size()
h.pwrite(b"x" * 4096, 8192, nbd.CMD_FLAG_FUA)
assert h.pread(4096, 8192) == b"x" * 4096
h.shutdown()
"""


@pytest.mark.parametrize(
    "flags", ["0", "nbd.HANDSHAKE_FLAG_NO_ZEROES", "nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE"]
)
def test_export_name_and_old_handshakes_work(
    nbd_server: NbdServer, transport: str, client: Client, flags: str
) -> None:
    code = LEGACY.format(flags=flags, uri=nbd_server.uri("data", transport), size=VOLUMES["data"])
    client("nbdsh", "-c", code)


HAGGLING = """
h.set_opt_mode(True)
h.connect_uri("{uri}")
names = []
h.opt_list(lambda name, description: names.append(name))
assert sorted(names) == ["data", "wal"], names
h.set_export_name("nope")
try:
    h.opt_info()
    raise SystemExit("nope was found")
except nbd.Error:
    pass
h.set_export_name("wal")
h.opt_info()
assert h.get_size() == {size}
h.opt_go()
assert h.pread(4096, 0) == bytes(4096)
"""


def test_many_options_before_go(nbd_server: NbdServer, transport: str, client: Client) -> None:
    client(
        "nbdsh", "-c", HAGGLING.format(uri=nbd_server.uri("data", transport), size=VOLUMES["wal"])
    )


STRICT_OFF = """
import errno
h.set_strict_mode(0)
h.connect_uri("{uri}")
size = h.get_size()

def refused(number, action, *arguments):
    try:
        action(*arguments)
        raise SystemExit("not refused: %r" % (arguments,))
    except nbd.Error as error:
        assert error.errnum == number, (error.errnum, number, arguments)

refused(errno.ENOSPC, h.pwrite, b"x" * 4096, size)
refused(errno.ENOSPC, h.pwrite, b"x" * 4096, size - 1)
refused(errno.ENOSPC, h.zero, 4096, size)
refused(errno.EINVAL, h.pread, 4096, size)
refused(errno.EINVAL, h.trim, 4096, size)
refused(errno.EINVAL, h.cache, 4096, size)
refused(errno.ENOTSUP, h.zero, 4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.cache(32 << 20, 0)
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)
refused(errno.EINVAL, h.pwrite, b"x", 0, 1 << 9)
h.pread(1, size - 1)
h.flush(nbd.CMD_FLAG_FUA)
h.pwrite(b"abc", 5)
assert h.pread(5, 4) == b"\\0abc\\0"
h.zero(4096, 0, nbd.CMD_FLAG_NO_HOLE)
h.trim(4096, 0)
h.pwrite(b"z" * (32 << 20), 1 << 20)
assert h.pread(32 << 20, 1 << 20) == b"z" * (32 << 20)
"""


def test_wrong_requests_get_the_errno_of_the_specification(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    client("nbdsh", "-c", STRICT_OFF.format(uri=nbd_server.uri("data", transport)))

"""qemu-img, qemu-io, qemu-nbd."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.interop.conftest import VOLUMES, digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.interop.conftest import Client, NbdServer


def test_qemu_img_convert_both_ways(
    nbd_server: NbdServer, transport: str, client: Client, image: Path, tmp_path: Path
) -> None:
    uri = nbd_server.uri("data", transport)
    client("qemu-img", "convert", "-f", "raw", "-O", "qcow2", image, tmp_path / "in.qcow2")
    client("qemu-img", "convert", "-n", "-O", "raw", "-W", "-m", "8", tmp_path / "in.qcow2", uri)
    client("qemu-img", "compare", "-f", "raw", "-F", "raw", image, uri)
    client("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, tmp_path / "out.raw")
    assert digest(tmp_path / "out.raw") == digest(image)


def test_qemu_img_reports_size_and_map(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    uri = nbd_server.uri("data", transport)
    assert (
        json.loads(client("qemu-img", "info", "--output=json", "-f", "raw", uri))["virtual-size"]
        == VOLUMES["data"]
    )
    extents = json.loads(client("qemu-img", "map", "--output=json", "-f", "raw", uri))
    assert sum(extent["length"] for extent in extents) == VOLUMES["data"]


def test_qemu_img_leaves_holes_out_of_a_copy(
    serve_daemon: Callable[[], Iterator[NbdServer]],
    transport: str,
    client: Client,
    tmp_path: Path,
) -> None:
    copy = tmp_path / "out.raw"
    for server in serve_daemon():
        uri = server.uri("data", transport)
        client("qemu-io", "-f", "raw", "-c", "write -P 7 1M 64k", "-c", "write -z -u 3M 1M", uri)
        extents = json.loads(client("qemu-img", "map", "--output=json", "-f", "raw", uri))
        assert [(extent["start"], extent["length"]) for extent in extents if extent["data"]] == [
            (1 << 20, 65536)
        ]
        client("qemu-img", "convert", "-f", "raw", "-O", "raw", uri, copy)
        client("qemu-img", "compare", "-f", "raw", "-F", "raw", copy, uri)
    assert copy.stat().st_blocks * 512 < 1 << 20


def test_qemu_img_bench_with_flushes(nbd_server: NbdServer, transport: str, client: Client) -> None:
    uri = nbd_server.uri("data", transport)
    assert "Run completed" in client(
        "qemu-img",
        "bench",
        "-f",
        "raw",
        "-t",
        "none",
        "-w",
        "-c",
        "5000",
        "-d",
        "32",
        "-s",
        "4096",
        uri,
    )
    assert "Run completed" in client(
        "qemu-img",
        "bench",
        "-f",
        "raw",
        "-t",
        "none",
        "-w",
        "-c",
        "100",
        "-d",
        "1",
        "--flush-interval=1",
        uri,
    )
    assert "Run completed" in client(
        "qemu-img", "bench", "-f", "raw", "-t", "none", "-c", "500", "-d", "8", "-s", "1048576", uri
    )


def test_qemu_io_writes_zeroes_discards_and_flushes(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    commands = [
        "write -P 0x22 1M 64k",
        "write -f -P 0x33 2M 4k",
        "write -P 0x44 3M 2M",
        "write -z -u 3M 1M",
        "write -z 4M 512k",
        "discard 8M 1M",
        "flush",
        "aio_write -P 0x55 5M 1M",
        "aio_write -P 0x66 6M 1M",
        "aio_flush",
        "read -P 0x22 1M 64k",
        "read -P 0x33 2M 4k",
        "read -P 0 3M 1536k",
        "read -P 0x44 4608k 512k",
        "read -P 0x55 5M 1M",
        "read -P 0x66 6M 1M",
        "read -P 0 0 1M",
        "map",
    ]
    arguments = [word for command in commands for word in ("-c", command)]
    output = client(
        "qemu-io", "-f", "raw", "-t", "none", *arguments, nbd_server.uri("data", transport)
    )
    assert "verification failed" not in output
    assert "error" not in output.lower()
    assert output.count("read ") == 7


def test_qemu_io_finds_a_wrong_pattern(
    nbd_server: NbdServer, transport: str, client: Client
) -> None:
    """The negative control of the test above."""
    output = client(
        "qemu-io",
        "-f",
        "raw",
        "-c",
        "write -P 1 0 4k",
        "-c",
        "read -P 2 0 4k",
        nbd_server.uri("data", transport),
        status=1,
    )
    assert "verification failed" in output


def test_qemu_nbd_lists_every_volume(nbd_server: NbdServer, transport: str, client: Client) -> None:
    where = (
        ["-k", nbd_server.socket]
        if transport == "unix"
        else ["-b", "127.0.0.1", "-p", str(nbd_server.port)]
    )
    output = client("qemu-nbd", "--list", *where)
    assert "exports available: 2" in output
    assert "export: 'data'" in output
    assert "export: 'wal'" in output

"""The asyncio client against a real server that is not ours."""

import asyncio
import errno
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.constants import STATE_HOLE, STATE_ZERO
from duplexd.nbd.replies import STRUCTURED
from duplexd.nbd_aio.connecting import connect
from tests.support.sockets import wait_listening


@asynccontextmanager
async def nbdkit(socket: Path, *arguments: str) -> AsyncIterator[str]:
    """A server, and its address."""
    process = await asyncio.create_subprocess_exec(
        "nbdkit",
        "--foreground",
        "--exit-with-parent",
        "--unix",
        str(socket),
        *arguments,
    )
    await asyncio.to_thread(wait_listening, str(socket))
    try:
        yield f"nbd+unix:///?socket={socket}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    """A server that refuses writes while the file `fail` exists."""
    options = [
        "error-pread-rate=0",
        "error-pwrite=EIO",
        "error-pwrite-rate=100%",
        f"error-file={tmp_path / 'fail'}",
    ]
    async with nbdkit(tmp_path / "nbd.sock", "--filter=error", "memory", "1M", *options) as address:
        yield address


async def test_many_requests_in_flight_come_back_to_their_callers(address: str) -> None:
    async with connect(address) as nbd:
        assert nbd.size == 1 << 20
        await asyncio.gather(
            *(nbd.write(n * 4096, bytes([n]) * 4096, fua=n % 2 == 0) for n in range(64))
        )
        await nbd.flush()
        blocks = await asyncio.gather(*(nbd.read(n * 4096, 4096) for n in range(64)))
        assert [set(block) for block in blocks] == [{n} for n in range(64)]


async def test_zeroes_and_trim_are_served(address: str) -> None:
    async with connect(address) as nbd:
        await nbd.write(0, b"x" * 8192)
        await nbd.write_zeroes(0, 4096, fua=True, no_hole=True)
        await nbd.trim(4096, 4096)
        assert await nbd.read(0, 4096) == bytes(4096)


async def test_refused_request_raises_its_errno_and_the_connection_goes_on(
    address: str, tmp_path: Path
) -> None:
    async with connect(address) as nbd:
        (tmp_path / "fail").touch()
        with pytest.raises(OSError, match="error") as caught:
            await nbd.write(0, b"x" * 512)
        assert caught.value.errno == errno.EIO
        (tmp_path / "fail").unlink()
        await nbd.write(0, b"x" * 512)
        assert await nbd.read(0, 512) == b"x" * 512


async def test_without_fua_a_durable_write_is_a_write_and_a_flush(tmp_path: Path) -> None:
    log = tmp_path / "log"
    arguments = ["--filter=fua", "--filter=log", "memory", "1M", f"logfile={log}"]
    async with (
        nbdkit(tmp_path / "nbd.sock", *arguments) as address,
        await connect(address) as nbd,
    ):
        await nbd.write(0, b"x" * 512, fua=True)
        await nbd.write(512, b"x" * 512)
    assert re.findall(r" (Write|Flush) id=", log.read_text()) == ["Write", "Flush", "Write"]


async def test_without_flush_there_is_nothing_to_flush(tmp_path: Path) -> None:
    arguments = ["eval", "get_size=echo 1M", "pread=exit 1"]
    async with (
        nbdkit(tmp_path / "nbd.sock", *arguments) as address,
        await connect(address) as nbd,
    ):
        await nbd.flush()


async def test_a_read_only_export_and_its_block_sizes_are_respected(tmp_path: Path) -> None:
    arguments = ["-r", "--filter=blocksize-policy", "memory", "1M", "blocksize-minimum=512"]
    async with (
        nbdkit(tmp_path / "nbd.sock", *arguments) as address,
        await connect(address) as nbd,
    ):
        with pytest.raises(OSError, match="read-only") as raised:
            await nbd.write(0, bytes(512))
        assert raised.value.errno == errno.EPERM
        with pytest.raises(ValueError, match="multiples of 512"):
            await nbd.read(0, 100)
        assert await nbd.read(512, 512) == bytes(512)


async def test_holes_of_qemu_are_known_and_read_as_zeroes(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(4 << 20)
        file.seek(1 << 20)
        file.write(b"x" * (64 << 10))
    command = ["qemu-nbd", "--format=raw", "--shared=2", "--persistent", "--socket"]
    process = await asyncio.create_subprocess_exec(*command, str(tmp_path / "nbd.sock"), str(image))
    try:
        await asyncio.to_thread(wait_listening, str(tmp_path / "nbd.sock"))
        async with connect(f"nbd+unix:///?socket={tmp_path}/nbd.sock") as disk:
            assert disk.contexts == ["base:allocation"]
            hole = STATE_HOLE | STATE_ZERO
            extents = await disk.extents(0, disk.size)
            assert extents == [(1 << 20, hole), (64 << 10, 0), ((3 << 20) - (64 << 10), hole)]
            assert await disk.read(0, disk.size) == image.read_bytes()  # in chunks
            assert await disk.extents(4096, 4096) == [(4096, hole)]
            async with connect(
                f"nbd+unix:///?socket={tmp_path}/nbd.sock", structured=False
            ) as plain:
                assert plain.contexts == []
                assert await plain.extents(0, plain.size) == [(plain.size, 0)]
                assert await plain.read(0, plain.size) == image.read_bytes()
    finally:
        process.terminate()
        await process.wait()


async def test_an_extent_that_goes_further_than_the_range_is_cut(tmp_path: Path) -> None:
    export = m.option_reply(c.OPT_GO, c.REP_INFO, m.info_export(1 << 20, c.FLAG_HAS_FLAGS))
    answers = [
        m.option_reply(c.OPT_STRUCTURED_REPLY, c.REP_ACK),
        m.context_reply(c.OPT_SET_META_CONTEXT, 1, c.CONTEXT_ALLOCATION)
        + m.option_reply(c.OPT_SET_META_CONTEXT, c.REP_ACK),
        export + m.option_reply(c.OPT_GO, c.REP_ACK),
        STRUCTURED.status(1, 0, 1, [(512, 0)], True),
        STRUCTURED.status(2, 0, 1, [(512, 3), (1 << 19, 0)], True),
    ]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(m.greeting(3))
        for answer in answers:
            await reader.read(1 << 16)
            writer.write(answer)
        writer.close()

    async with (
        await asyncio.start_unix_server(talk, tmp_path / "nbd.sock"),
        connect(f"nbd+unix:///?socket={tmp_path / 'nbd.sock'}") as disk,
    ):
        assert await disk.extents(0, 2048) == [(512, 0), (512, 3), (1024, 0)]


async def test_server_that_is_not_nbd_is_refused(tmp_path: Path) -> None:
    async def talk(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 ready for mail or something else that is long enough\r\n")
        await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(talk, tmp_path / "mail.sock")
    with pytest.raises(ConnectionError, match="not a newstyle NBD server"):
        await connect(f"nbd+unix:///data?socket={tmp_path / 'mail.sock'}")
    server.close()
    await server.wait_closed()


async def test_requests_fail_when_the_connection_is_lost(address: str) -> None:
    nbd = await connect(address)
    nbd.abort()
    await asyncio.sleep(0)
    with pytest.raises(ConnectionError, match="lost"):
        await nbd.read(0, 4096)
    await nbd.close()


async def test_waiting_requests_fail_when_the_server_goes(address: str) -> None:
    nbd = await connect(address)
    reads = [asyncio.ensure_future(nbd.read(0, 4096)) for _ in range(3)]
    await asyncio.sleep(0)
    nbd.abort()
    results = await asyncio.gather(*reads, return_exceptions=True)
    assert all(isinstance(result, ConnectionError) for result in results)

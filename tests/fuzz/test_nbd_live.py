"""Random bytes on a live server: it neither stops, nor hangs on to memory or descriptors."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment
from tests.support.sockets import Talk, wait_listening

CONVERSATIONS = 600
GROWTH_BYTES_MAX = 48 << 20
GO = m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_GO, m.go_data("data", []))


def resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def noise(chance: random.Random) -> bytes:
    """Bytes alone, behind a good handshake, behind a plausible request, or a plausible option."""
    data = chance.randbytes(chance.randrange(1, 20_000))
    request = m.request(
        chance.randrange(4),
        chance.randrange(9),
        1,
        chance.randrange(1 << 26),
        chance.randrange(1 << 27),
    )
    option = m.CLIENT_FLAGS.pack(3) + m.OPTION.pack(
        c.OPTION_MAGIC, chance.randrange(14), chance.randrange(200)
    )
    return chance.choice([data, GO + data, GO + request + data, option + data])


def converse(path: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(PATIENCE_SECONDS)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 20):
                pass
        except ConnectionError:
            pass  # the server may close before it has read everything


def test_random_bytes_do_not_disturb_other_clients(tmp_path: Path) -> None:
    path = f"{tmp_path}/nbd.sock"
    command = [
        sys.executable,
        "-m",
        "tests.unit.nbd_server.memory_backend",
        f"unix:{path}",
        f"data={64 << 20}",
    ]
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT, env=environment()) as server,
    ):
        try:
            wait_listening(path)
            chance = random.Random(20261123)
            for _ in range(CONVERSATIONS // 3):
                converse(path, noise(chance))
            resident, open_files = resident_bytes(server.pid), descriptors(server.pid)
            for _ in range(CONVERSATIONS):
                converse(path, noise(chance))
            with closing(Talk(path, "data")) as good:
                assert good.read(0, 4096) is not None
            assert server.poll() is None
            # it may hear late that somebody has gone
            deadline = time.monotonic() + PATIENCE_SECONDS
            while (
                resident_bytes(server.pid) - resident >= GROWTH_BYTES_MAX
                or descriptors(server.pid) > open_files
            ):
                assert time.monotonic() < deadline, (
                    resident,
                    resident_bytes(server.pid),
                    open_files,
                    descriptors(server.pid),
                )
                time.sleep(0.02)
        finally:
            server.terminate()
        assert server.wait(PATIENCE_SECONDS) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()

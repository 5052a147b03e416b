"""Random bytes on a live server: it neither stops, nor hangs on to memory or descriptors."""

from __future__ import annotations

import random
import socket
import subprocess
import sys
from pathlib import Path

from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.client import NbdClient
from tests.support.daemon import ROOT, environment
from tests.support.sockets import wait_listening

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
    request = m.request(chance.randrange(4), chance.randrange(9), 1, chance.randrange(1 << 26), chance.randrange(1 << 27))
    option = m.CLIENT_FLAGS.pack(3) + m.OPTION.pack(c.OPTION_MAGIC, chance.randrange(14), chance.randrange(200))
    return chance.choice([data, GO + data, GO + request + data, option + data])


def converse(path: str, data: bytes) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(path)
        try:
            sock.sendall(data)
            sock.shutdown(socket.SHUT_WR)
            while sock.recv(1 << 20):
                pass
        except ConnectionError:
            pass  # the server may close before it has read everything


def serves(path: str) -> bool:
    """A good client gets its reply."""
    client = NbdClient("data")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(10)
        sock.connect(path)
        while not client.ready:
            client.receive(sock.recv(1 << 16))
            sock.sendall(client.data_to_send())
        client.read(0, 4096)
        sock.sendall(client.data_to_send())
        while not (replies := client.receive(sock.recv(1 << 16))):
            pass
        return replies[0].error == 0


def test_noise_does_no_harm(tmp_path: Path) -> None:
    path = f"{tmp_path}/nbd.sock"
    command = [sys.executable, "-m", "tests.unit.server.memory_backend", f"unix:{path}", f"data={64 << 20}"]
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
            assert serves(path)
            assert server.poll() is None
            assert resident_bytes(server.pid) - resident < GROWTH_BYTES_MAX
            assert descriptors(server.pid) <= open_files + 1
        finally:
            server.terminate()
        assert server.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()

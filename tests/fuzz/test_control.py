"""Rubbish on the control socket: it keeps answering, holds nothing, and does not grow."""

from __future__ import annotations

import contextlib
import gc
import json
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.support.control_plane import ControlPlane
from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SEEDS = range(6)
ROUNDS = 60
GROWTH_BYTES_MAX = 8 << 20

BODY = json.dumps({"targets": ["db"], "hold_s": 10}).encode()
WHOLE = [
    b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /v1/quiesce HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY,
    (
        b"POST /v1/suspend HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        b'5\r\n{"tar\r\n0\r\n\r\n'
    ),
    b"DELETE /v1/leases/%00%ff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /v1/status?target=%s HTTP/1.1\r\nHost: x\r\n"
    b"Upgrade: websocket\r\nConnection: upgrade\r\n\r\n" % (b"%41" * 500),
    b"POST /v1/verify HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
    (
        b"POST /v1/resync HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
        b"Content-Length: 99999999999\r\n\r\n{"
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
]


def garbage(chance: random.Random) -> bytes:
    """Random bytes, or requests that were damaged, cut short, or glued together."""
    kind = chance.randrange(4)
    if kind == 0:
        return chance.randbytes(chance.choice((1, 10, 1000, 100_000)))
    data = bytearray(b"".join(chance.choices(WHOLE, k=chance.randint(1, 4))))
    if kind == 1:
        for _ in range(chance.randint(1, 10)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    elif kind == 2:
        del data[chance.randrange(len(data)) :]
    return bytes(data)


def rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def eventually(holds: Callable[[], bool]) -> None:
    """It may hear late that somebody has gone."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    control = ControlPlane(tmp_path / "c.sock")
    yield control
    control.stop()


def throw(plane: ControlPlane, chance: random.Random, rounds: int) -> None:
    for _ in range(rounds):
        with plane.connect(0.2) as sock, contextlib.suppress(OSError):
            for _ in range(chance.randint(1, 3)):
                sock.sendall(garbage(chance))
            if chance.random() < 0.5:
                sock.settimeout(0.01)
                sock.recv(4096)


@pytest.mark.parametrize("seed", SEEDS)
def test_rubbish_never_stops_it_nor_holds_anything(
    plane: ControlPlane, seed: int, caplog: pytest.LogCaptureFixture
) -> None:
    with capture_logs() as logs:
        throw(plane, random.Random(seed), ROUNDS)
    eventually(
        lambda: (
            plane.ask("GET", "/v1/status")[1]["leases"] == []
            and not plane.server.actions.hub.listeners
        )
    )
    assert "deadline" not in {lease.ended.result() for lease in plane.controller.leases.values()}, (
        f"seed {seed}: nobody saw its owner go"
    )
    assert not [record for record in caplog.records if record.levelname in {"ERROR", "CRITICAL"}], (
        f"seed {seed}: asyncio has something to say"
    )
    assert not [line for line in logs if line["log_level"] in {"error", "critical"}], f"seed {seed}"


def test_rubbish_does_not_make_it_grow(plane: ControlPlane) -> None:
    throw(plane, random.Random(99), 150)
    gc.collect()
    before = rss_bytes()
    throw(plane, random.Random(99), 450)

    def no_larger() -> bool:
        gc.collect()
        return rss_bytes() - before < GROWTH_BYTES_MAX

    eventually(no_larger)
    assert plane.ask("GET", "/healthz")[0] == 200

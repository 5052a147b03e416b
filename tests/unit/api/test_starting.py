"""Before there is a controller: who may ask what, and what changes when there is one."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.api.models.health_model import Health
from duplexd.api.models.status_model import Status
from duplexd.api.server import ControlServer
from duplexd.api.starting import Starting
from duplexd.config.daemon_file import ControlConfig
from duplexd.limits import ApiLimits
from tests.support.control_plane import ControlPlane
from tests.support.fake_controller import FakeController

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Beginning(ControlPlane):
    """A control plane whose controller is served when the test says so."""

    starting: Starting

    async def _start(self) -> ControlServer:
        self.starting = Starting("alpha")
        server = ControlServer(self.starting, self.settings, self.limits)
        await server.start()
        return server

    def serve(self) -> None:
        self.call(lambda: self.server.serve(self.controller))


@pytest.fixture
def beginning(tmp_path: Path) -> Iterator[Beginning]:
    found = Beginning(tmp_path / "s")
    yield found
    found.stop()


def test_a_status_of_a_start_fits_the_model(beginning: Beginning) -> None:
    beginning.starting.at("recovering, 40 % (reading the journal)", 0.4)
    status = Status.model_validate(beginning.ask("GET", "/v1/status")[1])
    assert status.controller.starting is not None
    assert status.controller.starting.fraction == 0.4
    assert status.volumes == []
    health = Health.model_validate(beginning.ask("GET", "/healthz")[1])
    assert (health.status, health.controller) == ("starting", "alpha")
    assert health.starting == status.controller.starting


def test_the_fraction_never_goes_back(beginning: Beginning) -> None:
    beginning.starting.at("recovering", 0.4)
    beginning.starting.at("recovering", 0.3)
    beginning.starting.at("waiting for an address")
    found = beginning.ask("GET", "/v1/status")[1]["controller"]["starting"]
    assert found == {"text": "waiting for an address", "fraction": 0.4}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/readyz", (503, 7)),
        ("POST", "/v1/suspend", (503, 7)),
        ("GET", "/v1/status?target=data", (503, 7)),
        ("GET", "/v1/nothing", (404, 3)),
        ("PUT", "/v1/status", (405, 2)),
    ],
)
def test_what_is_not_there_yet_and_what_never_is(
    beginning: Beginning, method: str, path: str, expected: tuple[int, int]
) -> None:
    code, problem = beginning.ask(method, path, {} if method == "POST" else None)
    assert (code, problem["exit_code"]) == expected


def test_a_connection_that_was_there_before_is_answered_for_the_controller(
    beginning: Beginning,
) -> None:
    with beginning.connect() as sock, sock.makefile("rwb") as stream:

        def volumes() -> bytes:
            stream.write(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
            stream.flush()
            length = 0
            while (line := stream.readline().lower()) != b"\r\n":
                if line.startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return stream.read(length).partition(b'"volumes":')[2]

        assert volumes().startswith(b"[]")
        beginning.serve()
        assert volumes().startswith(b'[{"name":"data"')


def test_a_server_that_never_came_to_serve_stops(tmp_path: Path) -> None:
    async def once() -> None:
        settings = ControlConfig(socket=tmp_path / "s")
        server = ControlServer(Starting("a"), settings, ApiLimits())
        await server.start()
        await server.stop()
        await server.stop()  # harmless

    asyncio.run(once())
    assert not (tmp_path / "s").exists()


def test_a_stop_detaches_from_the_controller(tmp_path: Path) -> None:
    controller = FakeController()
    before = list(controller.listeners)
    plane = ControlPlane(tmp_path / "s", controller)
    assert controller.listeners != before
    plane.stop()
    assert controller.listeners == before

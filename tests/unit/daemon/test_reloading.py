"""A reload of the daemon: what clients may do until all of the new rules hold."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from duplexd.daemon.announce import Announcements
from duplexd.daemon.nbd_rules import Rules
from duplexd.daemon.reloading import Reloads
from duplexd.errors import ConfigurationError, WrongStateError
from duplexd.limits import NbdLimits
from duplexd.nbd.client import RefusedError
from duplexd.nbd_server.listeners import Listeners
from tests.support.prompt_workers import PromptWorkers
from tests.unit.daemon.files import config, config_text
from tests.unit.nbd_server.memory_backend import MemoryBackend, MemoryVolume
from tests.unit.nbd_server.peer import PATIENCE_SECONDS, Peer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from duplexd.api.server import ControlServer
    from duplexd.config.daemon_file import Config
    from duplexd.engine.controller import Controller

NEW_VOLUME = '\n[volumes.new]\nsize = 4096\nprimary = "q"\n'


async def reached(listeners: Listeners, name: str) -> bool:
    """Whether a client can begin to use the volume."""
    peer = Peer(listeners.addresses[0])
    try:
        await peer.open()
        await peer.go(name)
    except RefusedError:
        return False
    finally:
        peer.close()
    return True


class Engine:
    """The controller: it has the new volume, and takes its time for the rest."""

    def __init__(self, backend: MemoryBackend) -> None:
        self.listeners: Listeners
        self.reached: list[bool] = []
        self.error = ""
        self.config: Config | None = None
        self.events = self
        self.emitted: list[str] = []
        self._backend = backend

    def emit(self, event: str, **_fields: object) -> None:
        self.emitted.append(event)

    async def reload(self, _new: Config) -> list[str]:
        self._backend.volumes["new"] = MemoryVolume("new", 4096)
        self.reached = [await reached(self.listeners, name) for name in ("v", "new")]
        if self.error:
            raise WrongStateError(self.error)
        return []


class Control:
    async def listen_again(self) -> str:
        return ""

    def admit(self, _admission: object) -> None:
        pass


class Reloading:
    """A daemon with the volume `v`, that gets another one."""

    def __init__(self, directory: Path) -> None:
        backend = MemoryBackend({"v": 4096})
        self.engine = Engine(backend)
        self.announcements = Announcements()
        self.announcements.serve(lambda: {"controller": {}, "volumes": []})
        before = config(directory)
        (directory / "f.toml").write_text(config_text() + NEW_VOLUME)
        rules = Rules.of(before)
        self.listeners = Listeners(backend, rules.listeners, NbdLimits(), rules.policy)
        self.engine.listeners = self.listeners
        self._reloads = Reloads(
            before,
            cast("Controller", self.engine),
            self.listeners,
            cast("ControlServer", Control()),
            PromptWorkers(),
            rules,
            (),
            self.announcements,
        )
        self._file = directory / "f.toml"

    async def once(self) -> list[str]:
        return await self._reloads.reload()

    @property
    def one(self) -> Reloads:
        return self._reloads

    async def of(self, text: str) -> list[str]:
        self._file.write_text(text)
        return await self.once()


@pytest.fixture
async def reloading(tmp_path: Path) -> AsyncIterator[Reloading]:
    reloading = Reloading(tmp_path)
    await reloading.listeners.start()
    yield reloading
    await reloading.listeners.stop(PATIENCE_SECONDS)


async def test_a_new_volume_is_reached_once_all_of_the_new_rules_hold(
    reloading: Reloading,
) -> None:
    await reloading.once()
    assert reloading.engine.reached == [True, False]
    assert await reached(reloading.listeners, "new")


async def test_a_new_volume_stays_hidden_after_a_reload_that_failed_half_way(
    reloading: Reloading,
) -> None:
    reloading.engine.error = "the checkpoint failed"
    with pytest.raises(WrongStateError, match="checkpoint"):
        await reloading.once()
    assert await reached(reloading.listeners, "v")
    assert not await reached(reloading.listeners, "new")


async def test_a_refusal_stays_in_the_line_of_the_service_manager_until_a_reload_succeeds(
    reloading: Reloading,
) -> None:
    with pytest.raises(ConfigurationError, match="not TOML"):
        await reloading.of("[nbd")
    assert "the last reload was refused" in reloading.announcements.line()
    assert "not TOML" in reloading.announcements.line()
    assert reloading.engine.emitted == ["reload-refused"]
    await reloading.of(config_text())
    assert "refused" not in reloading.announcements.line()


async def test_what_neither_the_engine_nor_the_listeners_change_is_named_by_its_key(
    reloading: Reloading,
) -> None:
    text = config_text() + "\nread_only = true\n"
    assert await reloading.of(text) == ["volumes.v.read_only: was false, is true"]


async def test_nothing_is_reloaded_between_the_checks_of_a_restart_and_its_end(
    reloading: Reloading,
) -> None:
    """It could add a volume that the next program, which has read the file before, gives up."""

    async def refused() -> None:
        async with reloading.one.kept_out():
            with pytest.raises(WrongStateError, match="a restart is under way"):
                await reloading.once()
            raise WrongStateError("no successor")

    with pytest.raises(WrongStateError, match="no successor"):
        await refused()
    assert "a restart is under way" in reloading.announcements.line(), "a signal has no answer"
    assert reloading.engine.emitted == ["reload-refused"]
    await reloading.once()
    async with reloading.one.kept_out():
        pass
    with pytest.raises(WrongStateError, match="a restart is under way"):
        await reloading.once()

from __future__ import annotations

import asyncio
import dataclasses
import os
import resource
import threading
from typing import TYPE_CHECKING

import pytest

from duplexd.config.load import parse
from duplexd.daemon import preflight, startup
from duplexd.daemon.preflight import Problem
from duplexd.daemon.service import Service, Threads
from duplexd.errors import (
    ConfigurationError,
    DamageError,
    ForbiddenError,
    LimitError,
    WrongStateError,
)
from duplexd.limits import EngineLimits, Limits

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.config.daemon_file import Config


def config(directory: Path, **replace: str) -> Config:
    text = (
        '[controller]\nname = "a"\nstate_dir = "state"\n[nbd]\nlisten = '
        '["unix:n"]\n[control]\nsocket = "c"\n[volumes.v]\nsize = 4096\nprimary = "p"\n'
    )
    for old, new in replace.items():
        text = text.replace(f'"{old}"', f'"{new}"')
    return parse(text, directory / "f.toml")


def test_the_lock_is_held_once_and_names_its_owner(tmp_path: Path) -> None:
    first = startup.StateLock(config(tmp_path))
    with pytest.raises(
        WrongStateError,
        match=f"in use by another duplexd, process {os.getpid()}; stop that one first",
    ):
        startup.StateLock(config(tmp_path))
    first.serving()
    with pytest.raises(WrongStateError, match=f"process {os.getpid()}; stop"):
        startup.StateLock(config(tmp_path))
    first.close()
    startup.StateLock(config(tmp_path)).close()


def test_the_lock_says_whether_recovery_is_over_also_when_its_owner_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    lock = startup.StateLock(config(tmp_path))
    assert path.read_text() == f"{os.getpid()}\n"
    lock.serving()
    lock.close()
    assert path.read_text() == f"{os.getpid()}\nserving\n"
    startup.StateLock(config(tmp_path)).close()
    assert path.read_text() == f"{os.getpid()}\n", "the next one has to recover first"


def test_a_state_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigurationError, match=r"f\.toml: controller\.state_dir: .*File exists"):
        startup.StateLock(config(tmp_path))


def test_every_fixed_value_that_differs_is_named(tmp_path: Path) -> None:
    old, new = config(tmp_path), config(tmp_path, a="b", c="d", p="q")
    with pytest.raises(ConfigurationError) as caught:
        startup.refuse_fixed(old, new)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "controller.name",
        "control.socket",
    ]
    startup.refuse_fixed(old, config(tmp_path, p="q"))


def test_errors_from_below_get_file_and_key(tmp_path: Path) -> None:
    own = config(tmp_path)
    with pytest.raises(ConfigurationError) as caught, startup.in_file(own, "nbd.listen"):
        raise ConfigurationError(
            f"port taken\n{tmp_path}/p: somebody has it\n{own.source}: volumes.v: complete already"
        )
    assert str(caught.value).splitlines() == [
        f"{own.source}: nbd.listen: port taken",
        f"{own.source}: volumes.v.primary: {tmp_path}/p: somebody has it",
        f"{own.source}: volumes.v: complete already",
    ]


@pytest.mark.parametrize(
    ("problems", "expected"),
    [
        ([Problem("a: x", forbidden=True)], ForbiddenError),
        ([Problem("a: x", forbidden=True), Problem("b: y")], ConfigurationError),
        ([Problem("b: y")], ConfigurationError),
    ],
)
def test_only_permissions_are_a_matter_of_permission(
    problems: list[Problem],
    expected: type[Exception],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(preflight, "look", lambda *_: problems)
    with pytest.raises(expected) as caught:
        startup.refuse_problems(config(tmp_path))
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'f.toml'}: {problem.line}" for problem in problems
    ]


def test_as_many_open_files_as_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(256, before[1]), before[1]))
    try:
        startup.raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize("kind", ["journal", "disk"])
async def test_a_disk_thread_that_hangs_does_not_answer(kind: str) -> None:
    threads = Threads(asyncio.get_running_loop())
    go_on = threading.Event()
    try:
        assert await threads.answer(60.0)
        waiting = [asyncio.ensure_future(getattr(threads, kind).run(go_on.wait)) for _ in range(8)]
        await asyncio.sleep(0)  # now they are submitted
        assert not await threads.answer(0.05)
        go_on.set()
        await asyncio.gather(*waiting)
        assert await threads.answer(60.0)
    finally:
        go_on.set()
        threads.close()


async def test_a_stop_during_recovery_gives_recovery_up(tmp_path: Path) -> None:
    """Also where the disk hangs: a service manager waits for the end of it."""
    threads = Threads(asyncio.get_running_loop())
    service, go_on = Service(config(tmp_path), Limits()), threading.Event()
    try:
        hanging = [asyncio.ensure_future(threads.disk.run(go_on.wait)) for _ in range(16)]
        await asyncio.sleep(0)  # now they are submitted
        recovery = asyncio.ensure_future(service._recover(threads))
        await asyncio.sleep(0.05)
        assert not recovery.done()
        service._stop_on(15)
        assert await asyncio.wait_for(recovery, 10.0) is None
        go_on.set()
        await asyncio.gather(*hanging)
    finally:
        go_on.set()
        threads.close()


async def test_what_recovery_finds_ends_the_daemon(tmp_path: Path) -> None:
    journal = tmp_path / "state" / "journal"
    journal.mkdir(parents=True)
    (journal / "0000.seg").write_bytes(b"")  # and no checkpoint
    threads = Threads(asyncio.get_running_loop())
    try:
        with pytest.raises(DamageError, match="the checkpoint is missing"):
            await Service(config(tmp_path), Limits())._recover(threads)
    finally:
        threads.close()


async def test_the_engine_has_the_limits_of_the_daemon(tmp_path: Path) -> None:
    few = dataclasses.replace(EngineLimits(), leases_max=1)
    threads = Threads(asyncio.get_running_loop())
    try:
        controller = await Service(config(tmp_path), Limits(engine=few))._recover(threads)
        assert controller is not None
        await controller.quiesce(["v"], 5.0, "one")
        with pytest.raises(LimitError):
            await controller.quiesce(["v"], 5.0, "one too many")
        await controller.stop()
    finally:
        threads.close()

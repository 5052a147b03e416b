"""Programs that a run starts, and that end with it."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from duplexd.backup import programs
from duplexd.errors import DuplexdError
from tests.support.daemon import PATIENCE_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


async def test_what_a_program_writes_is_returned() -> None:
    assert await programs.run(["echo", "x"]) == b"x\n"


async def test_progress_is_read_from_what_qemu_img_writes() -> None:
    seen: list[float] = []
    await programs.run(["printf", r"    (0.00/100%%)\r    (42.50/100%%)\r"], seen.append)
    assert seen[-1] == 42.5


async def test_a_failure_says_what_the_program_said_and_how_it_ended() -> None:
    with pytest.raises(programs.ProgramError, match="no room left") as caught:
        await programs.run(["sh", "-c", "echo no room left >&2; exit 3"])
    assert caught.value.status == 3


async def test_a_cancellation_ends_the_program(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    os.mkfifo(pid)
    task = asyncio.ensure_future(programs.run(["sh", "-c", f"echo $$ >{pid}; exec sleep 600"]))
    number = int(await asyncio.to_thread(pid.read_text))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


async def test_a_program_does_not_outlive_a_run_that_is_killed(tmp_path: Path) -> None:
    """The pipe that it holds has an end when it is gone, and it has written nothing more."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    script = (
        "import asyncio, sys; from duplexd.backup import programs;"
        "asyncio.run(programs.run(['sh', '-c', 'exec 3>%s; echo >&3; sleep 20 3>&-; echo >&3']))"
    )
    run = await asyncio.create_subprocess_exec(sys.executable, "-c", script % pipe)
    with pipe.open("rb") as held:
        assert await asyncio.to_thread(held.readline) == b"\n"
        run.kill()
        await run.wait()
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await asyncio.to_thread(held.read) == b""


def test_a_missing_program_is_named_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(
        DuplexdError,
        match=r"qemu-img .* qemu-nbd and setpriv and nice .* qemu-utils util-linux coreutils",
    ):
        programs.check()

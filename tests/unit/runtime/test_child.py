"""A program beside the loop: how it ends, what is kept of its output, what is killed with it."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from duplexd.runtime import child

if TYPE_CHECKING:
    from collections.abc import Iterator

NEVER_S = 600.0
PATIENCE_S = 60.0


@pytest.fixture
def stop() -> Iterator[child.Stop]:
    stop = child.Stop()
    yield stop
    stop.close()


async def shell(script: str, stop: child.Stop, seconds: float = NEVER_S, **own: str) -> child.Ended:
    return await child.run(["/bin/sh", "-c", script], own, seconds, 64, stop)


async def gone(pid: int) -> bool:
    """Whether a process ends, in time."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":  # nobody has asked how it ended
            return True
        await asyncio.sleep(0.01)
    return False


async def written(path: Path) -> str:
    while True:
        with suppress(FileNotFoundError):
            if (text := path.read_text()).endswith("\n"):
                return text.strip()
        await asyncio.sleep(0.01)


async def test_exit_code_0_is_ok(stop: child.Stop) -> None:
    ended = await shell("echo out; echo err >&2", stop)
    assert (ended.status, ended.exit_code, ended.why) == ("ok", 0, "")
    assert ended.output == "out\nerr\n"


def programs_threads() -> set[threading.Thread]:
    """Those that start programs; the process has others, which may come at any moment."""
    return {thread for thread in threading.enumerate() if thread.name == "hook"}


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """A program that cannot be read: a FIFO that nobody writes to."""
    path = tmp_path / "program"
    os.mkfifo(path, 0o700)
    before = programs_threads()
    yield path
    for thread in programs_threads() - before:
        path.open("wb").close()  # waits until it is being opened for reading
        thread.join()


async def test_a_program_whose_disk_hangs_is_given_up_in_time(stop: child.Stop, hung: Path) -> None:
    ended = await child.run([str(hung)], {}, 0.1, 64, stop)
    assert (ended.status, ended.exit_code) == ("timed-out", None)
    assert "its disk did not answer within 0.1 s" in ended.why


async def test_a_cancelled_call_does_not_wait_for_a_disk_that_hangs(
    stop: child.Stop, hung: Path
) -> None:
    running = asyncio.create_task(child.run([str(hung)], {}, NEVER_S, 64, stop))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_program_that_was_given_up_is_not_started_later(
    stop: child.Stop, tmp_path: Path
) -> None:
    path, made = tmp_path / "program", tmp_path / "made"
    os.mkfifo(path, 0o700)
    before = programs_threads()
    await child.run([str(path)], {}, 0.1, 64, stop)
    (thread,) = programs_threads() - before
    with path.open("wb"):
        path.rename(tmp_path / "fifo")
        path.write_text(f"#!/bin/sh\ntouch {made}\n")
        path.chmod(0o700)
    thread.join()
    assert not made.exists()


async def test_another_exit_code_is_a_failure(stop: child.Stop) -> None:
    ended = await shell("exit 3", stop)
    assert (ended.status, ended.exit_code, ended.why) == ("failed", 3, "exit code 3")


async def test_a_signal_is_a_failure(stop: child.Stop) -> None:
    ended = await shell("kill -TERM $$", stop)
    assert (ended.status, ended.exit_code, ended.why) == ("failed", -15, "killed by signal 15")


async def test_a_program_that_is_not_there_is_a_failure(stop: child.Stop) -> None:
    ended = await child.run(["/nowhere/freeze"], {}, NEVER_S, 64, stop)
    assert (ended.status, ended.exit_code) == ("failed", None)
    assert ended.why == "/nowhere/freeze cannot be run: No such file or directory"


async def test_the_last_of_a_big_output_is_kept(stop: child.Stop) -> None:
    ended = await shell("head -c 10000000 /dev/zero | tr '\\0' x; echo; echo the end", stop)
    assert ended.status == "ok"
    assert ended.output == "x" * 55 + "\nthe end\n"


async def test_output_without_end_ends_at_the_time_out(stop: child.Stop) -> None:
    ended = await shell("yes", stop, 1.0)  # it is started by then
    assert (ended.status, ended.exit_code) == ("timed-out", -9)


async def test_the_time_out_kills_what_the_program_started(stop: child.Stop) -> None:
    """Its whole process group, of which it has one of its own."""
    script = "sleep 600 & echo $!; wait"
    ended = await shell(script, stop, 0.5)
    if not ended.output:  # a machine that takes longer to start it
        ended = await shell(script, stop, 60.0)
    assert (ended.status, ended.exit_code) == ("timed-out", -9)
    assert ended.why.endswith(" s (hook_timeout)")
    assert await gone(int(ended.output))


async def test_a_cancelled_call_has_killed_the_program(stop: child.Stop, tmp_path: Path) -> None:
    waiting = asyncio.ensure_future(shell(f"echo $$ > {tmp_path}/pid; sleep 600; true", stop))
    pid = int(await written(tmp_path / "pid"))
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await gone(pid)


async def test_what_it_leaves_in_the_background_goes_on_and_is_not_waited_for(
    stop: child.Stop, tmp_path: Path
) -> None:
    """It has the output open still."""
    ended = await shell("sleep 600 & echo $!", stop)
    pid = int(ended.output)
    try:
        assert ended.status == "ok"
        assert os.path.exists(f"/proc/{pid}")
    finally:
        os.kill(pid, 9)


async def test_its_input_is_empty(stop: child.Stop) -> None:
    ended = await shell("cat; pwd", stop)
    assert (ended.status, ended.output) == ("ok", "/\n")


async def test_a_tag_is_text_and_never_a_command(stop: child.Stop) -> None:
    ended = await shell('printf %s "$TAG"', stop, TAG="$(id); `id`\0x")
    assert ended.output == "$(id); `id`\ufffdx"


def test_what_the_service_manager_says_to_the_daemon_is_not_passed_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/x")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("WATCHDOG_USEC", "1")
    monkeypatch.setenv("PGHOST", "db")
    variables = child.environment({"DUPLEXD_GROUP": "db"})
    assert not {"NOTIFY_SOCKET", "LISTEN_FDS", "WATCHDOG_USEC"} & set(variables)
    assert (variables["PGHOST"], variables["DUPLEXD_GROUP"]) == ("db", "db")

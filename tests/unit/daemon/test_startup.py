from __future__ import annotations

import errno
import fcntl
import os
import threading
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from duplexd.daemon import startup
from duplexd.daemon.preflight import Problem
from duplexd.errors import ConfigurationError, ForbiddenError, WrongStateError
from duplexd.limits import DaemonLimits
from tests.unit.daemon.files import config

if TYPE_CHECKING:
    from pathlib import Path


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


def test_the_lock_says_whether_its_directory_is_another_one_by_now(tmp_path: Path) -> None:
    state = tmp_path / "state"
    lock = startup.StateLock(config(tmp_path))
    found = [lock.is_misplaced()]
    state.rename(tmp_path / "away")
    found.append(lock.is_misplaced())
    startup.StateLock(config(tmp_path)).close()  # makes another one
    found.append(lock.is_misplaced())
    (state / "lock").unlink()
    state.rmdir()
    (tmp_path / "away").rename(state)
    found.append(lock.is_misplaced())
    lock.close()
    assert found == [False, True, True, False]


def test_the_lock_is_had_once_a_look_at_it_is_over(tmp_path: Path) -> None:
    """`duplexd check` has it for an instant, to see whether somebody else does."""
    startup.StateLock(config(tmp_path)).close()
    look = (tmp_path / "state" / "lock").open("rb")
    fcntl.flock(look, fcntl.LOCK_SH)
    ends = threading.Timer(0.1, look.close)
    ends.start()
    startup.StateLock(config(tmp_path), DaemonLimits(state_lock_seconds_max=60.0)).close()
    ends.join()


def test_the_lock_says_whether_recovery_is_over_also_when_its_owner_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "state" / "lock"
    lock = startup.StateLock(config(tmp_path))
    assert path.read_text() == f"{os.getpid()}\n"
    lock.serving()
    lock.close()
    assert path.read_text() == f"{os.getpid()}\nserving\n"
    startup.StateLock(config(tmp_path)).close()
    assert path.read_text() == f"{os.getpid()}\n", "the next one has to recover first"


def test_a_lock_on_a_full_disk_can_be_had_and_does_not_say_serving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "state" / "lock"
    path.parent.mkdir()
    path.write_text("1\nserving\n")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    lock = startup.StateLock(config(tmp_path))
    assert path.read_text() == ""
    lock.close()


def test_a_disk_that_fails_at_the_end_of_a_start_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    lock = startup.StateLock(config(tmp_path))
    monkeypatch.setattr(os, "pwrite", fails)
    with capture_logs() as lines:
        lock.serving()
    assert [(line["log_level"], line["path"]) for line in lines] == [
        ("warning", str(tmp_path / "state" / "lock"))
    ]
    lock.close()


def test_a_disk_that_fails_under_the_state_directory_is_no_mistake_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def fails(path: str, *rest: int, **by_name: int) -> int:
        if str(path).endswith("lock"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return really_open(path, *rest, **by_name)

    (tmp_path / "state").mkdir()
    monkeypatch.setattr(os, "open", fails)
    with pytest.raises(OSError, match="state/lock"):
        startup.StateLock(config(tmp_path))


def test_a_state_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(ConfigurationError, match=r"f\.toml: controller\.state_dir: .*File exists"):
        startup.StateLock(config(tmp_path))


def test_every_fixed_value_that_differs_is_named(tmp_path: Path) -> None:
    old, new = config(tmp_path), config(tmp_path, a="b", c="d", p="q")
    with pytest.raises(WrongStateError) as caught:
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
    problems: list[Problem], expected: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(expected) as caught:
        startup.refuse_problems(config(tmp_path), problems)
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'f.toml'}: {problem.line}" for problem in problems
    ]


def test_an_error_that_passes_gets_file_and_key_and_stays_one(tmp_path: Path) -> None:
    own = config(tmp_path)
    with pytest.raises(WrongStateError) as caught, startup.in_file(own, "nbd.listen"):
        raise WrongStateError("port taken")
    assert str(caught.value) == f"{own.source}: nbd.listen: port taken"


def test_what_only_degrades_the_start_does_not_prevent_it(tmp_path: Path) -> None:
    missing = Problem("volumes.v.secondary: missing", degrades=True)
    startup.refuse_problems(config(tmp_path), [missing])
    with pytest.raises(ConfigurationError) as caught:
        startup.refuse_problems(config(tmp_path), [missing, Problem("b: y")])
    assert str(caught.value) == f"{tmp_path / 'f.toml'}: b: y"


@pytest.mark.parametrize("before", [None, 0o750])
def test_the_state_is_closed_to_others(tmp_path: Path, before: int | None) -> None:
    state = tmp_path / "state"
    if before is not None:
        state.mkdir()
        state.chmod(before)
    startup.StateLock(config(tmp_path)).close()
    assert state.stat().st_mode & 0o777 == 0o700
    assert (state / "lock").stat().st_mode & 0o777 == 0o600

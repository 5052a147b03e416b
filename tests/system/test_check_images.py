"""What `duplexd check` says of the images of a daemon that is stopped, and what `run` then does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from duplexd.daemon.checking import check
from tests.support.daemon import run_duplexd
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

_SIZE = 8 << 20


@pytest.fixture
def stopped(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Daemon:
    """It has written to one volume, and stopped cleanly."""
    daemon = start_daemon(make_files(volumes={"data": _SIZE}))
    talk = Talk(daemon.files.nbd_socket, "data")
    for at in range(8):
        talk.write(at << 20, bytes([at + 1]) * (1 << 20))
    talk.close()
    assert daemon.stop() == 0
    return daemon


def emptied(image: Path) -> None:
    with image.open("r+b") as file:
        file.truncate(0)
        file.truncate(_SIZE)


def altered(image: Path) -> None:
    """Every block, at the time of the last change: only the samples show it."""
    before = image.stat()
    image.write_bytes(b"?" * _SIZE)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))


def said_by_check(daemon: Daemon) -> list[str]:
    found = check(str(daemon.files.config))
    assert (found.exit_code, found.problems) == (0, [])
    return [
        line for line in found.warnings if "one file system" not in line and "tmpfs" not in line
    ]


def started(daemon: Daemon) -> tuple[str, bool, bool]:
    """The state after a start, whether the volume is served, and whether the roles changed."""
    daemon.start()
    status, body = daemon.request("GET", "/v1/status")
    assert status == 200
    (volume,) = body["volumes"]
    return volume["state"], volume["served"], volume["swapped"]


def test_images_as_they_were_left_are_not_mentioned(stopped: Daemon) -> None:
    assert said_by_check(stopped) == []
    assert started(stopped) == ("DUPLEX", True, False)


@pytest.mark.parametrize(
    ("change", "why"),
    [(emptied, "the image was emptied"), (altered, "sampled blocks differ")],
    ids=["emptied", "altered"],
)
def test_a_secondary_that_is_not_the_one_of_the_journal(
    stopped: Daemon, change: Callable[[Path], None], why: str
) -> None:
    image = stopped.files.secondary_of("data")
    change(image)
    (line,) = said_by_check(stopped)
    assert f": volumes.data.secondary: {image}: " in line
    assert why in line
    assert "; the pair would be SUSPENDED; a resync copies all of it; the start goes on" in line
    assert started(stopped) == ("SUSPENDED", True, False)


def test_where_a_start_would_refuse_it_check_does(stopped: Daemon) -> None:
    emptied(stopped.files.secondary_of("data"))
    text = stopped.files.config.read_text()
    stopped.files.config.write_text(text.replace("[nbd]", 'on_start_error = "refuse"\n[nbd]', 1))
    found = check(str(stopped.files.config))
    assert found.exit_code == 6
    assert any("the image was emptied" in line for line in found.problems), found.problems
    assert run_duplexd("run", "--config", str(stopped.files.config)).returncode == 6


def test_an_emptied_primary(stopped: Daemon) -> None:
    emptied(stopped.files.primary("data"))
    (line,) = said_by_check(stopped)
    assert ": volumes.data.primary: " in line
    assert "the image was emptied: " in line
    assert (
        f"; clients would use {stopped.files.secondary_of('data')} instead; the start goes" in line
    )
    assert started(stopped) == ("SUSPENDED", True, True)


def test_both_images_emptied(stopped: Daemon) -> None:
    emptied(stopped.files.primary("data"))
    emptied(stopped.files.secondary_of("data"))
    primary, secondary = said_by_check(stopped)
    assert "the volume would not be served; put its image back, or see `duplexctl adopt`" in primary
    assert ": volumes.data.secondary: " in secondary
    assert started(stopped)[1] is False


def test_images_that_were_exchanged(stopped: Daemon) -> None:
    primary, secondary = stopped.files.primary("data"), stopped.files.secondary_of("data")
    aside = primary.with_suffix(".aside")
    primary.rename(aside)
    secondary.rename(primary)
    aside.rename(secondary)
    (line,) = said_by_check(stopped)
    assert (
        "the images of the primary and the secondary lie at each other's path: they would" in line
    )
    assert started(stopped) == ("DUPLEX", True, True)

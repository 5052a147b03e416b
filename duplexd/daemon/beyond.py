"""What `duplexd check` finds beyond the file and its images: the state directory, or the daemon.

If a daemon runs with this state directory, or answers at the control socket, it is asked whether a
reload would apply the file: only it knows who uses which volume. It gets the text, because it may
not be allowed to read a file that is only about to become its configuration. If none runs, the
journal is read as a start would.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import socket
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import Client
from duplexd.client.silence import remedy
from duplexd.daemon.preflight import Problem
from duplexd.engine.recovery.foresee import Seen, foresee
from duplexd.errors import (
    DamageError,
    DuplexdError,
    ForbiddenError,
    NotFoundError,
    TimedOutError,
    UnreachableError,
    WrongStateError,
)
from duplexd.images.probe import probe
from duplexd.limits import ClientLimits, DaemonLimits, EngineLimits
from duplexd.runtime.clock import RealClock
from duplexd.runtime.disk import RealDisk
from duplexd.runtime.in_time import Patience
from duplexd.runtime.read_only import ReadOnlyImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from duplexd.client import Status
    from duplexd.config.daemon_file import Config
    from duplexd.images.probe import Found, Piece

_LIMITS = DaemonLimits()


class Beyond(NamedTuple):
    """`found`: of a start. `refused`: why a reload would be, or what cannot be known. `reload`:
    what it would change; None if no daemon runs.
    """

    found: list[Problem]
    refused: Sequence[str] = ()
    exit_code: int = 0
    reload: list[str] | None = None


def beyond_the_file(config: Config, limits: DaemonLimits = _LIMITS) -> Beyond:
    """Look, and change nothing."""
    owner = _owner(f"{config.controller.state_dir}/lock")
    if owner is not None:
        who = f"a daemon runs with this state_dir (process {owner})"
    elif _answers(config.control.socket):
        who = f"a daemon with another state_dir answers at control.socket {config.control.socket}"
    else:
        return _of_state(config, limits.look_seconds_max)
    return _of_daemon(config, who, limits.check_answer_seconds_max)


def _owner(lock: str) -> str | None:
    """The process that has this state directory; None if there is none, or nobody may say."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.pread(descriptor, 20, 0).decode(errors="replace").partition("\n")[0] or "unknown"
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return None


def _answers(path: Path) -> bool:
    """Whether somebody listens at this socket."""
    with socket.socket(socket.AF_UNIX) as ours:
        ours.setblocking(False)
        return ours.connect_ex(str(path)) in {0, errno.EAGAIN}


# ------------------------------------------------------------------------------- none runs


def _of_state(config: Config, look_s: float) -> Beyond:
    patience = Patience(look_s)
    silent: list[str] = []

    def exists(path: str) -> bool:
        try:
            return patience.call(lambda: os.path.lexists(path))
        except OSError:
            return True  # what is wrong with it is found by who looks at the image

    def look(path: str, offsets: Sequence[int], last: Piece | None) -> Found | None:
        try:
            return patience.call(partial(_look, path, offsets, last))
        except TimeoutError as error:
            why = "whether it is the image of the journal is not known"
            silent.append(f"{path}: {error.strerror}: {why}")
            return None
        except OSError:
            return None  # as above

    serves = config.controller.on_start_error == "serve"
    try:
        foreseen = foresee(
            RealDisk(), config, Seen(exists, look), RealClock().boot_id(), EngineLimits()
        )
    except DamageError as error:
        return Beyond([], [f"controller.state_dir: {error}"], error.exit_code)
    except PermissionError:
        return Beyond([])  # who may not read the state directory checks the file alone
    except OSError as error:
        text = f"controller.state_dir: {error.filename or ''}: {error.strerror or error}"
        return Beyond([], [text], DuplexdError.exit_code)
    return Beyond(
        [
            *(Problem(line) for line in foreseen.refused),
            *(Problem(line, degrades=serves) for line in foreseen.degraded),
            *(Problem(line, degrades=True) for line in (*foreseen.exchanged, *silent)),
        ]
    )


def _look(path: str, offsets: Sequence[int], last: Piece | None) -> Found:
    with ReadOnlyImage(path) as image:
        return probe(image, offsets, last)


# ------------------------------------------------------------------------------- one runs


def _of_daemon(config: Config, who: str, answer_s: float) -> Beyond:
    at = config.control.socket
    try:
        changes, status = asyncio.run(_ask(config, answer_s))
        return Beyond(list(_missing(config, status)), reload=changes)
    except TimedOutError as error:
        line = f"{who}, but it does not say whether it would apply this: {error}"
        return Beyond([], [f"{line}; {remedy(str(at))}"], error.exit_code)
    except NotFoundError:
        line = f"{who}, of a version that does not say whether it would apply this; restart it"
        return Beyond([Problem(line, degrades=True)])
    except UnreachableError as error:
        line = f"{who}, but does not say at control.socket {at} whether it would apply this"
        return Beyond([], [f"{line}: {error}"], WrongStateError.exit_code)
    except ForbiddenError as error:
        line = f"{who}, and you may not ask whether it would apply this: {error}"
        return Beyond([], [line], error.exit_code)
    except DuplexdError as error:
        why = str(error).replace(f"{config.source}: ", "")
        return Beyond([], [f"a reload would be refused: {why}"], error.exit_code)


async def _ask(config: Config, answer_s: float) -> tuple[list[str], Status]:
    limits = replace(ClientLimits(), answer_seconds_max=answer_s)
    try:
        text = config.source.read_text()
    except (OSError, ValueError) as error:  # it was read a moment ago
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise WrongStateError(f"{config.source}: cannot be read again: {why}; try again") from None
    async with Client.local(config.control.socket, limits=limits) as client:
        answer = await client.reload(check=True, text=text, path=str(config.source))
        return answer.changes, await client.status()


def _missing(config: Config, status: Status) -> Iterator[Problem]:
    """Images that the daemon has open, and that are no longer where a start would look for them;
    and what it says is wrong with others.
    """
    patience = Patience(_LIMITS.look_seconds_max)
    serves = config.controller.on_start_error == "serve"
    for row in status.volumes:
        volume = config.volumes.get(row["name"])
        if volume is None:
            continue
        named = {str(volume.primary): "primary"}
        if volume.secondary is not None:
            named[str(volume.secondary)] = "secondary"
        for role in ("primary", "secondary"):
            leg = row.get(role) or {}
            key = named.get(path := str(leg.get("path")))
            if key is None:
                continue
            line = f"volumes.{row['name']}.{key}: {path}"
            if why := leg.get("error"):
                yield Problem(f"{line}: {why.removeprefix(f'{path}: ')}", degrades=serves)
            elif not _is_there(patience, path):
                yield Problem(f"{line}: the image is missing", degrades=serves)


def _is_there(patience: Patience, path: str) -> bool:
    try:
        return patience.call(lambda: os.path.lexists(path))
    except OSError:
        return True  # that it hangs is found by who looks at the image

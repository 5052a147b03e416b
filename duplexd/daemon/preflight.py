"""Whether a configuration fits this machine: images, directories, permissions, certificates.

`duplexd check` and the start of the daemon run the same checks, so a configuration that passes
`check` starts. They only look: if a check created an image, the next start would take it for an
existing one, and begin with a full copy.

A controller that has served before starts without an image that is missing, unreadable or of
another size: one bad image is one bad image, and what becomes of its volume is decided by the
engine, which knows what the journal says. Such a problem `degrades` the start; it does not prevent
it. It does where nothing was served yet, because then it is a mistake in a new file, and for
`on_start_error = "refuse"`.
"""

from __future__ import annotations

import errno
import os
import pwd
import socket
import stat
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.config.exposure import check_observers
from duplexd.daemon import nbd_rules
from duplexd.errors import ConfigurationError, ForbiddenError
from duplexd.limits import DaemonLimits
from duplexd.net import tls
from duplexd.net.address import TcpAddress, UnixAddress
from duplexd.net.allow import group_id
from duplexd.runtime import owned
from duplexd.runtime.in_time import Patience
from duplexd.units import format_size

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.config.daemon_file import Config


_LIMITS = DaemonLimits()
_OF_THE_KERNEL = ("/proc", "/sys")
_NOT_ON_A_DISK = (*_OF_THE_KERNEL, "/dev")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - no file is made there
_DISK = "give the path of a block device, or of a file on a disk"


class Problem(NamedTuple):
    """One line of text. `forbidden`: permissions are missing; the configuration itself is right.
    `degrades`: the daemon starts without this image. `hangs`: it does not answer.
    """

    line: str
    forbidden: bool = False
    degrades: bool = False
    hangs: bool = False


def look(config: Config) -> list[Problem]:
    """What keeps the daemon from serving this configuration, whatever its images are; each as
    `dotted.key: what is wrong; what to do`.
    """
    return [
        *_directory("controller.state_dir", config.controller.state_dir),
        *_sockets(config),
        *_group(config),
        *_observers(config),
        *_tls(config),
        *_rules(config),
    ]


def look_at_images(
    config: Config, served: Config | None = None, seconds: float = _LIMITS.look_seconds_max
) -> list[Problem]:
    """What is wrong with its images. Those that a running daemon has open already, by the
    configuration `served`, are skipped. Blocking; what hangs is waited for so long.
    """
    in_use = leg_keys(served) if served is not None else {}
    goes_on, patience = served is None and _starts_without(config), Patience(seconds)
    may_grow = served is None and has_state(config)
    found: list[Problem] = []
    for name, volume in config.volumes.items():
        for key, path in (("primary", volume.primary), ("secondary", volume.secondary)):
            leg = f"volumes.{name}.{key}"
            if path is not None and in_use.get(path) != leg:
                looked = partial(_looked_at, leg, path, volume.size, goes_on, may_grow)
                try:
                    found += patience.call(looked)
                except OSError as error:  # the others are a Problem
                    line = f"{leg}: {str(path)!r} {error.strerror}"
                    found.append(Problem(line, degrades=_serves(config), hangs=True))
    return found


def _looked_at(key: str, path: Path, size: int, goes_on: bool, may_grow: bool) -> list[Problem]:
    found = list(_image(key, path, size, may_grow))
    degrades = bool(found) and goes_on and not _is_mistake(path)
    return [problem._replace(degrades=degrades) for problem in found]


def addresses(config: Config) -> list[Problem]:
    """Addresses that this machine does not have, and names that do not resolve: a start waits for
    them for a while. Ports are not looked at, since a running daemon may have them.
    """
    remote = config.control.tls.listen if config.control.tls is not None else []
    named = [
        *((place.key, place.address) for place in config.nbd.places),
        *((f"control.tls.listen[{index}]", each) for index, each in enumerate(remote)),
    ]
    found = []
    for key, address in named:
        if isinstance(address, TcpAddress) and (why := _not_here(address)):
            found.append(Problem(f"{key}: '{address}' is not an address of this machine: {why}"))
    return found


def state_missing(config: Config) -> str:
    """A line about a state directory that is empty, though images exist: perhaps its mount is
    missing. Empty if there is nothing to say.
    """
    existing = [path for path in leg_keys(config) if os.path.lexists(path)]
    if has_state(config) or not existing:
        return ""
    return (
        f"controller.state_dir: '{config.controller.state_dir}' has no state of a controller, but"
        f" {len(existing)} of its images exist; if this controller has run before, its state is"
        " not there: is a file system not mounted? Images that belong to another state are not"
        " used before `duplexctl adopt VOLUME`"
    )


def has_state(config: Config) -> bool:
    """Whether a controller has run with this state directory."""
    return (config.controller.state_dir / "checkpoint").exists()


def _serves(config: Config) -> bool:
    return config.controller.on_start_error == "serve"


def _starts_without(config: Config) -> bool:
    return _serves(config) and has_state(config)


def _is_mistake(path: Path) -> bool:
    """Whether something is there that was never an image."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISBLK(mode)


def _not_here(address: TcpAddress) -> str:
    try:
        found = socket.getaddrinfo(address.host, 0, type=socket.SOCK_STREAM)
        for family, _, _, _, target in found:
            with socket.socket(family, socket.SOCK_STREAM) as probe:
                probe.bind(target)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def leg_keys(config: Config) -> dict[Path, str]:
    """The key at which each image is named."""
    keys = {volume.primary: f"volumes.{name}.primary" for name, volume in config.volumes.items()}
    return keys | {
        volume.secondary: f"volumes.{name}.secondary"
        for name, volume in config.volumes.items()
        if volume.secondary
    }


def _image(key: str, path: Path, size: int, may_grow: bool) -> Iterator[Problem]:
    """`may_grow`: what is too short may be due to grow, and what is longer may have been made so
    for that; who knows the state says if it is not so.
    """
    try:
        status = path.stat()
    except FileNotFoundError:
        yield from _new_image(key, path)
        return
    except OSError as error:
        yield Problem(
            f"{key}: {str(path)!r} is not accessible: {error.strerror}",
            error.errno == errno.EACCES,
        )
        return
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISBLK(status.st_mode):
        kind = (
            "a directory" if stat.S_ISDIR(status.st_mode) else "neither a file nor a block device"
        )
        yield Problem(f"{key}: {str(path)!r} is {kind}; give the path of an image")
        return
    if stat.S_ISREG(status.st_mode) and (root := _keeps_nothing(path)):
        yield Problem(
            f"{key}: {str(path)!r} is a file below {root}, where nothing is kept; {_DISK}"
        )
        return
    if not os.access(path, os.R_OK | os.W_OK):
        yield Problem(
            f"{key}: {str(path)!r} cannot be read and written by user {os.geteuid()};"
            " change its owner or mode",
            forbidden=True,
        )
        return
    try:
        actual = _size(path)
    except OSError as error:
        yield Problem(f"{key}: {str(path)!r} cannot be opened: {error.strerror}")
        return
    if actual != size and not may_grow:
        yield Problem(
            f"{key}: {str(path)!r} has {actual} bytes ({format_size(actual)}),"
            f" the configuration says {size} ({format_size(size)}); images are never resized:"
            " correct the size or give another image"
        )


def _size(path: Path) -> int:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)


def _keeps_nothing(path: Path) -> str:
    """The directory above `path` whose files are the kernel's, or gone after a restart; or ""."""
    real = path.resolve()
    if real.is_relative_to(_SHARED_MEMORY):  # of tests, and of who knows what it is
        return ""
    return next((root for root in _NOT_ON_A_DISK if real.is_relative_to(root)), "")


def _new_image(key: str, path: Path) -> Iterator[Problem]:
    if path.is_symlink():
        yield Problem(
            f"{key}: {str(path)!r} is a dangling symbolic link; remove it or create its target"
        )
    elif not path.parent.is_dir():
        yield Problem(
            f"{key}: there is no directory {str(path.parent)!r} to create the image in;"
            " create it, or correct the path"
        )
    elif root := _keeps_nothing(path):
        yield Problem(
            f"{key}: {str(path)!r} does not exist, and below {root} no image can be created;"
            f" {_DISK}"
        )
    elif not os.access(path.parent, os.W_OK | os.X_OK):
        yield Problem(
            f"{key}: {str(path.parent)!r} cannot be written by user {os.geteuid()};"
            " change its owner or mode",
            forbidden=True,
        )


def _ours(key: str, path: Path) -> Iterator[Problem]:
    """Whether others could exchange what is written there as root."""
    try:
        owned.check_place(str(path))
    except owned.UnsafePlaceError as error:
        yield Problem(f"{key}: {error.filename!r}: {error.strerror}", forbidden=True)
    except OSError:  # what else is wrong with it is found by who uses it
        return


def _sockets(config: Config) -> Iterator[Problem]:
    yield from _socket("control.socket", config.control.socket)
    for place in config.nbd.places:
        if isinstance(place.address, UnixAddress):
            yield from _socket(place.key, Path(place.address.path))


def _socket(key: str, path: Path) -> Iterator[Problem]:
    """Mode and group of a Unix socket are set by its path. Its directory is made if need be."""
    yield from _ours(key, path.parent)
    yield from _place_for_directory(key, path.parent)
    if os.path.lexists(path) and not stat.S_ISSOCK(path.lstat().st_mode):
        yield Problem(f"{key}: {str(path)!r} is no socket, so it stays; give another path")


def _directory(key: str, path: Path) -> Iterator[Problem]:
    """A directory that is created if it does not exist."""
    foreign = list(_foreign(key, path, path.stat())) if path.is_dir() else []
    if found := foreign or list(_ours(key, path)):
        yield from found
    else:
        yield from _place_for_directory(key, path)


def _place_for_directory(key: str, path: Path) -> Iterator[Problem]:
    nearest = path
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    if not nearest.is_dir():
        yield Problem(f"{key}: {str(nearest)!r} is not a directory; correct the path")
    elif root := next(filter(path.resolve().is_relative_to, _OF_THE_KERNEL), ""):
        yield Problem(
            f"{key}: {str(path)!r} is below {root}, where no file is kept; correct the path"
        )
    elif not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        yield Problem(
            f"{key}: {str(nearest)!r} cannot be written by user {os.geteuid()};"
            " change its owner or mode",
            forbidden=True,
        )


def _foreign(key: str, path: Path, owner: os.stat_result) -> Iterator[Problem]:
    """Others could have us write wherever a link of theirs leads, and read what volumes hold."""
    if owner.st_uid not in (0, os.geteuid()):
        yield Problem(
            f"{key}: {str(path)!r} belongs to user {owner.st_uid}, who could replace everything"
            f" in it; {_as_its_user(owner.st_uid)}change its owner: chown {os.geteuid()} {path}"
        )
    elif owner.st_mode & stat.S_IWOTH:
        yield Problem(
            f"{key}: {str(path)!r} can be written by every user of this machine"
            f" (mode {stat.S_IMODE(owner.st_mode):04o}); change it: chmod 0700 {path}"
        )


def _as_its_user(uid: int) -> str:
    """To root: a daemon of another user needs that owner."""
    if os.geteuid() != 0:
        return ""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return ""
    return (
        "if the daemon is that user's, run this as that user:"
        f" runuser -u {name} -- duplexd ...; else "
    )


def _group(config: Config) -> Iterator[Problem]:
    if config.control.group is not None:
        try:
            group_id("control.group", config.control.group)
        except ConfigurationError as error:
            yield Problem(str(error))


def _observers(config: Config) -> Iterator[Problem]:
    """As `config.exposure` finds by names, where two names may be those of one group."""

    def number(group: str | None) -> int:
        return os.getegid() if group is None else group_id("control.group", group)

    try:
        yield from (Problem(line) for line in check_observers(config, number))
    except ConfigurationError:  # a group that does not exist: the others say so
        return


def _tls(config: Config) -> Iterator[Problem]:
    if config.control.tls is not None:
        try:
            tls.server_context(config.control.tls)
        except (ConfigurationError, ForbiddenError) as error:
            yield Problem(str(error), isinstance(error, ForbiddenError))


def _rules(config: Config) -> Iterator[Problem]:
    """Users, groups and files that [nbd] and the rules of volumes name."""
    for look_up in (nbd_rules.listeners_of, nbd_rules.policy_of, nbd_rules.images_of):
        try:
            look_up(config)
        except (ConfigurationError, ForbiddenError) as error:
            yield Problem(str(error), isinstance(error, ForbiddenError))

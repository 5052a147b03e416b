"""Mistakes that show only when several values of the configuration are seen at once.

Two legs on one file would overwrite each other, two listeners on one address cannot both be bound,
a group whose volumes follow at different distances has no common cut. None of these is a mistake of
a single value, and all of them are cheaper found here than by the damage they do. No I/O except
looking up where a path leads: two names of one file are the same file. Where a disk may hang it is
not looked up, and only equal names are the same.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd import limits
from duplexd.config.explain import did_you_mean
from duplexd.config.exposure import check_exposure
from duplexd.net.address import Address, UnixAddress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.config.daemon_file import Config, GroupConfig, TlsConfig
    from duplexd.config.nbd_section import NbdTlsConfig


def check_together(config: Config, follow: bool = True) -> list[str]:
    """All of these mistakes, one line each: `dotted.key: what is wrong; what was expected`.

    Without `follow` no path is looked up.
    """
    images = _images(config, *((_identity, os.path.realpath) if follow else (_name, _normal)))
    return [
        *_remote(config),
        *_listeners(config, os.path.realpath if follow else os.path.normpath),
        *check_exposure(config),
        *images,
        *_groups(config),
    ]


def _remote(config: Config) -> Iterator[str]:
    tls = config.control.tls
    if tls is None:
        return
    if not tls.operate and not tls.observe:
        yield (
            "control.tls: no client is authorized; set operate and/or observe,"
            ' for example operate = ["backup.example"]'
        )
    for index, name in enumerate(tls.observe):
        if name in tls.operate:
            yield (
                f"control.tls.observe[{index}]: {name!r} is in control.tls.operate too,"
                " which includes the role observe; remove one"
            )
    for index, address in enumerate(tls.listen):
        if address in tls.listen[:index]:
            yield f"control.tls.listen[{index}]: {address.authority!r} is listed twice; remove one"


def _listeners(config: Config, real: Callable[[str], str]) -> Iterator[str]:
    seen = {_place(UnixAddress(str(config.control.socket)), real): "control.socket"}
    if config.control.tls is not None:
        seen |= {
            address: f"control.tls.listen[{index}]"
            for index, address in enumerate(config.control.tls.listen)
        }
    for listener in config.nbd.places:
        key, address = listener.key, listener.address
        place = _place(address, real)
        if place in seen:
            yield f"{key}: '{address}' is used twice, also by {seen[place]}; remove one"
        seen.setdefault(place, key)
    default = config.nbd.default
    if default is not None and default not in config.volumes:
        hint = did_you_mean(default, list(config.volumes))
        yield f"nbd.default: there is no volume {default!r}{hint}"


def _place(address: Address, real: Callable[[str], str]) -> Address:
    """Equal for two addresses that cannot both be bound."""
    if isinstance(address, UnixAddress):
        return UnixAddress(real(address.path))
    return address


def _images(
    config: Config,
    identity_of: Callable[[Path], tuple[object, ...]],
    real: Callable[[Path], str],
) -> Iterator[str]:
    if len(config.volumes) > limits.VOLUMES_MAX:
        yield (
            f"volumes: {len(config.volumes)} volumes are too many;"
            f" expected at most {limits.VOLUMES_MAX}"
        )
        return
    seen = {identity_of(path): key for key, path in _other_files(config)}
    for key, path in _legs(config):
        identity = identity_of(path)
        if identity in seen:
            yield (
                f"{key}: {str(path)!r} is used twice, also by {seen[identity]};"
                " configure an image for each leg"
            )
        elif Path(real(path)).is_relative_to(real(config.controller.state_dir)):
            yield (
                f"{key}: {str(path)!r} is inside controller.state_dir, where only the journal and"
                " what belongs to it may be; put the image outside"
            )
        seen.setdefault(identity, key)


def _legs(config: Config) -> Iterator[tuple[str, Path]]:
    for name, volume in config.volumes.items():
        yield f"volumes.{name}.primary", volume.primary
        if volume.secondary is not None:
            yield f"volumes.{name}.secondary", volume.secondary


def _other_files(config: Config) -> Iterator[tuple[str, Path]]:
    yield "controller.state_dir", config.controller.state_dir
    yield "control.socket", config.control.socket
    yield "the file itself", config.source
    for place in config.nbd.places:
        if isinstance(place.address, UnixAddress):
            yield place.key, Path(place.address.path)
    if config.nbd.tls is not None:
        yield from _tls_files("nbd.tls", config.nbd.tls)
    if (tls := config.control.tls) is not None:
        yield from _tls_files("control.tls", tls)


def _tls_files(table: str, tls: TlsConfig | NbdTlsConfig) -> Iterator[tuple[str, Path]]:
    yield f"{table}.certificate", tls.certificate
    yield f"{table}.key", tls.key
    if tls.client_ca is not None:
        yield f"{table}.client_ca", tls.client_ca


def _identity(path: Path) -> tuple[object, ...]:
    """Equal for two paths that lead to the same file or block device, whether it exists or not."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return (os.path.realpath(path),)
    if stat.S_ISBLK(status.st_mode):
        return ("device", status.st_rdev)
    return (status.st_dev, status.st_ino)


def _name(path: Path) -> tuple[object, ...]:
    """Equal for two paths that are written alike."""
    return (_normal(path),)


def _normal(path: Path) -> str:
    return os.path.normpath(path)


def _groups(config: Config) -> Iterator[str]:
    for name, group in config.groups.items():
        key = f"groups.{name}"
        if name in config.volumes:
            yield (
                f"{key}: a volume has this name too, so that commands could not tell them apart;"
                " rename one"
            )
        for index, member in enumerate(group.volumes):
            if member not in config.volumes:
                hint = did_you_mean(member, list(config.volumes))
                yield f"{key}.volumes[{index}]: there is no volume {member!r}{hint}"
            if member in group.volumes[:index]:
                yield f"{key}.volumes[{index}]: {member!r} is listed twice; remove one"
        yield from _modes(config, key, group)


def _modes(config: Config, key: str, group: GroupConfig) -> Iterator[str]:
    modes: dict[str, str] = {}
    for member in group.volumes:
        volume = config.volumes.get(member)
        if volume is not None and volume.secondary is not None:
            modes.setdefault(volume.mode, member)
    if len(modes) > 1:
        mixed = " and ".join(f"{member!r} ({mode})" for mode, member in modes.items())
        yield (
            f"{key}.volumes: {mixed} differ in mode, but a group is cut at one sequence number;"
            " give all of its volumes the same mode"
        )

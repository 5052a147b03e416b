"""`duplexd check`: whether `run` would accept a configuration, and what it means.

The outcomes are those of `run` and of a reload: 0, a start goes well, and a daemon that runs with
that state directory would apply the file; 5, a start waits for an address and then ends, or that
daemon would have to be restarted, or would apply the file only later; 6, only an edit helps;
1, a start may not have as many open files as it needs, if its process is limited as this one is.
Warnings are about what a start would do without, and change no exit code: they are true of a daemon
that serves everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.config.exposure import describe_exposure
from duplexd.daemon import delay_room, preflight
from duplexd.daemon.beyond import beyond_the_file
from duplexd.daemon.hazards import hazards
from duplexd.daemon.loading import load_in_time
from duplexd.daemon.open_files import too_few
from duplexd.errors import ConfigurationError, LimitError, WrongStateError
from duplexd.limits import DaemonLimits, Limits
from duplexd.runtime.in_time import Patience
from duplexd.units import format_size

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config, VolumeConfig
    from duplexd.config.nbd_section import Place
    from duplexd.json_object import Json

# What the unit mounts by itself, for a controller of that name
_UNIT_STATE_DIR = "/var/lib/duplexd"
_LIMITS = DaemonLimits()


class Findings(NamedTuple):
    """`settings`: None for a file that cannot be read as a configuration. `reload`: what a reload
    would change; None if no daemon runs with this state directory.
    """

    settings: Config | None
    problems: list[str]
    warnings: list[str]
    exit_code: int
    reload: list[str] | None = None

    def as_json(self) -> Json:
        """For `--json`."""
        return {
            "ok": not self.problems,
            "problems": self.problems,
            "warnings": self.warnings,
            "reload": self.reload,
            "summary": _summary(self.settings) if self.settings else None,
        }


def check(config_path: str) -> Findings:
    """Look at the file and at this machine; change nothing."""
    try:
        settings = load_in_time(config_path)
    except (ConfigurationError, WrongStateError) as error:
        return Findings(None, str(error).splitlines(), [], error.exit_code)
    found = preflight.look(settings) + preflight.look_at_images(settings)
    beyond = beyond_the_file(settings)
    found += beyond.found
    final = [problem.line for problem in found if not problem.degrades]
    passing = [problem.line for problem in preflight.addresses(settings)]
    warnings = [f"{problem.line}; the start goes on" for problem in found if problem.degrades]
    if missing := preflight.state_missing(settings):
        warnings.append(missing)
    warnings += describe_exposure(settings)
    warnings += hazards(settings, Patience(_LIMITS.look_seconds_max))
    if not settings.nbd.addresses:
        warnings.append("nbd.listen: no address; `run` serves only sockets that are passed to it")
    crowded = [line] if (line := too_few(Limits(), settings)) else []
    if beyond.reload is not None:  # the daemon that runs has as many
        warnings, crowded = warnings + crowded, []
    codes = [
        ConfigurationError.exit_code if final else 0,
        beyond.exit_code,
        WrongStateError.exit_code if passing else 0,
        LimitError.exit_code if crowded else 0,
    ]
    problems = [*final, *passing, *crowded, *beyond.refused]
    return Findings(
        settings,
        [_in_file(config_path, settings, line) for line in problems],
        [_in_file(config_path, settings, line) for line in warnings],
        next(filter(None, codes), 0),
        beyond.reload,
    )


def _in_file(config_path: str, settings: Config, line: str) -> str:
    """A line about the file, by the path that was given."""
    return f"{config_path}: {line.removeprefix(f'{settings.source}: ')}"


def _mounts(settings: Config) -> list[str]:
    """What a drop-in of the unit needs, for a state directory that the unit does not know."""
    state_dir = settings.controller.state_dir
    if state_dir.is_relative_to(_UNIT_STATE_DIR):
        return []
    return [f"systemd    for a drop-in of the unit: RequiresMountsFor={state_dir}"]


def _summary(settings: Config) -> Json:
    volumes = {
        name: {
            "size": volume.size,
            "primary": str(volume.primary),
            "secondary": str(volume.secondary) if volume.secondary else None,
            "mode": volume.mode if volume.secondary else None,
            "delay": volume.delay if volume.secondary else None,
        }
        for name, volume in settings.volumes.items()
    }
    tls = settings.control.tls
    return {
        "controller": settings.controller.name,
        "state_dir": str(settings.controller.state_dir),
        "journal_size": settings.controller.journal_size,
        "listen": [str(address) for address in settings.nbd.addresses],
        "control": str(settings.control.socket),
        "control_tls": [address.authority for address in tls.listen] if tls else [],
        "metrics": str(settings.metrics.listen) if settings.metrics.listen else None,
        "volumes": volumes,
        "groups": {name: list(group.volumes) for name, group in settings.groups.items()},
    }


def describe(settings: Config, reload: list[str] | None = None) -> str:
    """What a configuration means, in lines for a person; and what a reload would change."""
    own, tls = settings.controller, settings.control.tls
    control = [
        str(settings.control.socket),
        *(f"TLS {address.authority}" for address in (tls.listen if tls else ())),
    ]
    state = f"state in {own.state_dir}{_new(settings)}"
    lines = [
        f"{settings.source}: ok",
        f"controller {own.name}: {state}, journal {format_size(own.journal_size)}",
        f"NBD        {', '.join(map(_place, settings.nbd.places)) or 'sockets that are passed'}",
        f"control    {', '.join(control)}",
        *([f"metrics    {settings.metrics.listen}"] if settings.metrics.listen else ()),
    ]
    for name, volume in settings.volumes.items():
        pair = (
            f"{volume.primary} -> {volume.secondary} ({volume.mode})"
            if volume.secondary
            else f"{volume.primary}, no secondary"
        )
        lines.append(f"volume     {name}: {format_size(volume.size)}, {pair}{_rules(volume)}")
    if said := delay_room.room(settings):
        lines.append(f"delay      {said}")
    lines += [
        f"group      {name}: {', '.join(group.volumes)}" for name, group in settings.groups.items()
    ]
    if reload is not None:
        lines += [f"reload     {line}" for line in reload or ["would change nothing"]]
    return "\n".join([*lines, *_mounts(settings)])


def _place(place: Place) -> str:
    """An address, and what is said of it."""
    said = [f"TLS {place.tls}"] if place.tls != "off" else []
    if place.read_only:
        said.append("read-only")
    if place.allow is not None:
        said.append("only " + ", ".join(":".join(entry) for entry in place.allow))
    return f"{place.address} ({'; '.join(said)})" if said else str(place.address)


def _rules(volume: VolumeConfig) -> str:
    allow = ", ".join(":".join(entry) for entry in volume.allow or ())
    return f"{', read-only' * volume.read_only}{f', only {allow}' if allow else ''}"


def _new(settings: Config) -> str:
    return "" if preflight.has_state(settings) else " (none yet: a first start)"

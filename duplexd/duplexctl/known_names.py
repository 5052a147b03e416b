"""The names that a shell completes.

Names come from the groups file, and from the daemons of this machine; others are not asked, as that
takes too long. No error is printed: the user is still typing.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from click.core import ParameterSource

from duplexd.duplexctl.settings import Settings
from duplexd.errors import DuplexdError

if TYPE_CHECKING:
    from duplexd.client import Client

ANSWER_SECONDS_MAX = 0.5


def targets_like(settings: Settings, incomplete: str) -> list[str]:
    """Names of groups of the groups file, and of the volumes and groups of a daemon."""
    controller, colon, _ = incomplete.partition(":")
    if colon:
        names = [f"{controller}:{name}" for name in _names_at(settings.socket_of(controller))]
    else:
        with suppress(DuplexdError):
            settings.find_daemon()
        names = [*groups_like(settings, incomplete), *_names_at(settings.socket)]
    return [name for name in dict.fromkeys(names) if name.startswith(incomplete)]


def groups_like(settings: Settings, incomplete: str) -> list[str]:
    """Names of groups of the groups file."""
    with suppress(DuplexdError):
        names = settings.group_names() if settings.has_groups else []
        return [name for name in names if name.startswith(incomplete)]
    return []


def _names_at(path: str) -> list[str]:
    """What the daemon behind a socket has; nothing if it does not answer."""
    if not path:
        return []
    from duplexd.duplexctl.runner import run

    async def names(client: Client) -> list[str]:
        status = await client.status()
        return [group.name for group in status.groups] + [each["name"] for each in status.volumes]

    settings = Settings()
    settings.socket, settings.timeout_s = path, ANSWER_SECONDS_MAX
    settings.socket_source = ParameterSource.DEFAULT
    try:
        with suppress(DuplexdError):
            return run(settings, names, of_groups=False)
        return []
    finally:
        settings.interrupts.end()

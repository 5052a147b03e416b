"""What can be asked of one daemon alone, whatever its volumes: its configuration, its program."""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.client.restarting import restart
from duplexd.client.results import Reloaded, RestartedInPlace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from duplexd.client.http import Http
    from duplexd.config.groups import Directory


class OneProcess:
    """The base of `Client` for that. Raises as its other commands."""

    groups: Directory

    def links_to(self, names: Iterable[str]) -> dict[str, Http]:
        """Connections to controllers."""
        raise NotImplementedError

    def _only_link(self) -> Http:
        (link,) = self.links_to(self.groups.controllers).values()
        return link

    async def reload(
        self, *, check: bool = False, text: str | None = None, path: str | None = None
    ) -> Reloaded:
        """Let one daemon read its configuration again. With `check` it only says what would change;
        with `text` too, what that configuration, which lies at `path`, would change.
        """
        link = self._only_link()
        body = {"check": check, "text": text, "path": path}
        answer = await link.call_patiently("POST", "/v1/reload", body)
        return Reloaded(answer["applied"], answer["changes"])

    async def restart(self, *, force: bool = False) -> RestartedInPlace:
        """Let another program take one daemon's place, with its NBD clients."""
        link = self._only_link()
        return await restart(link, force)

"""The configuration of the daemon, as the API asks for it: what may be read again, and hooks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from duplexd.errors import WrongStateError

if TYPE_CHECKING:
    from duplexd.runtime.hooks import GroupHooks, HookRun


class Reloads(Protocol):
    """The configuration of the daemon, and how it is read again."""

    async def reload(self) -> list[str]: ...
    async def check(self, text: str | None, path: str | None) -> list[str]: ...
    def hooks(self, group: str) -> GroupHooks | None: ...
    def hook_ended(self, run: HookRun) -> None: ...


class _NotReloaded:
    """A controller whose configuration is in no file."""

    async def reload(self) -> list[str]:
        raise WrongStateError("this controller has no configuration file to read again")

    async def check(self, text: str | None, path: str | None) -> list[str]:  # noqa: ARG002
        return await self.reload()

    def hooks(self, group: str) -> None:
        """None: without a file there are none."""

    def hook_ended(self, run: HookRun) -> None:
        """There are none."""


NOT_RELOADED: Reloads = _NotReloaded()

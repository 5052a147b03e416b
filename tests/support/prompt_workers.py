"""Workers that make each call at once, for tests in which nothing hangs or overlaps."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from duplexd.runtime.threads import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class PromptWorkers(Workers):
    """See `duplexd.runtime.threads.Workers`; but `done` is called within `submit`."""

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001  the submitter of the call gets it
            done(None, error)
        else:
            done(result, None)

    def close(self) -> None:
        pass

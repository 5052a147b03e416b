"""Workers driven by the test: a call runs, and its end is reported, when the test says so."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class HandWorkers:
    """See `duplexd.runtime.threads.Workers`. Calls that were submitted and not finished are in
    `calls`, oldest first.
    """

    def __init__(self) -> None:
        self.calls: deque[Callable[[], None]] = deque()

    def submit(
        self, call: Callable[[], T], done: Callable[[T | None, BaseException | None], None]
    ) -> None:
        def finish() -> None:
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - the submitter of the call gets it
                done(None, error)
            else:
                done(result, None)

        self.calls.append(finish)

    async def run(self, call: Callable[[], T]) -> T:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def finish() -> None:
            if future.cancelled():
                call()
                return
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - the waiting task gets it
                future.set_exception(error)

        self.calls.append(finish)
        return await future

    def finish(self) -> None:
        """Run the oldest call, and report its end."""
        self.calls.popleft()()

    def finish_all(self) -> None:
        """Run all calls, and those that they submit."""
        while self.calls:
            self.finish()

    def of(self, _disk: object) -> HandWorkers:
        """One after the other, whatever they are on."""
        return self

    def replace(self) -> None:
        """The call that was given up is not in `calls` any more."""

    def close(self) -> None:
        self.finish_all()

"""A command on several volumes that is done for one after the other.

One that fails does not undo the others, nor keep them from it: they have nothing to do with each
other. But the caller of a group's command must not take it for undone, or for done: the error names
the volumes that it was done for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from duplexd.errors import DuplexdError
from duplexd.runtime.tasks import to_its_end

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from duplexd.core.pair import Pair
    from duplexd.json_object import Json

_ERRORS_MAX = 5


async def each_of(
    pairs: Sequence[Pair], work: Callable[[Pair], Awaitable[Json]], done: str
) -> list[Json]:
    """The results of `work`, which is not stopped half-way. Raises the kind of the first error,
    with the text of all, and with the volumes that are `done`, for example "swapped".
    """
    results: list[Json] = []
    errors: list[DuplexdError] = []
    for pair in pairs:
        try:
            results.append(await to_its_end(work(pair)))
        except DuplexdError as error:
            errors.append(error)
    if not errors:
        return results
    texts = list(map(str, errors[:_ERRORS_MAX]))
    if len(errors) > _ERRORS_MAX:
        texts.append(f"and {len(errors) - _ERRORS_MAX} more")
    if results:
        texts.append(f"{done}: {', '.join(row['name'] for row in results)}")
    raise type(errors[0])("; ".join(texts)) from errors[0]

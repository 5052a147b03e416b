"""How long requests took, by volume and operation, in the text format of Prometheus.

Written here and not by prometheus_client, which makes an object of each sample: a thousand volumes
with three operations have 69,000 samples, and making them holds the interpreter for a second, which
requests then lack. This takes a tenth of it. Operations that a volume has not seen have no samples,
because most volumes see few.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from duplexd.runtime.histogram import Histogram

    # Text that is made when it is called, outside of the loop.
    Later = Callable[[], str]

NAME = "duplexd_nbd_request_duration_seconds"
_HEAD = (
    f"# HELP {NAME} from when requests were taken until they were answered, holds and disks"
    f" included; those of a batch at once\n# TYPE {NAME} histogram\n"
)
_ESCAPED = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


class Timed(Protocol):
    """What the NBD server counts for a volume."""

    def seconds_by_operation(self) -> Mapping[str, Histogram]:
        """Operation -> the time of its requests, for those that there have been; copies."""


def durations(traffic: Mapping[str, Timed]) -> Later:
    """Copies the figures, and formats them when it is called."""
    taken = {volume: timed.seconds_by_operation() for volume, timed in traffic.items()}
    return lambda: _HEAD + "".join(_lines(taken))


def _lines(taken: Mapping[str, Mapping[str, Histogram]]) -> Iterator[str]:
    for volume, operations in taken.items():
        name = volume.translate(_ESCAPED)
        for operation, seconds in operations.items():
            labels, running = f'op="{operation}",volume="{name}"', 0
            for bound, count in zip((*seconds.bounds, "+Inf"), seconds.counts, strict=True):
                running += count
                yield f'{NAME}_bucket{{le="{bound}",{labels}}} {running}\n'
            yield f"{NAME}_count{{{labels}}} {running}\n"
            yield f"{NAME}_sum{{{labels}}} {seconds.total!r}\n"

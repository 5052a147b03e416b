"""Open files: how many there may be, and for what.

When they run out, what fails is whatever needs the next one: not the stranger who took the last,
but the journal that begins a segment, and with it every client's writes. So they are shared out
before anything is opened. Images and the journal's segments come first, some are kept for what is
opened now and then, and connections get the rest: beyond it a new connection is closed, which costs
nobody else anything.
"""

from __future__ import annotations

import contextlib
import resource
from dataclasses import replace
from typing import TYPE_CHECKING

from duplexd.errors import LimitError

if TYPE_CHECKING:
    from duplexd.config.daemon_file import Config
    from duplexd.limits import EngineLimits, Limits

_API_SHARE = 4  # of what is left for connections, one in so many is for the API


def raise_limit() -> int:
    """Raise the limit of open files as far as the process may; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return hard
    return soft


def shared_out(limits: Limits, config: Config, open_files: int) -> Limits:
    """`limits` with connections for which there are descriptors. Raises LimitError if the images
    and the journal leave too few.
    """
    own, nbd, api = limits.daemon, limits.nbd, limits.api
    images = 2 * len(config.volumes)
    segments = _segments(config.controller.journal_size, limits.engine)
    listening = len(config.nbd.addresses) + 1
    handshakes = api.handshakes_max + api.silent_max if config.control.tls else 0
    used = images + segments + listening + handshakes + own.descriptors_reserve
    for_api = max((open_files - used) // _API_SHARE, api.local_connections_min)
    for_nbd = open_files - used - for_api
    if for_nbd < own.connections_min:
        needed = used + api.local_connections_min + own.connections_min
        raise LimitError(
            f"the limit of open files is {open_files}, which is too low: {images} images and"
            f" {segments} journal segments need at least {needed};"
            " raise it (LimitNOFILE= of the unit, ulimit -n)"
        )
    return replace(
        limits,
        nbd=replace(nbd, connections_max=min(nbd.connections_max, for_nbd)),
        api=replace(api, connections_max=min(api.connections_max, for_api)),
    )


def too_few(limits: Limits, config: Config) -> str:
    """Why a start would end, if its process may have as many as this one; "" if it would not."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        shared_out(limits, config, most)
    except LimitError as error:
        return f"{error}. The limit is that of this process; a service may have another"
    return ""


def _segments(journal_size: int, limits: EngineLimits) -> int:
    """How many files the journal may have; as `engine/recovery/read.py` makes them."""
    size = max(journal_size // limits.journal_segments, limits.segment_bytes_min)
    return int(journal_size // min(size, limits.segment_bytes_max))

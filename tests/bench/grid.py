"""Every size of request at every depth on one and on many connections, beside nbdkit.

One short round each: a cell says where something is badly wrong, not how many percent.
"""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial
from itertools import product
from typing import TYPE_CHECKING

from duplexd.units import KIB, MIB
from tests.bench.loads import VOLUME_BYTES, Load, fill
from tests.bench.parts import Bench, Part, in_turns
from tests.bench.rows import NBDKIT, OURS, Goal, Measured, Row
from tests.bench.servers import SERVERS

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = (1, 2, 4, 8)
BLOCKS = {"512 B": 512, "4 KiB": 4 * KIB, "64 KiB": 64 * KIB, "1 MiB": MIB, "32 MiB": 32 * MIB}
DEPTHS = (1, 8, 32, 128)
IN_FLIGHT_BYTES_MAX = 256 * MIB  # of a client: fio allocates all of it
SECONDS = 0.25
GOAL = (Goal(0.3, NBDKIT),)


def cells() -> dict[str, tuple[Row, Load]]:
    """By name."""
    found = {}
    for way, (size, block), connections, depth in product(
        ("write", "read"), BLOCKS.items(), CONNECTIONS, DEPTHS
    ):
        if block * connections * depth > IN_FLIGHT_BYTES_MAX:
            continue
        load = Load(f"rand{way}", block, depth, connections)
        name = f"{size} random {way}, {connections} connections, depth {depth}"
        found[name] = Row(name, load.unit, GOAL), load
    return found


CELLS = cells()


def _measure(bench: Bench) -> dict[str, Measured]:
    names = [name for name in (OURS, NBDKIT) if name in bench.servers]
    seconds = min(SECONDS, bench.seconds)
    chosen = list(CELLS.items())[:: 16 if bench.small else 1]
    with ExitStack() as stack:
        servers = [
            stack.enter_context(SERVERS[name](bench.place(name), VOLUME_BYTES)) for name in names
        ]
        for server in servers:
            fill(server)
        works = {
            name: {server.name: partial(load.run, server, seconds) for server in servers}
            for name, (_row, load) in chosen
        }
        return in_turns(bench, works, rounds=1)


def parts() -> Iterator[Part]:
    yield Part("grid", [row for row, _load in CELLS.values()], _measure)

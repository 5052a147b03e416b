"""The legs of the tests themselves: faults strike when they should, and memory that was closed is
not used.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import pytest

from tests.support.fault_leg import FaultLeg
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from collections.abc import Callable

SIZE = 1 << 20


def read(leg: FaultLeg, offset: int, length: int) -> bytes:
    buffer = bytearray(length)
    leg.read_into(offset, memoryview(buffer))
    return bytes(buffer)


def test_closed_memory_is_not_used() -> None:
    leg = MemoryLeg(SIZE)
    leg.sync()
    leg.close()
    assert (leg.syncs, leg.closed) == (1, True)
    with pytest.raises(OSError, match="closed"):
        leg.sync()


def test_a_fault_strikes_after_so_many_calls_and_so_often() -> None:
    leg = FaultLeg(MemoryLeg(SIZE))
    leg.fail("write", errno.ENOSPC, after=2, times=1)
    outcomes = []
    for place in range(5):
        try:
            leg.write(place, b"x")
            outcomes.append(0)
        except OSError as error:
            outcomes.append(error.errno or 0)
    assert outcomes == [0, 0, errno.ENOSPC, 0, 0]
    assert read(leg, 0, 5) == b"xx\0xx"
    assert leg.calls["write"] == 5


@pytest.mark.parametrize(
    "operation",
    [
        "read_into",
        "read_cached",
        "write",
        "zero",
        "resize",
        "reserve",
        "extents",
        "write_back",
        "write_out",
        "sync",
    ],
)
def test_any_operation_can_fail_until_it_is_healed(operation: str) -> None:
    leg = FaultLeg(MemoryLeg(SIZE))

    def use(name: str) -> object:
        buffer = memoryview(bytearray(1))
        calls: dict[str, Callable[[], object]] = {
            "read_into": lambda: leg.read_into(0, buffer),
            "read_cached": lambda: leg.read_cached(0, buffer),
            "write": lambda: leg.write(0, b"x"),
            "zero": lambda: leg.zero(0, 1, False),
            "resize": lambda: leg.resize(SIZE),
            "reserve": lambda: leg.reserve(0, 1),
            "extents": lambda: leg.extents(0, 1),
            "write_back": lambda: leg.write_back(0, 1),
            "write_out": lambda: leg.write_out(0, 1),
            "sync": leg.sync,
        }
        return calls[name]()

    assert operation in leg.calls
    for name in leg.calls:
        if name == operation:
            leg.fail(name)
    for _ in range(3):
        with pytest.raises(OSError) as caught:
            use(operation)
        assert (caught.value.errno, caught.value.filename) == (errno.EIO, "memory")
    for name in leg.calls:
        if name != operation:
            use(name)
    leg.heal()
    use(operation)


def test_torn_write_puts_down_its_first_half() -> None:
    leg = FaultLeg(MemoryLeg(SIZE))
    leg.tear(errno.EIO, after=1)
    leg.write(0, b"whole")
    with pytest.raises(OSError):
        leg.write(10, b"abcdefgh")
    leg.write(20, b"whole")
    assert read(leg, 0, 25) == b"whole\0\0\0\0\0abcd\0\0\0\0\0\0whole"


def test_delay_is_taken_before_each_operation() -> None:
    delayed: list[str] = []
    leg = FaultLeg(MemoryLeg(SIZE), delayed.append)
    leg.write(0, b"x")
    leg.sync()
    assert delayed == ["write", "sync"]

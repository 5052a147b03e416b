"""A request costs no more calls than it did: of functions of duplexd, and of the system.

A call more for each request is not seen by any other test, and costs every user. Where it is worth
it, `python -m tests.bench.counts` writes the kept figures anew.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from tests.bench.counts import Count, Counts, kept, python_calls, system_calls

if TYPE_CHECKING:
    from pathlib import Path

GROWTH_MAX = 1.10
RUNS_MAX = 3  # of strace; a machine that is busy adds calls, but not to the same figure each time


def grown(counts: Counts, before: dict[str, float]) -> dict[str, str]:
    """Those that are more than 10 % above what is kept; a line for each, with a batch's calls."""
    return {
        name: f"{name}: {count.each} calls a request, {before[name]} before: "
        + ", ".join(f"{call} {number}" for call, number in count.batch.most_common())
        for name, count in counts.items()
        if name in before and count.each > before[name] * GROWTH_MAX
    }


async def test_python_calls_of_a_request(tmp_path: Path) -> None:
    found = grown(await python_calls(tmp_path), kept()["python"])
    assert not found, "\n".join(found.values())


def test_system_calls_of_a_request(tmp_path: Path) -> None:
    before, found = kept()["system"], {"": ""}
    for run in range(RUNS_MAX):
        directory = tmp_path / str(run)
        directory.mkdir()
        found = grown(system_calls(directory), before)
        if not found:
            return
        before = {name: before[name] for name in found}
    raise AssertionError("\n".join(found.values()))


def test_one_call_more_in_nine_is_too_many() -> None:
    counts = {"write, depth 1": Count(10.0, Counter({"pwritev": 8, "fstat": 2}))}
    assert grown(counts, {"write, depth 1": 9.1}) == {}
    assert grown(counts, {"write, depth 1": 9.0}) == {
        "write, depth 1": "write, depth 1: 10.0 calls a request, 9.0 before: pwritev 8, fstat 2"
    }

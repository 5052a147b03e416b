"""Sixteen pairs on three controllers, dependent writers over them all: a group suspend is one point. Other orders of the same commands are not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.canary.record import Placement
from tests.support.cluster import THREE, Cluster, spread
from tests.support.group_writers import GroupWriters

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLACEMENT = Placement(writers=8, volumes=16, slots=2)
NAIVE_SUSPENDS = 8


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, spread(PLACEMENT.volumes)) as cluster:
        yield cluster


async def resync(cluster: Cluster) -> None:
    """All back to DUPLEX."""
    asked = [asyncio.to_thread(resync_one, cluster, name) for name in THREE]
    await asyncio.gather(*asked)


def resync_one(cluster: Cluster, name: str) -> None:
    lines = cluster.stream(name, "POST", "/v1/resync", {"targets": ["here"], "wait": True})
    assert lines[-1]["ok"], lines


async def test_suspending_controller_after_controller_breaks_dependencies(cluster: Cluster) -> None:
    broken = 0
    async with GroupWriters(cluster, cluster.members, PLACEMENT) as writers:
        for _ in range(NAIVE_SUSPENDS):
            await writers.write(300)

            async def naive() -> None:
                for name in THREE:
                    await asyncio.to_thread(cluster.ask, name, "POST", "/v1/suspend", {"targets": ["here"]})

            _, taken = await writers.during(naive())
            findings = await writers.grade(taken)
            assert (findings.torn, findings.missing, findings.too_new) == (0, 0, 0), findings
            broken += findings.broken
            await resync(cluster)
    assert broken > NAIVE_SUSPENDS, "the checker, or the writers, would not see a group that is not cut at one point"
    print(f"{broken} broken dependencies in {NAIVE_SUSPENDS} suspends, one controller after the other")

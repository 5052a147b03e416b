"""Cycles of a directed graph, each shown by the shortest way round."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

Graph = dict[str, set[str]]


def cycles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """A shortest cycle through each node that lies on one, the first node again at the end.

    Cycles of the same nodes are listed once, short ones first. [] if there is none.
    """
    found: dict[frozenset[str], list[str]] = {}
    for node in sorted(graph):
        way = _way_round(graph, node)
        if way:
            found.setdefault(frozenset(way), way)
    return sorted(found.values(), key=len)


def _way_round(graph: Mapping[str, set[str]], start: str) -> list[str]:
    """The shortest way from a node back to itself."""
    came_from: dict[str, str] = {}
    ahead = deque([start])
    while ahead:
        node = ahead.popleft()
        for following in sorted(graph.get(node, ())):
            if following == start:
                way = [start, node]
                while way[-1] != start:
                    way.append(came_from[way[-1]])
                return way[::-1]
            if following not in came_from:
                came_from[following] = node
                ahead.append(following)
    return []

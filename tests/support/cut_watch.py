"""Polls what several controllers show of their groups' cuts, and detects contradictions."""

from __future__ import annotations

import asyncio
import threading
from collections import defaultdict
from http.client import HTTPException
from typing import TYPE_CHECKING

from duplexd.core import cut_states as votes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from tests.support.cluster import Cluster

PAUSE_SECONDS = 0.1  # what must not be seen would stay so; each look costs all controllers


class Sights:
    """The observations, in the order of the requests, and their contradictions.

    Once one member has shown `consistent`, all were READY before: whatever another shows later is
    `ready` or `consistent`, and what it showed before was not `void`. What a member showed as
    `consistent` or `void` stays so.
    """

    def __init__(self) -> None:
        self.states: dict[str, dict[str, str]] = defaultdict(
            dict
        )  # cut: {controller: the state it showed last}
        self.contradictions: list[str] = []

    def saw(self, controller: str, shown: Mapping[str, str]) -> None:
        """A controller's cuts and their states. A cut that it does not show is in state NONE."""
        for cut in {**self.states, **shown}:
            state = shown.get(cut, votes.NONE)
            if (
                cut in shown
                or controller in self.states[cut]
                or votes.CONSISTENT in self.states[cut].values()
            ):
                self._check(cut, controller, state)
                self.states[cut][controller] = state

    def _check(self, cut: str, controller: str, state: str) -> None:
        seen = self.states[cut]
        before = seen.get(controller, votes.NONE)
        others = {name: other for name, other in seen.items() if name != controller}
        if before in {votes.VOID, votes.CONSISTENT} and state != before:
            self.contradictions.append(f"cut {cut}: {controller} showed {before!r}, then {state!r}")
        if votes.CONSISTENT in others.values() and state not in {votes.READY, votes.CONSISTENT}:
            self.contradictions.append(f"cut {cut}: {controller} shows {state!r} after {others}")
        if state == votes.CONSISTENT and votes.VOID in others.values():
            self.contradictions.append(f"cut {cut}: {controller} shows {state!r} after {others}")


class CutWatch:
    """Asks one controller after the other in a thread of its own, until the `with` ends. Daemons
    may be dead meanwhile.

    Cuts that a controller made alone are no concern of the others.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cut watch")
        self.sights = Sights()
        self.rounds = 0
        self.error: Exception | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        if self.error is not None:
            raise self.error

    async def looked_again(self) -> None:
        """Return once every controller that lives was asked again."""
        rounds = self.rounds
        while self.rounds < rounds + 2:
            assert self._thread.is_alive(), self.error
            await asyncio.sleep(PAUSE_SECONDS)

    def _look(self) -> None:
        for name, daemon in self._cluster.daemons.items():
            try:
                status, answer = daemon.request("GET", "/v1/cuts")
            except (OSError, HTTPException):
                continue  # it is dead at the moment
            if status == 200:
                alone = {
                    cut["id"]
                    for cut in answer["cuts"]
                    if cut["state"] == votes.CONSISTENT and not cut["members"]
                }
                self.sights.saw(
                    name,
                    {cut["id"]: cut["state"] for cut in answer["cuts"] if cut["id"] not in alone},
                )

    def _run(self) -> None:
        try:
            while not self._ended.wait(PAUSE_SECONDS):
                self._look()
                self.rounds += 1
        except Exception as error:  # noqa: BLE001 - raised again in the test
            self.error = error

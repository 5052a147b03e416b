"""What the API answers while there is no controller yet: that the daemon is starting, and how far.

The control socket is the first thing that a daemon has, not the last. A start may take minutes, or
wait for a disk that hangs, and an operator who gets no answer then kills it and begins again. There
is no half-made controller for that: until it exists, all connections have the application that
`Starting.application` makes; `ControlServer.serve` puts the real one in its place. Both have the
same routes and roles, so what is not found or forbidden is so from the beginning.

Whatever needs the controller is refused with 503 and exit code 7, as by a daemon that does not run:
a script that can wait for one can wait for the other.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest

import duplexd
from duplexd.api import metrics
from duplexd.api.openapi import document
from duplexd.api.responses import JSON_TYPE, answer
from duplexd.api.routes import METRICS_TYPE, ROUTES
from duplexd.api.routing import dispatching
from duplexd.api.scrape import Collected
from duplexd.api.wire import Answer
from duplexd.errors import UnreachableError
from duplexd.limits import GROUP_PROTOCOL

if TYPE_CHECKING:
    from duplexd.api.http_request import Call
    from duplexd.api.loop_lag import LoopLag
    from duplexd.api.routing import Application, RouteEntry
    from duplexd.json_object import Json


class Starting:
    """How far the start of a controller is; `at` is called whenever that changes, in any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = "starting"
        self.fraction = 0.0

    def at(self, text: str, fraction: float | None = None) -> None:
        """What the start is at: "recovering, 40 % (...)". The fraction never becomes less."""
        self.text = text
        if fraction is not None:
            self.fraction = max(self.fraction, fraction)

    def application(self, lag: LoopLag) -> Application:
        """What answers requests until the controller does."""

        async def respond(entry: RouteEntry, call: Call) -> Answer:
            if entry.path == "/v1/status" and not call.query.get("target"):
                return answer(self.status())
            if entry.path == "/healthz":
                health = {"status": "starting", "controller": self.name}
                return answer({**health, "starting": self._shown()})
            if entry.path == "/metrics":
                return Answer(200, METRICS_TYPE, self._metrics(lag))
            if entry.path == "/openapi.json":
                return Answer(200, JSON_TYPE, json.dumps(document(ROUTES)).encode())
            raise UnreachableError(f"the daemon is not ready: {self.text}; try again")

        return dispatching(ROUTES, respond)

    def status(self) -> Json:
        """A status of which nothing is known but the name; `starting` says so."""
        return {
            "controller": {
                "name": self.name,
                "sequence": 0,
                "synced": 0,
                "failed": None,
                "starting": self._shown(),
                "version": duplexd.__version__,
                "group_protocol": GROUP_PROTOCOL,
                "nbd": [],
                "journal": {"used_bytes": 0, "size_bytes": 0, "oldest_sequence": 0},
            },
            "volumes": [],
            "groups": [],
            "leases": [],
            "cuts": [],
        }

    def _shown(self) -> Json:
        return {"text": self.text, "fraction": round(self.fraction, 3)}

    def _metrics(self, lag: LoopLag) -> bytes:
        """A few lines: formatted at once, in the loop."""
        registry = CollectorRegistry()
        registry.register(Collected(list(metrics.process_metrics(lag, self.fraction))))
        return generate_latest(registry)

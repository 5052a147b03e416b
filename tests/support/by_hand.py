"""A coordinator driven by the test.

One request at a time, in any order that a test wants, wrong ones included.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.daemon import UnixConnection

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from tests.support.cluster import Cluster


class ByHand:
    """One cut over all controllers of the cluster.

    Leaving the `with` closes the connections of its holds.
    """

    def __init__(
        self, cluster: Cluster, targets: Sequence[str] = ("here",), hold_s: float = HOLD_SECONDS_MAX
    ) -> None:
        self._cluster = cluster
        self._targets = list(targets)
        self._hold_s = hold_s
        self._streams: dict[str, UnixConnection] = {}
        self.cut_id = secrets.token_hex(8)
        self.leases: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams.values():
            stream.close()

    def close(self, controller: str) -> None:
        """Close its gates."""
        stream = self._streams[controller] = UnixConnection(
            self._cluster[controller].files.control_socket
        )
        body = {"targets": self._targets, "hold_s": self._hold_s, "cut": self.cut_id}
        stream.request(
            "POST", "/v1/quiesce", json.dumps(body), {"Content-Type": "application/json"}
        )
        response = stream.getresponse()
        assert response.status == 200, response.read()
        self.leases[controller] = json.loads(response.readline())["lease"]

    def renew(self, controller: str, hold_s: float) -> None:
        """Extend its hold to so many seconds from now."""
        lease = self.leases[controller]
        body = {"fence": lease["fence"], "hold_s": hold_s}
        self.leases[controller] = self._cluster.ask(
            controller, "POST", f"/v1/leases/{lease['id']}/renew", body
        )

    def cut(self, controller: str) -> dict[str, Any]:
        """Make its cut."""
        more = {"tag": "by hand", "group": "by hand", "members": list(self._cluster.daemons)}
        return self._ask(controller, "", self._owner(controller) | more)

    def open(self, controller: str) -> dict[str, Any]:
        """Open its gates; its vote."""
        return self._ask(controller, "/open", self._owner(controller))

    def agree(self, controller: str) -> dict[str, Any]:
        """Send AGREE."""
        return self._ask(controller, "/agree", {})

    def abort(self, controller: str) -> dict[str, Any]:
        """Send ABORT; its vote."""
        return self._ask(controller, "/abort", {})

    def refused(self, controller: str, verb: str) -> int:
        """The status of a command (cut, open, agree) that must fail."""
        more = (
            {"tag": "", "group": "by hand", "members": list(self._cluster.daemons)}
            if verb == "cut"
            else {}
        )
        body = {} if verb == "agree" else self._owner(controller) | more
        path = f"/v1/cuts/{self.cut_id}" + ("" if verb == "cut" else f"/{verb}")
        status, _ = self._cluster[controller].request("POST", path, body)
        assert status >= 400, f"{controller} took a late {verb}"
        return status

    def gone(self, controller: str) -> bool:
        """Whether its hold has ended."""
        leases = self._cluster.ask(controller, "GET", "/v1/status")["leases"]
        return self.leases[controller]["id"] not in {lease["id"] for lease in leases}

    def _owner(self, controller: str) -> dict[str, Any]:
        lease = self.leases[controller]
        return {"lease": lease["id"], "fence": lease["fence"]}

    def _ask(self, controller: str, verb: str, body: dict[str, Any]) -> dict[str, Any]:
        return self._cluster.ask(controller, "POST", f"/v1/cuts/{self.cut_id}{verb}", body)

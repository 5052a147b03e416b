"""Separate hosts for daemons and clients: network namespaces, with delay and loss between them
(`relay.py`). Needs iproute2 and util-linux.

    with Network(["client", "alpha"], delay_s=0.005, loss=0.02, seed=1) as network:
        subprocess.Popen([*network.inside("alpha"), "some-server", network.address("alpha")])

Nothing remains after the `with`, nor if this process dies within it: all of its processes end with
a pipe from here. Without root it is made in a user namespace.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.support import relay
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self


class Network:
    """`delay_s` is what a frame takes from one host to any other, one way; `loss` the probability
    that it never arrives.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        delay_s: float,
        loss: float,
        seed: int,
        as_root: bool | None = None,
    ) -> None:
        self._hosts = list(hosts)
        self._plan = json.dumps(
            {"hosts": self._hosts, "delay_s": delay_s, "loss": loss, "seed": seed}
        )
        self._as_root = os.geteuid() == 0 if as_root is None else as_root
        self._pids: dict[str, int] = {}
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        user = [] if self._as_root else ["--user", "--map-root-user"]
        self._process = subprocess.Popen(
            [
                "unshare",
                *user,
                "--net",
                "--",
                sys.executable,
                "-m",
                "tests.support.relay",
                self._plan,
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            cwd=ROOT,
        )
        try:
            self._pids = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        process = self._process
        if process is None:
            return
        process.communicate(timeout=PATIENCE_SECONDS)

    def address(self, host: str) -> str:
        """Its IPv4 address."""
        return relay.address(self._hosts.index(host))

    def inside(self, host: str) -> list[str]:
        """What to put before a command so that it runs on this host, as a child of ours and with
        our files.
        """
        user = [] if self._as_root else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", str(self._pids[host]), *user, "--net", "--"]

    def cut_off(self, host: str) -> None:
        """Partition it from all other hosts."""
        self._ask(f"cut {host}")

    def join(self, host: str) -> None:
        """Undo `cut_off`."""
        self._ask(f"join {host}")

    def frames(self) -> dict[str, int]:
        """How many were `passed` on and `lost` so far."""
        return self._ask("stats")

    def _ask(self, command: str) -> dict[str, int]:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the relay ended: {self._process.wait(PATIENCE_SECONDS)}"
        answer = json.loads(line)
        assert isinstance(answer, dict)
        return answer

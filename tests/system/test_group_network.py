"""Three controllers and a client, each in its own network namespace, with delay, loss and
partitions between them.

The client's host has the writers (NBD over TCP) and the coordinator (HTTP over TLS). Every frame
takes 5 ms from one host to another, so that a round trip is 10 ms, and one in fifty is lost. The
control sockets, which are files, let the test look at each daemon past the network.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.certificates import Certificates
from tests.support.cluster import CONTROL_PORT, THREE, Cluster, Place, spread
from tests.support.cut_watch import CutWatch
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment
from tests.support.netns import Network

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.timeout(1800)

CLIENT = "client.example"
DELAY_S = 0.005
LOSS = 0.02
VOLUMES = 16
HOLD_MAX_S = HOLD_SECONDS_MAX  # a frame that is lost twice costs most of a second
SHORT_HOLD_MAX_S = 2.0
SUSPENDS_MAX = 20  # for each time that trouble is to strike: it may come too late
RECORDS = 100  # at least, between two suspends
TIMES = pytest.mark.parametrize("times", [1, pytest.param(8, marks=pytest.mark.long)])


@pytest.fixture
def network() -> Iterator[Network]:
    seed = int(os.environ.get("DUPLEXD_TEST_SEED", "0")) or int.from_bytes(os.urandom(4), "little")
    print(f"DUPLEXD_TEST_SEED={seed}")
    with Network(["client", *THREE], DELAY_S, LOSS, seed) as network:
        yield network


@pytest.fixture
def cluster(tmp_path: Path, network: Network) -> Iterator[Cluster]:
    """Commanded over TLS."""
    certificates = Certificates(tmp_path)
    certificates.renew_server(*(network.address(name) for name in THREE))
    files = {
        "certificate": certificates.certificate,
        "key": certificates.key,
        "client_ca": certificates.client_ca,
    }
    lines = [f'{key} = "{path}"' for key, path in files.items()]
    places = {}
    for name in THREE:
        listen = f'listen = ["{network.address(name)}:{CONTROL_PORT}"]'
        tls = "\n".join(["[control.tls]", listen, f'operate = ["{CLIENT}"]', *lines])
        places[name] = Place(network.address(name), network.inside(name), tls)
    with Cluster(tmp_path, spread(VOLUMES), places=places) as cluster:
        client = certificates.client(CLIENT)
        cluster.remote = (
            f'certificate = "{client}"\nkey = "{client}"\nca = "{certificates.client_ca}"'
        )
        yield cluster


class Run:
    """`tests.support.group_run` on the client's host."""

    def __init__(
        self, network: Network, cluster: Cluster, hold_max_s: float, suspends: int, naive: int = 0
    ) -> None:
        groups = cluster.write_groups({"db": cluster.members}, hold_max_s, remote=cluster.remote)
        members = [
            [*member, str(cluster.uri(member)), str(cluster.secondary(member))]
            for member in cluster.members
        ]
        path = cluster.directory / "plan.json"
        path.write_text(
            json.dumps(
                {
                    "members": members,
                    "groups": str(groups),
                    "suspends": suspends,
                    "naive": naive,
                    "records": RECORDS,
                }
            )
        )
        command = [
            *network.inside("client"),
            sys.executable,
            "-m",
            "tests.support.group_run",
            str(path),
        ]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
        )

    def __enter__(self) -> Iterator[dict[str, Any]]:
        return self._lines()

    def __exit__(self, *_: object) -> None:
        with self._process:
            self._process.kill()

    def _lines(self) -> Iterator[dict[str, Any]]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            yield json.loads(line)
        assert self._process.wait(PATIENCE_SECONDS) == 0


def check(cluster: Cluster, report: dict[str, Any]) -> str:
    """The outcome of a suspend; all members agree on it."""
    if report["cut"]:
        states = set(cluster.cut_states(report["cut"]).values())
        assert states == {"consistent"} or states <= {"", "void"}, (report, states)
        assert report["outcome"] in states, (report, states)
        assert report.get("verdict") in {None, report["outcome"]}, report
    if report["outcome"] == "consistent":
        assert report["faults"] == 0, report
    return str(report["outcome"] or "nothing cut")


@TIMES
def test_suspends_over_a_slow_and_lossy_network_are_consistent(
    network: Network, cluster: Cluster, times: int
) -> None:
    suspends, naive = 10 if times == 1 else 25 * times, 5
    outcomes: list[str] = []
    broken = 0
    with CutWatch(cluster) as watch, Run(network, cluster, HOLD_MAX_S, suspends, naive) as lines:
        for report in lines:
            if report["event"] == "suspending":
                continue
            if report["outcome"] == "naive":
                broken += report["broken"]
            else:
                outcomes.append(check(cluster, report))
    frames = network.frames()
    print(
        f"{suspends} suspends, {outcomes.count('consistent')} consistent; {broken}"
        f" broken by {naive} naive ones; {frames}"
    )
    assert len(outcomes) == suspends
    assert outcomes.count("consistent") > suspends // 2
    assert broken > 0
    assert frames["lost"] > frames["passed"] * LOSS / 2, "that was no lossy network"
    assert not watch.sights.contradictions


def wait_held(cluster: Cluster, held: bool, names: list[str]) -> bool:
    """True once one of these holds something, or none does.

    False if the former has not come for a while; the latter must.
    """
    deadline = time.monotonic() + (5.0 if held else PATIENCE_SECONDS)
    while any(cluster.ask(name, "GET", "/v1/status")["leases"] for name in names) != held:
        if time.monotonic() > deadline:
            assert held, "a gate is still closed"
            return False
        time.sleep(0.002)
    return True


class Trouble:
    """Strikes once the gates begin to close; ends when no gate is closed."""

    def __init__(self, network: Network, cluster: Cluster, seed: int) -> None:
        self._network = network
        self._cluster = cluster
        self._random = random.Random(seed)

    def strike(self, fate: str) -> bool:
        """A host is partitioned and joined again, or a member is killed and restarted.

        Whether gates were closed then.
        """
        if not wait_held(self._cluster, True, list(THREE)):
            return False
        time.sleep(self._random.uniform(0, 0.06))
        if fate == "client cut off":
            self._cut_off("client")
        elif fate == "member cut off":
            self._cut_off(self._random.choice(THREE))
        else:
            self._kill(self._random.choice(THREE))
        return True

    def _cut_off(self, host: str) -> None:
        self._network.cut_off(host)
        try:
            wait_held(self._cluster, False, list(THREE))
        finally:
            self._network.join(host)

    def _kill(self, name: str) -> None:
        self._cluster[name].kill()
        wait_held(self._cluster, False, [other for other in THREE if other != name])
        self._cluster[name].start()


@TIMES
def test_partitions_and_killed_members_during_suspends(
    network: Network, cluster: Cluster, times: int
) -> None:
    """Every gate opens in time; afterwards all members report the same, correct outcome."""
    fates = ["client cut off", "member cut off", "member killed"] * 2 * times
    trouble = Trouble(network, cluster, times)
    struck = False
    with (
        CutWatch(cluster) as watch,
        Run(network, cluster, SHORT_HOLD_MAX_S, SUSPENDS_MAX * len(fates)) as lines,
    ):
        for report in lines:
            if report["event"] == "suspending":
                struck = trouble.strike(fates[0])
                continue
            print(f"{fates[0]}: {check(cluster, report)}{'' if struck else ', before it struck'}")
            if struck and not fates[1:]:
                break
            fates = fates[1:] if struck else fates
        assert struck
        assert len(fates) == 1
    assert not watch.sights.contradictions


def test_the_network_needs_no_root(network: Network) -> None:
    """Nothing of it remains. Without root it is made in a user namespace."""
    ping = "import socket, sys; print(socket.create_server((sys.argv[1], 0)).getsockname()[0])"
    with Network(["one", "two"], DELAY_S, 0.0, 1, as_root=False) as other:
        for host in ("one", "two"):
            command = [*other.inside(host), sys.executable, "-c", ping, other.address(host)]
            assert subprocess.check_output(command, text=True).strip() == other.address(host)

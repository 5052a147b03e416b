"""`duplexctl canary` on real daemons: it grades every suspend, detects broken cuts, and never
writes to foreign data.
"""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import pytest

from duplexd.canary.epoch import WRITERS
from duplexd.canary.record import MAGIC, RECORD_BYTES, parse
from duplexd.client import Client
from duplexd.nbd_aio.connecting import connect
from tests.support.by_hand import ByHand
from tests.support.certificates import Certificates
from tests.support.cluster import THREE, Cluster, Member
from tests.support.commands import suspend
from tests.support.daemon import ROOT, environment, free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.daemon import Daemon

    Json = dict[str, Any]

WAIT_SECONDS = 120.0  # for what must come, however busy the machine is
SUSPENDS = 5
SLOTS = 128  # on each volume
RATE = "2000"
HOLD_SECONDS = 10.0  # no hold is lost because the machine hangs for a while


class CanaryProcess:
    """A `duplexctl --json canary ...` process and its output so far; a context manager."""

    def __init__(self, *arguments: str) -> None:
        command = [
            sys.executable,
            "-m",
            "duplexd.duplexctl.cli",
            "--json",
            "canary",
            "--rate",
            RATE,
            *arguments,
        ]
        self.process = subprocess.Popen(
            command, env=environment(), cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        self.reports: list[Json] = []
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        try:
            self.wait("running")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.reports.append(json.loads(line))

    def wait(self, event: str, count: int = 1) -> Json:
        """The `count`th report of that kind."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            found = [report for report in list(self.reports) if report.get("event") == event]
            if len(found) >= count:
                return found[count - 1]
            assert self.process.poll() is None, self.reports
            time.sleep(0.02)
        raise AssertionError(f"no {event} report: {self.reports}")

    def verdict_on(self, cut: str) -> Json:
        """Its report on a cut."""
        deadline = time.monotonic() + WAIT_SECONDS
        while time.monotonic() < deadline:
            for report in list(self.reports):
                if report.get("cut") == cut:
                    return report
            time.sleep(0.02)
        raise AssertionError(f"nothing was said of {cut}: {self.reports}")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_SECONDS)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path, {name: ["data", "canary"] for name in THREE}) as cluster:
        yield cluster


@pytest.fixture
def groups(cluster: Cluster) -> str:
    path = cluster.write_groups({"db": [Member(name, "data") for name in THREE]}, HOLD_SECONDS)
    path.write_text(
        path.read_text() + f"canary = {json.dumps([f'{name}:canary' for name in THREE])}\n"
    )
    return str(path)


def told(cluster: Cluster, cut: str) -> list[Json]:
    """What each controller shows of a cut, once all have its grade."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        shown = [cluster.ask(name, "GET", f"/v1/cuts/{cut}") for name in THREE]
        if all(each["canary"] for each in shown):
            return shown
        time.sleep(0.02)
    raise AssertionError(f"not all controllers have a grade of {cut}")


def wait_full(cluster: Cluster) -> None:
    """Until every slot holds a record."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        images = [cluster[name].files.primary("canary").read_bytes() for name in THREE]
        if all(
            image[at : at + len(MAGIC)] == MAGIC
            for image in images
            for at in range(0, SLOTS * RECORD_BYTES, RECORD_BYTES)
        ):
            return
        time.sleep(0.05)
    raise AssertionError("the canary does not go round")


def wait_written(cluster: Cluster, name: str) -> None:
    """Until the canary has written to a controller's volume again: more than what had waited
    there.
    """
    before = cluster.ask(name, "GET", "/v1/status")["controller"]["sequence"]
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        if cluster.ask(name, "GET", "/v1/status")["controller"]["sequence"] > before + 20:
            return
        time.sleep(0.01)
    raise AssertionError(f"nothing is written to {name}")


def oldest_record(image: Path) -> int:
    """Where the record of the first writer with the lowest number is: one that others have been
    built on.
    """
    data = image.read_bytes()
    found = [
        (parse(data[at : at + RECORD_BYTES]), at)
        for at in range(0, SLOTS // WRITERS * RECORD_BYTES, RECORD_BYTES)
    ]
    return min((record.number, at) for record, at in found if record is not None)[1]


def check_void_for_ever(cluster: Cluster, cut: str) -> None:
    """On all members, after a restart too."""
    for _ in range(2):
        for shown in told(cluster, cut):
            assert (shown["state"], shown["verdict"], shown["canary"]["consistent"]) == (
                "void",
                "void",
                False,
            ), shown
        cluster["beta"].kill()
        cluster["beta"].start()


async def test_group_suspends_are_graded_in_status_events_and_metrics(
    cluster: Cluster, groups: str
) -> None:
    records = 0
    report: Json = {}
    with CanaryProcess("--groups", groups, "db") as canary:
        async with Client.open(groups) as client:
            for number in range(1, SUSPENDS + 1):
                result = await client.suspend("db")
                assert result.verdict == "consistent", result
                report = await asyncio.to_thread(canary.wait, "graded", number)
                assert report["cut"] == result.cut
                assert report["consistent"], report
                grade = {"consistent": True, "records": report["records"], "detail": ""}
                records += report["records"]
                assert [
                    shown["canary"] for shown in await asyncio.to_thread(told, cluster, result.cut)
                ] == [grade] * 3
                (volume,) = cluster.ask("beta", "GET", "/v1/status?target=canary")["volumes"]
                assert volume["secondary"]["cut"]["canary"] == grade
                assert volume["secondary"]["cut"]["verdict"] == "consistent"
                assert (await client.resync("db", wait=True)).ok
                await asyncio.to_thread(wait_full, cluster)
        assert report["records"] == len(THREE) * SLOTS
        assert canary.stop() == 0
    for name in THREE:
        _, metrics = cluster[name].request("GET", "/metrics")
        assert f'duplexd_canary_grades_total{{result="consistent"}} {SUSPENDS}.0' in metrics
        assert 'duplexd_canary_grades_total{result="broken"} 0.0' in metrics
        assert f"duplexd_canary_records_total {records}.0" in metrics


def test_a_coordinator_that_opens_too_early_is_detected_and_its_cut_stays_void(
    cluster: Cluster, groups: str
) -> None:
    """Every controller votes READY and gets AGREE: only the order of the commands was wrong."""
    with (
        CanaryProcess("--groups", groups, "db") as canary,
        ByHand(cluster, hold_s=HOLD_SECONDS) as hand,
    ):
        for number, name in enumerate(THREE):
            hand.close(name)
            hand.cut(name)
            assert hand.open(name)["state"] == "ready"
            for each in (
                *THREE[number:],
                *THREE[:number],
            ):  # here first: what is written elsewhere after that depends on it
                wait_written(cluster, each)
        for name in THREE:
            assert hand.agree(name)["state"] in {"consistent", "void"}
        report = canary.verdict_on(hand.cut_id)
        assert report["event"] == "graded"
        assert not report["consistent"], report
        assert "broken: record" in report["detail"]
        told(cluster, hand.cut_id)
        _, metrics = cluster["alpha"].request("GET", "/metrics")
        assert 'duplexd_canary_grades_total{result="broken"} 1.0' in metrics
        assert canary.stop() == 9
    check_void_for_ever(cluster, hand.cut_id)


async def test_a_lost_record_on_one_secondary_is_detected(cluster: Cluster, groups: str) -> None:
    with CanaryProcess("--groups", groups, "db") as canary:
        await asyncio.to_thread(wait_full, cluster)
        async with Client.open(groups) as client:
            canary.process.send_signal(signal.SIGSTOP)
            result = await client.suspend("db")
            assert result.verdict == "consistent"
            secondary = cluster.secondary(Member("gamma", "canary"))
            place = oldest_record(secondary)
            with secondary.open("r+b") as image:
                image.seek(place)
                image.write(bytes(RECORD_BYTES))
            canary.process.send_signal(signal.SIGCONT)
            report = await asyncio.to_thread(canary.verdict_on, result.cut)
        await asyncio.to_thread(told, cluster, result.cut)
        assert not report["consistent"]
        assert f"on gamma:canary at {place}" in report["detail"]
    await asyncio.to_thread(check_void_for_ever, cluster, result.cut)


async def test_the_canary_survives_the_kill_of_a_controller(cluster: Cluster, groups: str) -> None:
    with CanaryProcess("--groups", groups, "db") as canary:
        async with Client.open(groups) as client:
            for number in range(1, 3):
                cluster["alpha"].kill()
                await asyncio.to_thread(canary.wait, "interrupted", number)
                await asyncio.to_thread(cluster["alpha"].start)
                await asyncio.to_thread(canary.wait, "running", number + 1)
                result = await client.suspend("db")
                report = await asyncio.to_thread(canary.verdict_on, result.cut)
                assert (report["event"], report["consistent"]) == ("graded", True), report
                assert (await client.resync("db", wait=True)).ok
        assert {report["event"] for report in canary.reports} == {
            "running",
            "interrupted",
            "graded",
        }
        assert canary.stop() == 0


async def test_a_volume_with_foreign_data_is_not_written_to(cluster: Cluster, groups: str) -> None:
    async with connect(cluster.uri(Member("beta", "canary"))) as nbd:
        await nbd.write(512 * 1024 + 4096, b"somebody's data")
    before = [cluster[name].files.primary("canary").read_bytes() for name in THREE]
    refused = run("--groups", groups, "db")
    assert refused.returncode == 5
    assert "beta:canary holds other data than a canary's records at byte 528384" in refused.stderr
    assert [cluster[name].files.primary("canary").read_bytes() for name in THREE] == before


def test_a_group_without_reserved_volumes_gets_an_error_that_says_what_to_add(
    cluster: Cluster,
) -> None:
    groups = cluster.write_groups({"db": [Member(name, "data") for name in THREE]})
    refused = run("--groups", str(groups), "db")
    assert refused.returncode == 6
    assert 'canary = ["alpha:canary", "beta:canary", "gamma:canary"]' in refused.stderr


def test_an_observer_is_refused_at_once_and_nothing_is_written(
    tmp_path: Path, make_files: Callable[..., Any], start_daemon: Callable[..., Daemon]
) -> None:
    certificates, port = Certificates(tmp_path), free_port()
    files = make_files(
        volumes={"data": "1MiB", "canary": "1MiB"},
        extra=certificates.toml(port, ("backup",), ("monitor",)),
    )
    daemon = start_daemon(files)
    groups = tmp_path / "groups.toml"
    groups.write_text(
        f'[controllers.test]\nurl = "https://localhost:{port}"\nnbd = "unix:{files.nbd_socket}"\n'
        f'certificate = "{certificates.client("monitor")}"\nca = "{certificates.client_ca}"\n'
        '[groups.db]\nmembers = ["test:data"]\ncanary = ["test:canary"]\n'
    )
    refused = run("--groups", str(groups), "db")
    assert (refused.returncode, refused.stdout) == (4, "")
    assert (
        "client certificate 'monitor' has the role observe, this needs the role operate"
        in refused.stderr
    )
    assert not any(files.primary("canary").read_bytes())
    assert daemon.request("GET", "/v1/cuts")[1] == {"cuts": []}


async def test_test_volumes_of_one_controller_are_written_to_on_request(
    make_files: Callable[..., Any], start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(
        make_files(
            volumes={"data": "1MiB", "wal": "2MiB"}, groups={"db": ["data", "wal"]}, mode="async"
        )
    )
    async with connect(daemon.files.uri("wal")) as nbd:
        await nbd.write(0, b"\xa5" * 65536)
    with CanaryProcess("--socket", str(daemon.files.control_socket), "--overwrite", "db") as canary:
        result = await suspend(daemon, "db")
        report = await asyncio.to_thread(canary.verdict_on, result["cut"])
        assert (report["event"], report["consistent"]) == ("graded", True), report
        assert canary.stop() == 0


def test_volumes_of_one_controller_are_not_written_to_without_a_request(daemon: Daemon) -> None:
    refused = run("--socket", str(daemon.files.control_socket), "data")
    assert refused.returncode == 2
    assert str(ROOT / "docs" / "canary.md") in refused.stderr


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """A canary that refuses to start."""
    command = [sys.executable, "-m", "duplexd.duplexctl.cli", "canary", *arguments]
    return subprocess.run(
        command,
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )

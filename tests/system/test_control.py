"""The control socket of a real daemon."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from duplexd.api.models.base import Problem
from duplexd.api.models.cut_model import Suspended
from duplexd.api.models.line_model import (
    Event,
    Held,
    HoldEnded,
    ResyncDone,
    ResyncStarted,
    Verified,
)
from duplexd.api.models.status_model import Status
from tests.support.daemon import UnixConnection

if TYPE_CHECKING:
    import http.client
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles


@pytest.fixture
def pair_daemon(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Daemon:
    files = make_files(
        volumes={"data": "8MiB", "wal": "8MiB", "alone": "4MiB"}, groups={"db": ["data", "wal"]}
    )
    return start_daemon(files)


def hold(
    daemon: Daemon, hold_s: float = 10.0
) -> tuple[UnixConnection, http.client.HTTPResponse, str]:
    connection = UnixConnection(daemon.files.control_socket)
    connection.request("POST", "/v1/quiesce", json.dumps({"targets": ["db"], "hold_s": hold_s}))
    answer = connection.getresponse()
    assert answer.status == 200, answer.read()
    return connection, answer, Held.model_validate_json(answer.readline()).lease.id


def status(daemon: Daemon) -> Status:
    code, body = daemon.request("GET", "/v1/status")
    assert code == 200
    return Status.model_validate(body)


def test_the_status_matches_its_model_in_every_state(pair_daemon: Daemon) -> None:
    first = status(pair_daemon)
    assert [volume.state for volume in first.volumes] == ["DUPLEX"] * 3
    assert [group.volumes for group in first.groups] == [["data", "wal"]]
    assert pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"]})[0] == 200
    second = status(pair_daemon)
    assert [volume.state for volume in second.volumes] == ["SUSPENDED", "SUSPENDED", "DUPLEX"]
    secondary = second.volumes[0].secondary
    assert secondary is not None
    assert secondary.usable
    assert secondary.cut is not None
    assert secondary.cut.verdict == "consistent"


def test_suspend_resync_verify(pair_daemon: Daemon) -> None:
    code, body = pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"], "tag": "nightly"})
    cut = Suspended.model_validate(body)
    assert (code, cut.verdict, cut.tag, cut.already, list(cut.controllers)) == (
        200,
        "consistent",
        "nightly",
        False,
        ["test"],
    )
    code, body = pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"]})
    assert (code, body["exit_code"]) == (409, 5), "it is not the cut that was asked for"
    body = {"targets": ["db"], "allow_existing": True}
    again = Suspended.model_validate(pair_daemon.request("POST", "/v1/suspend", body)[1])
    assert (again.already, again.cut) == (True, cut.cut)
    lines = pair_daemon.request("POST", "/v1/resync", {"targets": ["db"], "wait": True})[
        1
    ].splitlines()
    assert ResyncDone.model_validate_json(lines[-1]).ok
    assert Verified.model_validate(
        pair_daemon.request("POST", "/v1/verify", {"targets": ["db", "alone"]})[1]
    ).equal
    restarted = ResyncStarted.model_validate(
        pair_daemon.request("POST", "/v1/resync", {"targets": ["db"]})[1]
    )
    assert {volume.how for volume in restarted.volumes} == {"already"}


def test_a_hold_ends_by_its_owner_its_deadline_or_a_suspend(pair_daemon: Daemon) -> None:
    connection, answer, lease = hold(pair_daemon)
    assert [volume.held for volume in status(pair_daemon).volumes] == [True, True, False]
    assert pair_daemon.request("DELETE", f"/v1/leases/{lease}")[1]["released"]
    ended = HoldEnded.model_validate_json(answer.read().splitlines()[-1])
    assert (ended.reason, ended.verdict) == ("released", "consistent")
    connection.close()

    connection, answer, lease = hold(pair_daemon, 0.4)
    ended = HoldEnded.model_validate_json(answer.read().splitlines()[-1])
    assert (ended.reason, ended.verdict) == ("deadline", "void")
    code, problem = pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"], "lease": lease})
    assert (code, problem["exit_code"]) == (410, 9)
    connection.close()

    connection, answer, lease = hold(pair_daemon)
    code, body = pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"], "lease": lease})
    assert (code, body["verdict"]) == (200, "consistent")
    assert HoldEnded.model_validate_json(answer.read().splitlines()[-1]).verdict == "consistent"
    connection.close()


def test_a_hold_ends_at_once_when_its_owner_disconnects(pair_daemon: Daemon) -> None:
    connection, answer, lease = hold(pair_daemon)
    answer.close()
    connection.close()
    assert pair_daemon.hold_ended(lease)["reason"] == "owner gone"
    assert not any(volume.held for volume in status(pair_daemon).volumes)
    assert (
        pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"], "lease": lease})[1][
            "exit_code"
        ]
        == 9
    )


def test_a_stop_of_the_daemon_ends_a_hold_void(pair_daemon: Daemon) -> None:
    connection, answer, _ = hold(pair_daemon)
    pair_daemon.signal(signal.SIGTERM)
    ended = HoldEnded.model_validate_json(answer.read().splitlines()[-1])
    assert (ended.reason, ended.verdict) == ("stopping", "void")
    connection.close()
    assert pair_daemon.wait() == 0
    assert not pair_daemon.files.control_socket.exists()


def test_events_show_a_suspend_and_a_hold(pair_daemon: Daemon) -> None:
    connection = UnixConnection(pair_daemon.files.control_socket)
    connection.request("GET", "/v1/events")
    answer = connection.getresponse()
    first = Event.model_validate_json(answer.readline())
    assert (first.event, first.status is not None) == ("state", True)
    assert Event.model_validate_json(answer.readline()).event == "synced"
    assert pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"]})[0] == 200
    event = Event.model_validate_json(answer.readline())
    assert set(event.volumes or [event.volume or ""]) & {"data", "wal"}
    assert event.time is not None
    connection.close()


@pytest.mark.parametrize(
    ("method", "path", "body", "code", "exit_code"),
    [
        ("GET", "/v1/status?target=nope", None, 404, 3),
        ("POST", "/v1/quiesce", {"targets": ["nope"]}, 404, 3),
        ("POST", "/v1/suspend", {"targets": ["nope"]}, 404, 3),
        ("POST", "/v1/resync", {"targets": ["nope"]}, 404, 3),
        ("POST", "/v1/verify", {"targets": ["nope"]}, 404, 3),
        ("DELETE", "/v1/leases/nope", None, 404, 3),
        ("POST", "/v1/suspend", {"targets": ["db"], "lease": "nope"}, None, None),
        ("POST", "/v1/quiesce", {"targets": ["db"], "hold_s": 1e9}, 400, 2),
        ("POST", "/v1/nope", {}, 404, 3),
    ],
)
def test_errors_have_their_codes(
    daemon: Daemon, method: str, path: str, body: Any, code: int | None, exit_code: int | None
) -> None:
    found, problem = daemon.request(method, path, body)
    assert found == Problem.model_validate(problem).status
    if code is not None:
        assert (found, problem["exit_code"]) == (code, exit_code)
    else:
        assert problem["exit_code"] in {3, 9}  # of a lease that never was, it may say either


def test_the_metrics_are_valid_prometheus_text(pair_daemon: Daemon) -> None:
    text = pair_daemon.request("GET", "/metrics")[1]
    names = {metric.name for metric in text_string_to_metric_families(text)}
    assert {
        "duplexd_pair_state",
        "duplexd_sequence",
        "duplexd_journal_used_bytes",
        "duplexd_event_loop_lag_seconds",
    } <= names


def test_random_bytes_do_not_stop_the_daemon(pair_daemon: Daemon) -> None:
    chance = random.Random(7)
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(pair_daemon.files.control_socket))
            with contextlib.suppress(OSError):
                sock.sendall(chance.randbytes(chance.choice((1, 100, 10_000))))
    assert pair_daemon.running
    assert pair_daemon.request("GET", "/healthz")[0] == 200


def test_commands_are_logged_with_their_sender(pair_daemon: Daemon) -> None:
    pair_daemon.request("POST", "/v1/suspend", {"targets": ["db"]})
    line = json.loads(pair_daemon.wait_log('"command": "suspend"'))
    assert {"uid", "gid", "pid"} <= set(line)
    before = len(pair_daemon.lines())
    pair_daemon.request("GET", "/v1/status")
    pair_daemon.request("POST", "/v1/resync", {"targets": ["db"]})
    pair_daemon.wait_log('"command": "resync"', after=before)
    assert not [line for line in pair_daemon.lines()[before:] if "status" in line]

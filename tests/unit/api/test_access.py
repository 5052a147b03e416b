"""Who may do what: every role with every route, over TLS and on the Unix socket."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.api.access import NAMELESS, Access, Peer, Role, check
from duplexd.api.routes import ROUTES
from duplexd.api.server import Admission
from duplexd.config.daemon_file import TlsConfig
from duplexd.errors import ForbiddenError
from tests.support.certificates import Certificates, ask
from tests.support.control_plane import ControlPlane
from tests.support.daemon import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from duplexd.api.routing import RouteEntry

    Ask = Callable[[str, str], tuple[int, Any]]

NAMES = {"operate": "backup.example", "observe": "monitor.example", "none": "stranger.example"}
BY_ROUTE = pytest.mark.parametrize(
    "route", ROUTES, ids=[f"{route.method} {route.path}" for route in ROUTES]
)
STRANGER = 54321  # a user id that is neither root's nor the daemon's


@pytest.fixture(scope="module")
def callers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ask]]:
    """Someone of each role over TLS, who sends one request and returns status and answer."""
    directory = tmp_path_factory.mktemp("access")
    certificates, port = Certificates(directory), free_port()
    tls = certificates.settings(port, operate=(NAMES["operate"],), observe=(NAMES["observe"],))
    plane = ControlPlane(directory / "c.sock", tls=tls)

    def caller(role: str) -> Ask:
        context = certificates.context(certificates.client(NAMES[role]))
        return lambda method, path: ask(
            port, context, method, path, {} if method == "POST" else None
        )

    yield {role: caller(role) for role in NAMES}
    plane.stop()


def path_of(route: RouteEntry) -> str:
    return re.sub("{.*?}", "x", route.path) + (
        "?follow=false" if route.path == "/v1/events" else ""
    )


def may(role: str, route: RouteEntry) -> bool:
    """What the manual says, in other words than the code."""
    if route.path == "/healthz" or role == "operate":
        return True
    return role == "observe" and route.method == "GET" and "/volumes/{" not in route.path


@BY_ROUTE
@pytest.mark.parametrize("role", NAMES)
def test_each_role_may_do_what_it_is_for_and_no_more(
    callers: dict[str, Ask], role: str, route: RouteEntry
) -> None:
    status, answer = callers[role](route.method, path_of(route))
    assert (status != 403) == may(role, route), answer
    if status == 403:
        needed = "observe" if route.method == "GET" and may("observe", route) else "operate"
        assert (answer["status"], answer["exit_code"], answer["title"]) == (403, 4, "no permission")
        has = "no role here" if role == "none" else f"the role {role}"
        remedy = (
            f"add the name to control.tls.{needed} in the daemon's configuration, and reload it"
        )
        who = f"client certificate {NAMES[role]!r}"
        assert answer["detail"] == f"{who} has {has}, this needs the role {needed}: {remedy}"


@pytest.mark.parametrize(("role", "status"), [("none", 403), ("observe", 200)])
def test_a_head_request_needs_what_the_get_does(
    callers: dict[str, Ask], role: str, status: int
) -> None:
    assert callers[role]("HEAD", "/metrics")[0] == status


@BY_ROUTE
def test_a_route_that_changes_anything_needs_operate(route: RouteEntry) -> None:
    assert route.role is Role.OPERATE or route.method == "GET"


# -------------------------------------------------------------------------------- the Unix socket


@pytest.mark.parametrize("uid", [0, 1000])
def test_root_and_the_daemons_user_always_operate(uid: int) -> None:
    assert Access(1000, "observe").local(uid, 7, 1).role is Role.OPERATE


@pytest.mark.parametrize(
    ("group_role", "role"), [("observe", Role.OBSERVE), ("operate", Role.OPERATE)]
)
def test_others_who_reach_the_socket_have_the_role_of_the_group(
    group_role: str, role: Role
) -> None:
    assert Access(1000, group_role).local(STRANGER, 7, 1) == Peer(STRANGER, 7, 1, role=role)


@pytest.mark.parametrize(("group_role", "status"), [("observe", 403), ("operate", 200)])
def test_the_kernel_says_who_asks_on_the_unix_socket(
    tmp_path: Path, group_role: str, status: int
) -> None:
    plane = ControlPlane(tmp_path / "c.sock")
    other = STRANGER if os.geteuid() == 0 else None
    plane.call(lambda: plane.server.admit(Admission(Access(0, group_role), None)))
    for path in (tmp_path, plane.path):
        path.chmod(0o777)

    def curl(*arguments: str) -> int:
        command = [
            "curl",
            "--silent",
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--unix-socket",
            plane.path.name,
            *arguments,
        ]
        return int(
            subprocess.run(
                command,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                timeout=100,
                check=True,
                user=other,
                group=other,
            ).stdout
        )

    assert curl("http://localhost/v1/status") == 200
    assert curl("--json", '{"targets": ["db"]}', "http://localhost/v1/suspend") == status
    plane.stop()


def test_a_refusal_names_the_roles_and_the_remedy() -> None:
    with pytest.raises(ForbiddenError) as caught:
        check(Access(0, "observe").local(STRANGER, 7, 1), Role.OPERATE)
    remedy = (
        'ask as root or as the daemon\'s user, or set control.group_role = "operate", and reload it'
    )
    assert (
        str(caught.value)
        == f"user {STRANGER} has the role observe, this needs the role operate: {remedy}"
    )


def test_a_connection_without_a_peer_has_no_role() -> None:
    with pytest.raises(ForbiddenError):
        check(Peer(), Role.OBSERVE)


# -------------------------------------------------------------------------------------- the names


def tls(**names: list[str]) -> TlsConfig:
    return TlsConfig(
        **{"listen": ["127.0.0.1:1"], "certificate": "/c", "key": "/k", "client_ca": "/a", **names}
    )


def described(*common: str, dns: tuple[str, ...] = (), mail: str = "") -> dict[str, Any]:
    """A certificate as `ssl` describes it."""
    subject = ((("organizationName", "op"),), *((("commonName", name),) for name in common))
    return {
        "subject": subject,
        "subjectAltName": (*(("DNS", name) for name in dns), *((("email", mail),) if mail else ())),
    }


@pytest.mark.parametrize(
    ("certificate", "peer"),
    [
        (described("op"), Peer(name="op", role=Role.OPERATE)),
        (described("ob"), Peer(name="ob", role=Role.OBSERVE)),
        (described(dns=("ob", "op")), Peer(name="op", role=Role.OPERATE)),
        (described("ob", dns=("op",)), Peer(name="op", role=Role.OPERATE)),
        (described("else", "other", dns=("third",)), Peer(name="else")),
        (described("OP"), Peer(name="OP")),
        (described("", dns=("*.op", "*")), Peer(name="*.op")),
        (described(mail="op"), Peer(name=NAMELESS)),
        ({}, Peer(name=NAMELESS)),
    ],
)
def test_the_best_role_that_a_name_has_counts(certificate: dict[str, Any], peer: Peer) -> None:
    assert Access(0, tls=tls(operate=["op", NAMELESS], observe=["ob"])).remote(certificate) == peer


def test_a_lease_is_marked_with_who_holds_it() -> None:
    assert Peer(1000, 7, 42).owner == "uid 1000 pid 42"
    assert Peer(name="backup.example").owner == "certificate backup.example"

"""Where a canary finds the volumes of a controller."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, cast

import pytest

from duplexd.canary.members import Member, address, find, volumes_of
from duplexd.errors import (
    ConfigurationError,
    DuplexdError,
    ForbiddenError,
    NotFoundError,
    UnreachableError,
    WrongStateError,
)
from duplexd.nbd.uri import NbdUri
from duplexd.net.address import parse_address

if TYPE_CHECKING:
    from duplexd.canary.members import Control

UNIX, TCP, EVERY = "unix:/run/n.sock", "tcp:10.0.0.7:10809", "tcp:0.0.0.0:10810"


@pytest.mark.parametrize(
    ("listen", "host", "found"),
    [
        ([TCP, UNIX], None, NbdUri(host="10.0.0.7", port=10809)),
        ([UNIX, TCP], None, NbdUri(socket="/run/n.sock")),
        (["tcp:127.0.0.1:10809"], None, NbdUri(host="127.0.0.1", port=10809)),
        ([EVERY], None, NbdUri(host="localhost", port=10810)),
        ([UNIX, TCP], "beta.example", NbdUri(host="10.0.0.7", port=10809)),
        ([UNIX, EVERY], "beta.example", NbdUri(host="beta.example", port=10810)),
        (
            ["tcp:127.0.0.1:10809", "tcp:[::]:10809"],
            "beta.example",
            NbdUri(host="beta.example", port=10809),
        ),
        (["tcp:[fd00::7]:10809"], "beta.example", NbdUri(host="fd00::7", port=10809)),
    ],
)
def test_first_address_that_leads_there_is_taken(
    listen: list[str], host: str | None, found: NbdUri
) -> None:
    assert address("beta", listen, host) == found


@pytest.mark.parametrize(
    ("listen", "host"),
    [
        ([], None),
        ([UNIX], "beta.example"),
        (["tcp:127.0.0.1:10809"], "beta.example"),
        ([EVERY], "localhost"),
    ],
)
def test_unreachable_controller_is_an_error_that_says_what_to_add(
    listen: list[str], host: str | None
) -> None:
    with pytest.raises(ConfigurationError, match=r'controllers.beta: .* add nbd = "tcp:HOST:PORT"'):
        address("beta", listen, host)


BOTH = ["a b", "logs"]


class _Status:
    name = "beta"

    def __init__(
        self,
        protocol: int | None = 1,
        state: str = "DUPLEX",
        reading: type[DuplexdError] = NotFoundError,
    ) -> None:
        self.path = self.read = ""
        self._reading = reading
        self.volumes = [{"name": "a b", "state": "DUPLEX"}, {"name": "wal", "state": state}]
        self._status = {
            "controller": {
                "name": "beta",
                "version": "0",
                "group_protocol": protocol,
                "nbd": [UNIX],
            },
            "volumes": self.volumes,
            "groups": [{"name": "logs", "volumes": ["wal"]}],
        }

    async def call(self, _method: str, path: str, **_: Any) -> dict[str, Any]:
        self.path = path
        return self._status

    async def call_bytes(self, _method: str, path: str, **_: Any) -> bytes:
        self.read = path
        raise self._reading("beta: why")


async def test_volumes_and_address_come_from_the_controller() -> None:
    control = _Status()
    member = await find(cast("Control", control), BOTH, None, None)
    assert control.path == "/v1/status?target=a%20b&target=logs"
    assert (member.name, member.volumes) == ("beta", ("a b", "wal"))
    assert [(volume.title, str(volume.uri)) for volume in volumes_of([member])] == [
        ("beta:a b", "nbd+unix:///a%20b?socket=/run/n.sock"),
        ("beta:wal", "nbd+unix:///wal?socket=/run/n.sock"),
    ]


@pytest.mark.parametrize(
    ("nbd", "found"),
    [
        ("tcp:nbd.example:1", NbdUri(host="nbd.example", port=1)),
        ("tcp:127.0.0.1:10809", NbdUri(host="127.0.0.1", port=10809)),
        ("tcp:[::1]:10809", NbdUri(host="::1", port=10809)),
        ("unix:/tmp/tunnel.sock", NbdUri(socket="/tmp/tunnel.sock")),
    ],
)
async def test_address_in_the_groups_file_is_used_literally_for_a_tunnel_may_end_here(
    nbd: str, found: NbdUri
) -> None:
    member = await find(cast("Control", _Status()), BOTH, "beta.example", parse_address(nbd))
    assert member.address == found


@pytest.mark.parametrize("targets", [["a b"], ["logs"], ["other"]])
async def test_volumes_that_nobody_asked_for_are_not_written_to(targets: list[str]) -> None:
    with pytest.raises(UnreachableError, match=r"it answers with .*nothing is written there"):
        await find(cast("Control", _Status()), targets, None, None)


async def test_an_answer_without_a_volume_is_refused() -> None:
    control = _Status()
    control.volumes.clear()
    with pytest.raises(UnreachableError, match=r"it answers with \[\]"):
        await find(cast("Control", control), BOTH, None, None)


def test_an_address_of_a_later_version_is_passed_over() -> None:
    assert address("beta", ["vsock:3:10809", UNIX], None) == NbdUri(socket="/run/n.sock")


@pytest.mark.parametrize("protocol", [None, 2])
async def test_controller_of_another_version_is_refused(protocol: int | None) -> None:
    with pytest.raises(WrongStateError, match="run the same version"):
        await find(cast("Control", _Status(protocol)), BOTH, None, None)


async def test_volume_without_a_secondary_is_refused() -> None:
    with pytest.raises(WrongStateError, match="beta:wal has no secondary"):
        await find(cast("Control", _Status(state="SIMPLEX")), BOTH, None, None)


async def test_client_without_permission_to_read_is_refused_before_anything_is_written() -> None:
    control = _Status(reading=ForbiddenError)
    with pytest.raises(ForbiddenError):
        await find(cast("Control", control), BOTH, None, None)
    assert re.fullmatch(r"/v1/cuts/[0-9a-f]{16}/volumes/a%20b", control.read)


def test_chains_go_round_the_volumes_of_all_members_from_one_member_to_the_next() -> None:
    one, two = (cast("Control", _Status()) for _ in range(2))
    members = [
        Member(one, NbdUri(socket="/a"), ("x", "y", "w")),
        Member(two, NbdUri(socket="/b"), ("z", "v")),
    ]
    assert [(volume.member, volume.name, volume.uri.socket) for volume in volumes_of(members)] == [
        (0, "x", "/a"),
        (1, "z", "/b"),
        (0, "y", "/a"),
        (1, "v", "/b"),
        (0, "w", "/a"),
    ]

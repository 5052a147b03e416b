"""A group with one local controller and one reached over TLS, for clients of both roles."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from duplexd.client import Client, ControllerEntry, GroupEntry, Groups, Status
from duplexd.core.past_point import PastPoint
from duplexd.errors import ForbiddenError, UnreachableError
from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.certificates import Certificates
from tests.support.daemon import PATIENCE_SECONDS, free_port

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import Daemon, DaemonFiles

    MakeGroups = Callable[[str], Groups]


@pytest.fixture
def make_groups(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> MakeGroups:
    """The group as a client of this common name sees it."""
    for name in ("certificates", "alpha", "beta"):
        (tmp_path / name).mkdir()
    certificates = Certificates(tmp_path / "certificates")
    port = free_port()
    alpha = make_files(directory=tmp_path / "alpha", name="alpha")
    beta = make_files(
        directory=tmp_path / "beta",
        name="beta",
        extra=certificates.toml(port, operate=("backup",), observe=("monitor",)),
    )
    for files in (alpha, beta):
        start_daemon(files)

    def make(common_name: str) -> Groups:
        far = ControllerEntry(
            url=f"https://localhost:{port}",
            certificate=certificates.client(common_name),
            ca=certificates.client_ca,
        )
        return Groups(
            controllers={"alpha": ControllerEntry(socket=alpha.control_socket), "beta": far},
            groups={
                "db": GroupEntry(members=["alpha:data", "beta:data"], hold_max=HOLD_SECONDS_MAX)
            },
        )

    return make


def _any_lease(status: Status) -> bool:
    return any(each["leases"] for each in status.controllers.values())


async def test_members_over_tls_and_over_a_socket_are_cut_together(make_groups: MakeGroups) -> None:
    async with Client(make_groups("backup")) as client:
        result = await client.suspend("db")
        assert (result.verdict, list(result.controllers)) == ("consistent", ["alpha", "beta"])
        assert (await client.verify("db")).equal
        mark = await client.marks.make("db")
        later = await client.suspend("db", at=PastPoint(mark=mark.mark), onward=True)
        assert (later.verdict, later.mark) == ("consistent", mark.mark)
        assert later.cut != result.cut
        assert (await client.resync("db", wait=True)).ok
        async with client.quiesce("db") as hold:
            await hold.renew(9.0)
            assert (await hold.suspend()).verdict == "consistent"


async def test_an_observer_sends_nobody_to_a_mark(make_groups: MakeGroups) -> None:
    async with Client(make_groups("backup")) as client:
        await client.suspend("db")
        mark = await client.marks.make("db")
        before = (await client.status("db")).volumes
    async with Client(make_groups("monitor")) as client:
        with pytest.raises(ForbiddenError, match="nothing was suspended: beta: "):
            await client.suspend("db", at=PastPoint(mark=mark.mark), onward=True)
        cuts = [volume["secondary"]["cut"] for volume in (await client.status("db")).volumes]
        assert cuts == [volume["secondary"]["cut"] for volume in before]


async def test_an_observer_sees_the_status_and_cannot_suspend(make_groups: MakeGroups) -> None:
    async with Client(make_groups("monitor")) as client:
        assert (await client.status("db")).groups[0].state == "DUPLEX"
        with pytest.raises(ForbiddenError, match="nothing was suspended: beta: "):
            await client.suspend("db")
        status = await client.status("db")
        assert [
            volume["state"] for each in status.controllers.values() for volume in each["volumes"]
        ] == ["DUPLEX", "DUPLEX"]
        # a request that was on its way may have been answered after the release: its connection
        # is gone
        async with asyncio.timeout(PATIENCE_SECONDS):
            while _any_lease(await client.status("db")):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_an_unknown_client_is_refused(make_groups: MakeGroups) -> None:
    async with Client(make_groups("stranger")) as client:
        with pytest.raises((ForbiddenError, UnreachableError), match="beta: "):
            await client.suspend("db")

"""Clones on daemons as users start them, written to by the clients of others."""

from __future__ import annotations

import json
import socket
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from duplexd.nbd_aio.connecting import connect
from tests.support.cluster import Cluster
from tests.system.test_duplexctl_groups import Ctl
from tests.system.test_points import AFTER, BEFORE, SIZE, Operator, client

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from duplexd.nbd_aio.nbd_disk import Disk
    from tests.support.daemon import Daemon, DaemonFiles


_TABLE = '[volumes."data"]'


@pytest.fixture
def ctl(make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]) -> Operator:
    return Operator(start_daemon(make_files(volumes={"data": SIZE}, groups={"db": ["data"]})))


def fio(uri: str, *arguments: str) -> None:
    client(
        "fio", "--name=clone", "--ioengine=nbd", f"--uri={uri}", "--bsrange=512-64k", "--iodepth=8",
        "--randseed=7", "--verify_state_save=0", *arguments,
    )  # fmt: skip


async def test_fio_verifies_what_it_wrote_and_the_secondary_is_the_same_byte_for_byte(
    ctl: Operator, tmp_path: Path
) -> None:
    await ctl.cut()
    files = ctl.daemon.files
    before = sha256(files.secondary_of("data").read_bytes()).digest()
    (row,) = json.loads(ctl.run("clone", "db", "--name", "test", "--json").stdout)["volumes"]
    uri = row["uris"][0]
    listed = json.loads(client("nbdinfo", "--list", "--json", files.uri()))["exports"]
    assert [(each["export-name"], each["is_read_only"]) for each in listed][2:] == [
        (row["export"], False)
    ]
    client("nbdcopy", uri, tmp_path / "copy.raw")
    assert sha256((tmp_path / "copy.raw").read_bytes()).digest() == before
    fio(uri, "--rw=randwrite", "--size=12m", "--verify=crc32c", "--do_verify=1", "--bsrange=4k-64k")
    fio(uri, "--rw=trimwrite", "--size=4m", "--offset=12m")
    client("nbdcopy", uri, tmp_path / "written.raw")
    client("nbdcopy", tmp_path / "copy.raw", uri)  # by several connections
    client("qemu-img", "compare", "-f", "raw", "-F", "raw", tmp_path / "copy.raw", uri)
    assert (tmp_path / "written.raw").read_bytes() != (tmp_path / "copy.raw").read_bytes()
    assert sha256(files.secondary_of("data").read_bytes()).digest() == before
    assert list((files.state_dir / "clones").iterdir()) == []


async def write_all(nbd: Disk) -> None:
    for offset in range(0, SIZE, len(AFTER)):
        await nbd.write(offset, AFTER)


async def test_it_keeps_the_cut_and_its_life_is_in_every_answer(ctl: Operator) -> None:
    await ctl.cut()
    assert ctl("clone", "db@nightly", "--name", "test", "--limit", "1MiB") == 0
    again = ctl.run("clone", "db", "--name", "test")
    assert (again.returncode, "has a clone 'test' already" in again.stderr) == (5, True)
    refused = ctl.run("resync", "db")
    assert (refused.returncode, "by clone test" in refused.stderr) == (5, True)
    async with connect(ctl.daemon.files.uri("data@nightly+test")) as nbd:
        await nbd.write(1, b"changed", fua=True)
        assert (await nbd.read(0, 9)) == b"\x01changed\x01"
        with pytest.raises(OSError, match="No space"):
            await write_all(nbd)
        (row,) = json.loads(ctl.run("clones", "--json").stdout)["clones"]
        assert (row["used_bytes"], row["connections"]) == (1 << 20, 1)
        assert "test   data" in ctl.run("clones", "db").stdout
        assert ctl("drop-clone", "db", "test") == 0
        with pytest.raises(OSError):  # ESHUTDOWN, or the connection is closed
            await nbd.read(0, 4)
    assert ctl("drop-clone", "db", "test") == 3
    assert ctl("resync", "db", "--wait") == 0


async def test_mistakes_get_their_exit_codes_and_leave_no_clone(ctl: Operator) -> None:
    duplex = ctl.run("clone", "db", "--name", "test")
    assert (duplex.returncode, "it is DUPLEX" in duplex.stderr) == (5, True)
    await ctl.cut()
    for arguments, code, text in (
        (("clone", "db@monday", "--name", "t"), 3, "not at 'monday' but at cut"),
        (("clone", "db", "--name", "a+b"), 2, "is not a name"),
        (("clone", "db", "--name", "t", "--limit", "1TiB"), 2, "above clone_limit"),
        (("clone", "nonesuch", "--name", "t"), 3, "no such volume or group"),
        (("clone", "db"), 2, "--name"),
    ):
        done = ctl.run(*arguments)
        assert (done.returncode, text in done.stderr) == (code, True), done.stderr
    assert json.loads(ctl.run("clones", "--json").stdout) == {"clones": []}


async def test_a_killed_daemon_leaves_no_clone_and_no_reader(ctl: Operator) -> None:
    await ctl.cut()
    assert ctl("clone", "db", "--name", "test") == 0
    async with connect(ctl.daemon.files.uri("data@nightly+test")) as nbd:
        await nbd.write(0, AFTER)
        ctl.daemon.kill()
    ctl.daemon.start()
    assert json.loads(ctl.run("clones", "--json").stdout) == {"clones": []}
    with pytest.raises(ConnectionError):
        await connect(ctl.daemon.files.uri("data@nightly+test"))
    assert ctl.daemon.files.secondary_of("data").read_bytes()[: len(BEFORE)] == BEFORE
    assert ctl("resync", "db", "--wait") == 0


async def test_who_hangs_up_while_one_is_made_costs_nobody_else_theirs(ctl: Operator) -> None:
    await ctl.cut()
    cut = json.loads(ctl.run("cuts", "--json").stdout)["cuts"][0]["cut"]
    asked = {"targets": ["db"], "cut": cut, "name": "gone", "while_connected": True}
    body = json.dumps(asked).encode()
    head = f"POST /v1/clones HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    for _ in range(100):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(ctl.daemon.files.control_socket))
            client.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode() + body)
    asked |= {"name": "test", "while_connected": False}
    status, made = ctl.daemon.request("POST", "/v1/clones", asked)
    assert status == 200, made
    assert "never retrieved" not in ctl.daemon.log()


async def test_who_may_only_read_the_volume_may_only_read_its_clone(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(volumes={"data": SIZE}, groups={"db": ["data"]})
    operator = Operator(start_daemon(files))
    await operator.cut()
    assert operator("clone", "db", "--name", "test") == 0
    text = files.config.read_text()
    files.config.write_text(text.replace(_TABLE, f"{_TABLE}\nread_only = true"))
    assert operator("reload") == 0
    found = client("nbdinfo", "--json", files.uri("data@latest+test"))
    assert json.loads(found)["exports"][0]["is_read_only"]
    files.config.write_text(text.replace(_TABLE, f'{_TABLE}\nallow = ["address:10.0.0.0/8"]'))
    assert operator("reload") == 0
    with pytest.raises(ConnectionError):
        await connect(files.uri("data@latest+test"))


def test_a_group_of_several_controllers_is_cloned_everywhere_or_nowhere(tmp_path: Path) -> None:
    with Cluster(tmp_path, {"alpha": ["a0"], "beta": ["b0"]}) as cluster:
        ctl = Ctl(cluster)
        ctl("suspend", "db", "--tag", "nightly")
        made = ctl.json("clone", "db@nightly", "--name", "test")
        assert [row["name"] for row in made["volumes"]] == ["alpha:a0", "beta:b0"]
        for row in made["volumes"]:
            client("nbdinfo", row["uris"][0])
        assert "already" in ctl("clone", "db", "--name", "test", code=5)
        ctl("clone", "beta:b0", "--name", "half")
        ctl("clone", "db", "--name", "half", code=5)
        held = [(row["volume"], row["name"]) for row in ctl.json("clones", "db")["clones"]]
        assert held == [("alpha:a0", "test"), ("beta:b0", "test"), ("beta:b0", "half")]
        assert "by clone" in ctl("resync", "db", code=5)
        ctl("drop-clone", "db", "test")
        ctl("drop-clone", "db", "half")
        ctl("resync", "db", "--wait")

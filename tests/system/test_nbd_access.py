"""Which clients see and reach which volumes of a daemon: users of this machine, the export "", and
what a reload changes for connections that are open.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.certificates import Certificates
from tests.support.daemon import PATIENCE_SECONDS, Daemon, DaemonFiles, environment, free_port
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

MEMBERS, READERS = 3050, 3060  # groups; numbers need no account
WRITER, BACKUP, STRANGER = 3002, 3004, 3003  # users
DEBIAN_PYTHON = "/usr/bin/python3"  # which has libnbd's module
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes other users")

USE = """
import json, nbd, sys
uri, write = sys.argv[1:]
client = nbd.NBD()
try:
    client.connect_uri(uri)
    if write:
        client.set_strict_mode(0)
        client.pwrite(b"x" * 4096, 0)
    print(len(client.pread(4096, 0)))
except nbd.Error as error:
    print(error.errno or "refused")
"""

# The size of the export "", by each way to ask for it
DEFAULT = """
import json, nbd, sys
def asked(way):
    client = nbd.NBD()
    try:
        return way(client)
    except nbd.Error:
        return None
def info(client):
    client.set_opt_mode(True)
    client.connect_unix(sys.argv[1])
    client.opt_info()
    return client.get_size()
def go(client):
    client.connect_unix(sys.argv[1])
    return client.get_size()
def export_name(client):
    client.set_handshake_flags(0)
    return go(client)
def contexts(client):
    client.set_opt_mode(True)
    client.connect_unix(sys.argv[1])
    return client.opt_list_meta_context(lambda name: None) > 0
print(json.dumps([asked(way) for way in (info, go, export_name, contexts)]))
"""


def run(*command: str | Path, user: int = 0, groups: Sequence[int] = ()) -> str:
    """What a command prints; as another user, who is in these groups."""
    prefix: list[str] = []
    if user:
        others = f"--groups={','.join(map(str, groups))}" if groups else "--clear-groups"
        setpriv = shutil.which("setpriv")
        assert setpriv, "setpriv is missing: install util-linux"
        prefix = [setpriv, f"--reuid={user}", f"--regid={user}", others]
    done = subprocess.run(
        [*prefix, *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_SECONDS,
        env={**environment(), "PATH": "/usr/bin:/bin"},
        cwd="/",
        check=False,
    )
    return done.stdout


def reload(daemon: Daemon) -> None:
    """Write the configuration, send SIGHUP, wait until it holds."""
    before = len(daemon.lines())
    daemon.signal(signal.SIGHUP)
    assert json.loads(daemon.wait_log('"event": "reload', after=before))["event"] == "reloaded"


# ------------------------------------------------------------------------ users of this machine


class Sockets:
    """A daemon of root with two Unix sockets, and its clients of other users."""

    def __init__(self, directory: Path) -> None:
        self._places = {"": directory / "nbd.sock", "backup": directory / "backup.sock"}

    def rules(self) -> str:
        return f"""
[nbd]
group = "{MEMBERS}"
mode = "0660"
[[nbd.listeners]]
address = "unix:{self._places[""]}"
[[nbd.listeners]]
address = "unix:{self._places["backup"]}"
group = "{READERS}"
read_only = true
[volumes.data]
size = "1MiB"
primary = "data.img"
allow = ["user:{WRITER}", "group:{READERS}"]
[volumes.wal]
size = "1MiB"
primary = "wal.img"
allow = ["user:{BACKUP}"]
read_only = true
[volumes.shared]
size = "1MiB"
primary = "shared.img"
"""

    def uri(self, volume: str, place: str) -> str:
        return f"nbd+unix:///{volume}?socket={self._places[place]}"

    def listed(self, user: int, *groups: int, place: str = "") -> list[str]:
        """The names that this user sees."""
        printed = run("nbdinfo", "--list", "--json", self.uri("", place), user=user, groups=groups)
        assert printed.startswith("{"), printed
        found = json.loads(printed)
        return [each["export-name"] for each in found["exports"]]

    def use(self, volume: str, user: int, *groups: int, place: str = "", write: bool = True) -> str:
        """Open a volume, write if wanted, read: the bytes that were read, or the error."""
        uri = self.uri(volume, place)
        printed = run(DEBIAN_PYTHON, "-c", USE, uri, "w" * write, user=user, groups=groups)
        return printed.strip()


@pytest.fixture
def sockets(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Iterator[Sockets]:
    with tempfile.TemporaryDirectory() as place:
        directory = Path(place)
        directory.chmod(0o755)  # pytest's directories are closed to other users
        made = Sockets(directory)
        files = make_files(volumes={})
        text = files.config.read_text()
        start, end = text.index("[nbd]"), text.index("[control]")
        files.config.write_text(text[:start] + text[end:] + made.rules())
        start_daemon(files)
        yield made


@as_root
def test_a_user_sees_the_volumes_that_it_may_reach(sockets: Sockets) -> None:
    assert sockets.listed(WRITER, MEMBERS) == ["data", "shared"]
    assert sockets.listed(BACKUP, MEMBERS) == ["wal", "shared"]
    assert sockets.listed(BACKUP, MEMBERS, READERS) == ["data", "wal", "shared"]
    assert sockets.listed(STRANGER, MEMBERS) == ["shared"]


@as_root
def test_a_user_reaches_the_volumes_that_it_sees_and_no_other(sockets: Sockets) -> None:
    assert sockets.use("data", WRITER, MEMBERS) == "4096"
    assert sockets.use("wal", BACKUP, MEMBERS, write=False) == "4096"
    assert sockets.use("wal", BACKUP, MEMBERS) == "EPERM"
    assert sockets.use("data", BACKUP, MEMBERS) == sockets.use("missing", BACKUP, MEMBERS)
    assert sockets.use("wal", WRITER, MEMBERS) not in ("4096", "EPERM")


@as_root
def test_a_user_outside_of_the_group_of_the_socket_does_not_get_in(sockets: Sockets) -> None:
    assert sockets.use("shared", STRANGER) == "EACCES"
    assert sockets.use("data", WRITER) == "EACCES"
    assert sockets.use("shared", WRITER, MEMBERS, place="backup") == "EACCES"


@as_root
def test_a_read_only_listener_gives_its_group_no_way_to_write(sockets: Sockets) -> None:
    assert sockets.listed(STRANGER, READERS, place="backup") == ["data", "shared"]
    assert sockets.use("data", STRANGER, READERS, place="backup", write=False) == "4096"
    assert sockets.use("data", STRANGER, READERS, place="backup") == "EPERM"


# --------------------------------------------------------------------------------- the export ""


def with_default(files: DaemonFiles, name: str, **volumes: str) -> None:
    """Write a configuration with these volumes and `[nbd] default`; "" for none."""
    files.volumes = volumes
    text = files.text()
    files.config.write_text(text.replace("[nbd]", f'[nbd]\ndefault = "{name}"') if name else text)


def test_the_default_export_is_the_configured_volume_in_every_way_to_ask(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(secondary=False)
    volumes = {"data": "2MiB", "wal": "3MiB"}

    def seen() -> Any:
        return json.loads(run(DEBIAN_PYTHON, "-c", DEFAULT, files.nbd_socket))

    def all_of(mib: int) -> list[object]:
        return [mib << 20, mib << 20, mib << 20, True]

    with_default(files, "wal", **volumes)
    daemon = start_daemon(files)
    assert seen() == all_of(3)
    with_default(files, "wal", **volumes, spare="4MiB")
    reload(daemon)
    assert seen() == all_of(3)
    with_default(files, "data", **volumes, spare="4MiB")
    reload(daemon)
    assert seen() == all_of(2)
    with_default(files, "", **volumes, spare="4MiB")
    reload(daemon)
    assert seen() == [None, None, None, None], "of several volumes none is the default"


# -------------------------------------------------------------------------------------- a reload


def test_new_rules_end_the_connections_that_may_do_less(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    files = make_files(secondary=False, volumes={"data": "1MiB", "wal": "1MiB", "log": "1MiB"})
    daemon = start_daemon(files)
    text = files.config.read_text()
    with (
        closing(Talk(files.nbd_socket, "data")) as data,
        closing(Talk(files.nbd_socket, "wal")) as wal,
        closing(Talk(files.nbd_socket, "log")) as log,
    ):
        refused = '[volumes."wal"]\nallow = ["user:54321"]'
        closed = '[volumes."log"]\nread_only = true'
        files.config.write_text(
            text.replace('[volumes."wal"]', refused).replace('[volumes."log"]', closed)
        )
        reload(daemon)
        for ended in (wal, log):
            with pytest.raises(ConnectionError):
                ended.read(0, 4096)
        assert data.read(0, 4096) == bytes(4096)
    with closing(Talk(files.nbd_socket, "log")) as again:
        assert again.read(0, 4096) == bytes(4096)
    with pytest.raises(Exception, match="wal"):
        Talk(files.nbd_socket, "wal")


def test_a_reload_shows_the_renewed_certificate_and_keeps_connections(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    (tmp_path / "tls").mkdir()
    certificates, port = Certificates(tmp_path / "tls"), free_port()
    extra = f"""
[[nbd.listeners]]
address = "tcp:127.0.0.1:{port}"
insecure = true
[nbd.tls]
certificate = "{certificates.certificate}"
key = "{certificates.key}"
client_ca = "{certificates.client_ca}"
clients = "optional"
"""
    files = make_files(secondary=False, extra=extra)
    daemon = start_daemon(files)
    uri = f"nbds://127.0.0.1:{port}/data?tls-certificates={tmp_path / 'tls'}"
    shutil.copy(certificates.client_ca, tmp_path / "tls" / "ca-cert.pem")
    with closing(Talk(files.nbd_socket, "data")) as old:
        assert run("nbdinfo", "--size", uri).strip() == str(8 << 20)
        certificates.renew_server("else.example")
        assert run("nbdinfo", "--size", uri).strip() == str(8 << 20), "the one that was read"
        reload(daemon)
        assert "certificate verification" in run("nbdinfo", "--size", uri)
        assert old.read(0, 4096) == bytes(4096)

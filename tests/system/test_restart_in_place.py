"""Restarts in place: another program takes the daemon's place, and its clients see a pause.

The program that takes over is this one, or a stand-in for another version that fails in a given
way. Clients are real ones under load, whose every block is checked, and a socket for what no client
library does: half a request.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, closing, suppress
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.daemon.replacing import LOADED_SECONDS_MAX
from duplexd.nbd import constants as c
from duplexd.nbd.messages import REQUEST, SIMPLE_REPLY
from tests.support.certificates import Certificates
from tests.support.daemon import (
    PATIENCE_SECONDS,
    ROOT,
    Daemon,
    environment,
    free_port,
    run_duplexctl,
)
from tests.support.fuse import faulty_disk
from tests.support.notify import ServiceManager
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import DaemonFiles

MIB = 1 << 20
DEBIAN_PYTHON = "/usr/bin/python3"  # which has libnbd's module
VOLUMES = 4
CLIENTS = 12
RESTARTS = 3
ADDRESS_SECONDS_MAX = 40.0  # below what a stand-in has to serve, and what a start waits


@pytest.fixture
def files(make_files: Callable[..., DaemonFiles]) -> DaemonFiles:
    volumes = {f"v{number}": "32MiB" for number in range(VOLUMES)}
    return make_files(volumes=volumes, groups={"all4": list(volumes)}, tcp_port=free_port())


def restart(daemon: Daemon, *options: str) -> dict[str, Any]:
    """What `duplexctl restart` says of one that succeeded."""
    done = run_duplexctl(daemon.files, "restart", "--json", *options)
    assert done.returncode == 0, f"{done.stderr}\n{daemon.log()[-4000:]}"
    answer = json.loads(done.stdout)
    assert isinstance(answer, dict)
    return answer


def wait_restarted(daemon: Daemon, begun: dict[str, Any]) -> dict[str, Any]:
    """What the last of the programs says of the restart that was begun; the first one and the
    stand-in may answer before it, and end amid a request.
    """
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError, HTTPException):
            status, answer = daemon.request("GET", "/v1/restart")
            if status == 200 and answer["last"] and answer["program"] != begun["program"]:
                last: dict[str, Any] = answer["last"]
                return last
        time.sleep(0.02)
    raise AssertionError(f"not restarted\n{daemon.log()[-4000:]}")


def wait_duplex(daemon: Daemon) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
        if all(volume["state"] == "DUPLEX" for volume in volumes):
            return
        time.sleep(0.02)
    raise AssertionError("not DUPLEX")


# -------------------------------------------------------------------------------------- under load


def fio(files: DaemonFiles, number: int) -> subprocess.Popen[str]:
    """Random writes that are read again and compared, by one connection of its own range."""
    uri = files.uri(f"v{number % VOLUMES}", tcp=number % 2 == 1)
    part = number // VOLUMES
    return subprocess.Popen(
        [
            "fio", f"--name=c{number}", "--ioengine=nbd", f"--uri={uri}", "--rw=randwrite",
            "--bsrange=4k-128k", "--iodepth=8", f"--offset={part * 8 * MIB}", "--size=8m",
            "--time_based", "--runtime=3600", "--verify=crc32c", "--verify_fatal=1",
            "--verify_backlog=64", "--serialize_overlap=1", "--output-format=json",
            f"--output={files.directory}/c{number}.json",
        ],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=files.directory,
    )  # fmt: skip


def test_clients_under_load_see_a_pause_and_no_error(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    wait_duplex(daemon)
    pid, kept = daemon.pid, []
    with ExitStack() as stack:
        clients = [stack.enter_context(fio(files, number)) for number in range(CLIENTS)]
        for _ in range(RESTARTS):
            wait_load(daemon)
            done = restart(daemon)
            assert daemon.pid == pid
            assert done["clients_lost"] == 0
            kept.append(done["clients_kept"])
        wait_load(daemon)
        for client in clients:
            assert client.poll() is None, client.communicate()[0]  # no check has failed
            client.send_signal(signal.SIGINT)
        for number, client in enumerate(clients):
            output, _ = client.communicate(timeout=PATIENCE_SECONDS)
            report = (files.directory / f"c{number}.json").read_text()
            (job,) = json.loads(report[report.index("{") :])[
                "jobs"
            ]  # behind what it says of SIGINT
            assert job["error"] == 0, output
            assert job["write"]["total_ios"] > 0
    assert kept[-1] == CLIENTS  # fio has one more for a moment, at its start
    verified = run_duplexctl(daemon.files, "verify", "all4")
    assert verified.returncode == 0, verified.stdout
    assert daemon.stop() == 0


def wait_load(daemon: Daemon) -> None:
    """Until all clients are there, and changes come."""
    deadline, began = time.monotonic() + PATIENCE_SECONDS, 0
    while time.monotonic() < deadline:
        status = daemon.request("GET", "/v1/status")[1]
        sequence, volumes = status["controller"]["sequence"], status["volumes"]
        began = began or sequence
        if sum(v["connections"] for v in volumes) >= CLIENTS and sequence > began + 100:
            return
        time.sleep(0.02)
    raise AssertionError("no load")


# ----------------------------------------------------------------------------------- half requests


def received(talk: Talk, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = talk._socket.recv(count - len(data))
        assert piece, "the server hung up"
        data += piece
    return data


def reply_to(talk: Talk) -> tuple[int, int, int]:
    magic, error, cookie = SIMPLE_REPLY.unpack(received(talk, SIMPLE_REPLY.size))
    return magic, error, cookie


LENGTHS = (4096, MIB, 24 * MIB)  # in the receive buffer; in memory of its own; taken in pieces
SENT = (11, REQUEST.size, REQUEST.size + 1000, -1000)


def test_the_watchdog_waits_while_the_process_loads_the_next_program(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    with closing(ServiceManager(tmp_path / "notify")) as manager:
        daemon = start_daemon(files, env=manager.environment(watchdog_s=30.0))
        restart(daemon)
        manager.wait("WATCHDOG_USEC=", count=2)
        first, second = manager.having("WATCHDOG_USEC=")
        assert manager.messages[first] == f"WATCHDOG_USEC={int(LOADED_SECONDS_MAX * 1e6)}"
        assert manager.messages[second] == "WATCHDOG_USEC=30000000"
        manager.wait("WATCHDOG=1", count=len(manager.having("WATCHDOG=1")) + 1)


def test_half_requests_are_completed_after_it(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    files.volumes = {**files.volumes, "v0": "512MiB"}
    daemon = start_daemon(files.write())
    cases = [(length, sent) for length in LENGTHS for sent in SENT]
    with ExitStack() as stack:
        halves = []
        for number, (length, sent) in enumerate(cases):
            talk, offset = Talk(files.nbd_socket, "v0"), number * 32 * MIB + 4096
            stack.callback(talk.close)
            payload = os.urandom(length)
            request = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, 7, offset, length) + payload
            talk._socket.sendall(request[:sent])
            halves.append((talk, offset, payload, request[sent:]))
        done = restart(daemon)
        assert (done["clients_kept"], done["clients_lost"]) == (len(cases), 0)
        for talk, offset, payload, rest in halves:
            talk._socket.sendall(rest)
            assert reply_to(talk) == (c.SIMPLE_REPLY_MAGIC, 0, 7)
            pieces = range(0, len(payload), MIB)
            read = [talk.read(offset + at, min(MIB, len(payload) - at)) for at in pieces]
            assert b"".join(read) == payload


def test_an_idle_client_goes_on_again_and_again(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    with (
        closing(Talk(files.nbd_socket, "v0")) as unix,
        closing(Talk(files.tcp_port or 0, "v1")) as tcp,
    ):
        for turn in range(3):
            block = bytes([turn]) * 512
            unix.write(0, block)
            tcp.write(0, block)
            done = restart(daemon)
            assert (done["clients_kept"], done["clients_lost"]) == (2, 0)
            assert unix.read(0, 512) == tcp.read(0, 512) == block
        connections = [v["connections"] for v in daemon.request("GET", "/v1/status")[1]["volumes"]]
        assert connections == [1, 1, 0, 0]


READS, READ_BYTES = 1024, 16 << 10  # more than sockets and the daemon take at once


def test_replies_that_a_client_has_not_taken_arrive(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    content = os.urandom(READS * READ_BYTES)
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        for at in range(0, len(content), MIB):
            talk.write(at, content[at : at + MIB])
        sock = talk._socket
        places = [(number, number * READ_BYTES, READ_BYTES) for number in range(READS)]
        asked = [REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_READ, *place) for place in places]
        sock.sendall(b"".join(asked))
        assert restart(daemon)["clients_kept"] == 1
        found = {}
        for _ in range(READS):
            magic, error, cookie = reply_to(talk)
            assert (magic, error) == (c.SIMPLE_REPLY_MAGIC, 0)
            found[cookie] = received(talk, READ_BYTES)
        assert b"".join(found[number] for number in range(READS)) == content


def test_a_client_that_stalls_is_kept(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    """It takes no replies, or is in the middle of a payload that is refused."""
    daemon = start_daemon(files)
    content, too_long = os.urandom(4 * MIB), (64 << 20) + 1
    reads = [(number, number % 4 * MIB, MIB) for number in range(40)]
    asked = b"".join(REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_READ, *place) for place in reads)
    refused = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, 99, 0, too_long)
    written = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, 98, 8 * MIB, 512) + b"w" * 512
    with (
        closing(Talk(files.nbd_socket, "v0")) as reader,
        closing(Talk(files.nbd_socket, "v1")) as skipped,
    ):
        for at in range(0, len(content), MIB):
            reader.write(at, content[at : at + MIB])
        reader._socket.sendall(asked + written)
        skipped._socket.sendall(refused + bytes(1000))
        assert restart(daemon)["clients_kept"] == 2
        skipped._socket.sendall(bytes(too_long - 1000))
        assert reply_to(skipped) == (c.SIMPLE_REPLY_MAGIC, c.EINVAL, 99)
        skipped.write(0, b"x" * 512)
        for _ in range(len(reads) + 1):
            magic, error, cookie = reply_to(reader)
            assert (magic, error) == (c.SIMPLE_REPLY_MAGIC, 0)
            if cookie == 98:
                continue
            data = received(reader, MIB)
            assert data == content[reads[cookie][1] :][:MIB]
        assert reader.read(8 * MIB, 512) == b"w" * 512


def test_held_writes_are_done_and_answered(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    request = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, 3, 0, 512) + b"h" * 512
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        status, lease = daemon.request("POST", "/v1/quiesce", {"targets": ["v0"], "hold_s": 10})
        assert status == 200, lease
        talk._socket.sendall(request)
        done = restart(daemon)
        assert (done["clients_kept"], done["clients_lost"]) == (1, 0)
        assert reply_to(talk) == (c.SIMPLE_REPLY_MAGIC, 0, 3)
        assert talk.read(0, 512) == b"h" * 512


def test_a_socket_whose_file_was_removed_is_made_again(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        files.nbd_socket.unlink()
        assert restart(daemon)["clients_kept"] == 1
        assert talk.read(0, 512) == b"x" * 512
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        assert talk.read(0, 512) == b"x" * 512


@pytest.mark.parametrize("what", ["deleted", "replaced"])
def test_it_is_refused_where_the_state_is_not_at_its_path(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], what: str
) -> None:
    """No program could go on with it: clients would be without their volumes."""
    daemon = start_daemon(files)
    state, away = files.state_dir, files.state_dir.with_name("away")
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        state.rename(away)
        if what == "replaced":
            state.mkdir(mode=0o700)
        refused = run_duplexctl(files, "restart")
        assert refused.returncode == 5, refused
        assert "is not the directory that is used" in refused.stderr
        talk.write(0, b"x" * 512)
        if state.exists():
            shutil.rmtree(state)  # also what a checkpoint put there meanwhile
        away.rename(state)
        assert restart(daemon)["clients_kept"] == 1
        assert talk.read(0, 512) == b"x" * 512


# ------------------------------------------------------------------------------ who cannot be kept


def test_a_client_with_tls_is_disconnected_and_said_to_be(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    port, server = free_port(), tmp_path / "server"
    server.mkdir()
    own = Certificates(server)
    files.extra = (
        f'[[nbd.listeners]]\naddress = "tcp:localhost:{port}"\ntls = "required"\n'
        f'[nbd.tls]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
    )
    daemon = start_daemon(files.write())
    (server / "ca-cert.pem").write_bytes(own.client_ca.read_bytes())
    uri = f"nbds://localhost:{port}/v0?tls-certificates={server}"
    connects = f"h = nbd.NBD(); h.set_uri_allow_local_file(True); h.connect_uri('{uri}')"
    reads = "h.pread(512, 0); print('read', flush=True); input(); h.pread(512, 0)"
    with subprocess.Popen(
        [DEBIAN_PYTHON, "-c", f"import nbd; {connects}; {reads}"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as client, closing(Talk(files.nbd_socket, "v0")) as plain:  # fmt: skip
        assert client.stdout is not None
        assert client.stdout.readline() == "read\n", client.communicate("\n")[1]
        done = restart(daemon)
        assert (done["clients_kept"], done["clients_lost"]) == (1, 1)
        plain.read(0, 512)
        assert "nbd.Error" in client.communicate("\n", timeout=PATIENCE_SECONDS)[1]


def test_a_client_without_tls_is_disconnected_where_that_is_required_now(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    port, own = free_port(), Certificates(tmp_path)

    def listener(rules: str) -> str:
        return (
            f'[[nbd.listeners]]\naddress = "tcp:127.0.0.1:{port}"\n{rules}\n'
            f'[nbd.tls]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
        )

    files.extra = listener('tls = "optional"\ninsecure = true')
    daemon = start_daemon(files.write())
    with closing(Talk(port, "v0")) as plain, closing(Talk(files.nbd_socket, "v0")) as unix:
        plain.write(0, b"x" * 512)
        files.extra = listener('tls = "required"')
        files.write()
        done = restart(daemon)
        assert (done["clients_kept"], done["clients_lost"]) == (1, 1)
        with pytest.raises(ConnectionError):
            plain.read(0, 512)
        assert unix.read(0, 512) == b"x" * 512


# --------------------------------------------------------------------------- the program that fails


@pytest.mark.parametrize("role", ["a", "b"])
def test_an_image_that_hangs_refuses_it_and_clients_do_not_wait(
    make_files: Callable[..., DaemonFiles],
    start_daemon: Callable[..., Daemon],
    tmp_path: Path,
    role: str,
) -> None:
    patience = [f"{leg}_timeout = 1" for leg in ("primary", "secondary")]
    with faulty_disk(tmp_path / role) as disk:
        files = make_files(volumes={"v0": "8MiB", "v1": "8MiB"}, controller=patience)
        daemon = start_daemon(files)
        with closing(Talk(files.nbd_socket, "v0")) as talk:
            talk.write(0, b"x" * 512)
            stuck = disk.hang(pattern="v1.img")
            refused = run_duplexctl(files, "restart")
            assert refused.returncode == 5, refused
            assert "v1.img" in refused.stderr
            assert "nothing changed" in refused.stderr
            assert talk.read(0, 512) == b"x" * 512
            stuck.lift()
            assert daemon.request("GET", "/v1/restart")[1]["last"] is None
        daemon.kill()  # before its disk goes


@pytest.mark.parametrize("where", ["nbd", "metrics", "control"])
def test_an_address_that_is_taken_keeps_clients_waiting_for_a_moment_only(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], where: str
) -> None:
    """Of the new configuration. The old program goes on, by the sockets that it had."""
    daemon = start_daemon(files)
    pid = daemon.pid
    with closing(Talk(files.nbd_socket, "v0")) as talk, closing(socket.socket()) as taken:
        talk.write(0, b"x" * 512)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"tcp:127.0.0.1:{taken.getsockname()[1]}"
        other = files.directory / "other.sock"
        with closing(socket.socket(socket.AF_UNIX)) as unix:
            unix.bind(str(other))
            unix.listen()
            changed = {
                "nbd": files.text().replace("listen = [", f'listen = ["{address}", '),
                "metrics": f'{files.text()}[metrics]\nlisten = "{address}"\n',
                "control": files.text().replace(str(files.control_socket), str(other)),
            }
            files.config.write_text(changed[where])
            began = time.monotonic()
            done = run_duplexctl(files, "restart")
            assert done.returncode == 1, (done, daemon.log()[-4000:])
            assert "serves again" in done.stderr
            assert talk.read(0, 512) == b"x" * 512
            assert time.monotonic() - began < ADDRESS_SECONDS_MAX
        assert "not possible yet" in daemon.log()
        files.write()
        assert restart(daemon)["clients_kept"] == 1
        assert daemon.pid == pid
        assert talk.read(0, 512) == b"x" * 512


def without_v1(files: DaemonFiles) -> None:
    files.groups = {}
    files.volumes = {name: size for name, size in files.volumes.items() if name != "v1"}
    files.write()


def without_its_secondary(files: DaemonFiles) -> None:
    lines = files.text().splitlines()
    files.config.write_text(
        "\n".join(line for line in lines if str(files.secondary_of("v1")) not in line)
    )


def with_another_secondary(files: DaemonFiles) -> None:
    old = files.secondary_of("v1")
    files.config.write_text(files.text().replace(str(old), str(old.with_name("another.img"))))


@pytest.mark.parametrize("less", [without_v1, without_its_secondary, with_another_secondary])
def test_no_image_is_given_up(
    files: DaemonFiles,
    start_daemon: Callable[..., Daemon],
    less: Callable[[DaemonFiles], None],
) -> None:
    """If the next program failed when it has recovered, the one before it would have the image in
    its configuration still. It would begin it anew, and copy over the cut.
    """
    daemon = start_daemon(files)
    wait_duplex(daemon)
    with closing(Talk(files.nbd_socket, "v1")) as talk:
        talk.write(0, b"cut!" * 128)
        assert run_duplexctl(files, "suspend", "v1").returncode == 0
        talk.write(0, b"past" * 128)
        less(files)
        done = run_duplexctl(files, "restart")
        assert done.returncode == 5, (done, daemon.log()[-4000:])
        assert "`duplexctl reload` first" in done.stderr
        assert talk.read(0, 512) == b"past" * 128
        found = {each["name"]: each for each in daemon.request("GET", "/v1/status")[1]["volumes"]}
        assert found["v1"]["state"] == "SUSPENDED"
        assert found["v1"]["secondary"]["cut"]["verdict"] == "consistent"
        with files.secondary_of("v1").open("rb") as secondary:
            assert secondary.read(512) == b"cut!" * 128


@pytest.mark.parametrize("other", ["none", "exchanged with v1"])
def test_a_primary_that_is_another_image_refuses_it(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], other: str
) -> None:
    """A volume that is served would not be, or from its secondary alone."""
    daemon = start_daemon(files)
    wait_duplex(daemon)
    mine, text = str(files.primary("v0")), files.text()
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        theirs = str(files.primary("none" if other == "none" else "v1"))
        changed = text.replace(theirs, "THEIRS").replace(mine, theirs).replace("THEIRS", mine)
        files.config.write_text(changed)
        refused = run_duplexctl(files, "restart")
        assert refused.returncode == 5, refused
        assert "is not the image that the volume is served from" in refused.stderr
        assert "nothing changed" in refused.stderr
        assert talk.read(0, 512) == b"x" * 512


def test_an_image_that_was_moved_is_found(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    wait_duplex(daemon)
    primary = files.primary("v0")
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        moved = primary.rename(primary.with_name("moved.img"))
        files.config.write_text(files.text().replace(str(primary), str(moved)))
        assert restart(daemon)["clients_kept"] == 1
        assert talk.read(0, 512) == b"x" * 512
        wait_duplex(daemon)


class StandIn(Daemon):
    """A daemon whose next program fails as `fault` says; see `tests/support/next_program.py`."""

    fault = ""

    def command(self) -> list[str]:
        program = str(ROOT / "tests" / "support" / "next_program.py")
        config = str(self.files.config)
        return [sys.executable, program, str(self.plan), "run", "--config", config]

    @property
    def plan(self) -> Path:
        return self.files.directory / "plan"

    def fails(self, fault: str) -> None:
        self.plan.write_text(fault)


@pytest.fixture
def stand_in(files: DaemonFiles) -> Iterator[StandIn]:
    daemon = StandIn(files)
    daemon.fails("")
    daemon.start()
    yield daemon
    daemon.kill()
    assert "Traceback (most recent call last)" not in daemon.log(), daemon.log()[-8000:]


def no_file(daemon: StandIn) -> None:
    daemon.files.config.unlink()


def nonsense(daemon: StandIn) -> None:
    daemon.files.config.write_text("nonsense")


REFUSALS = {
    "no configuration": (no_file, "duplexd.toml"),
    "a wrong configuration": (nonsense, "duplexd.toml"),
    "it is gone": (lambda daemon: daemon.fails("gone"), "gone"),
    "it reads no such journal": (lambda daemon: daemon.fails("older"), "writes journal="),
    "it says nothing": (lambda daemon: daemon.fails("silent"), "does not say that it can"),
}


def test_what_the_next_program_refuses_changes_nothing(stand_in: StandIn) -> None:
    daemon = stand_in
    with closing(Talk(daemon.files.nbd_socket, "v0")) as talk:
        for name, (spoil, why) in REFUSALS.items():
            spoil(daemon)
            refused = run_duplexctl(daemon.files, "restart")
            assert refused.returncode == 5, (name, refused.stderr)
            assert "nothing changed" in refused.stderr
            assert why in refused.stderr
            talk.write(0, name.encode().ljust(512))
            daemon.files.write()
            daemon.fails("")
        assert restart(daemon)["clients_kept"] == 1
        assert talk.read(0, 512) == name.encode().ljust(512)


EARLY = [
    "recovery",
    pytest.param("lock", marks=pytest.mark.long),
    pytest.param("listen", marks=pytest.mark.long),
]


@pytest.mark.parametrize("fault", EARLY)
def test_if_the_next_program_cannot_serve_the_one_before_it_goes_on(
    stand_in: StandIn, fault: str
) -> None:
    daemon = stand_in
    half = REQUEST.pack(c.REQUEST_MAGIC, 0, c.CMD_WRITE, 7, 512, 512) + b"h" * 512
    with closing(Talk(daemon.files.nbd_socket, "v0")) as talk:
        talk.write(0, b"before" * 128)
        talk._socket.sendall(half[:100])
        daemon.fails(fault)
        refused = run_duplexctl(daemon.files, "restart")
        assert refused.returncode == 1, refused
        assert "could not be started" in refused.stderr
        assert f"stand-in: {fault}" in daemon.log()
        talk._socket.sendall(half[100:])
        assert reply_to(talk) == (c.SIMPLE_REPLY_MAGIC, 0, 7)
        assert talk.read(0, 1024) == (b"before" * 128)[:512] + b"h" * 512
        daemon.fails("")
        assert restart(daemon)["clients_kept"] == 1


def test_volumes_grow_once_there_is_no_way_back(stand_in: StandIn) -> None:
    """The program before goes on with the size that it has in its configuration."""
    daemon = stand_in
    wait_duplex(daemon)
    with closing(Talk(daemon.files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        daemon.files.volumes = {**daemon.files.volumes, "v0": "64MiB"}
        daemon.files.write()
        daemon.fails("listen")
        assert run_duplexctl(daemon.files, "restart").returncode == 1
        assert sizes(daemon) == [32 * MIB] * VOLUMES
        assert talk.read(0, 512) == b"x" * 512
        daemon.fails("")
        assert restart(daemon)["clients_kept"] == 1
        assert sizes(daemon) == [64 * MIB, *[32 * MIB] * (VOLUMES - 1)]
        assert talk.read(0, 512) == b"x" * 512
    verified = run_duplexctl(daemon.files, "verify", "v0")
    assert verified.returncode == 0, verified.stdout


def sizes(daemon: Daemon) -> list[int]:
    return [volume["size"] for volume in daemon.request("GET", "/v1/status")[1]["volumes"]]


def read_for_ever(talk: Talk) -> None:
    while True:
        talk.read(0, 512)


LATE = [
    *("adopt", "process-recovery"),
    *(
        pytest.param(fault, marks=pytest.mark.long)
        for fault in ("killed", *(f"process-{each}" for each in ("inherit", "lock", "control")))
    ),
    *(pytest.param(f"process-{each}", marks=pytest.mark.long) for each in ("listen", "adopt")),
]


@pytest.mark.parametrize("fault", LATE)
def test_a_next_program_that_fails_loses_nothing(stand_in: StandIn, fault: str) -> None:
    """One that fails beside the process is followed by the process itself, anew."""
    daemon = stand_in
    with closing(Talk(daemon.files.nbd_socket, "v0")) as talk:
        talk.write(0, b"before" * 128)
        daemon.fails(fault)
        status, answer = daemon.request("POST", "/v1/restart", {})
        assert status == 200, answer
        if fault.startswith("process-"):
            assert daemon.wait() != 0
        with pytest.raises(OSError):
            read_for_ever(talk)  # it is served until the restart begins
    daemon.fails("")
    if fault.startswith("process-"):
        daemon.start()
    else:
        daemon.wait_ready()
    with closing(Talk(daemon.files.nbd_socket, "v0")) as talk:
        assert talk.read(0, 768) == b"before" * 128
    verified = run_duplexctl(daemon.files, "verify", "all4")
    assert verified.returncode == 0, verified.stdout
    assert f"stand-in: {fault}" in daemon.log()


def test_a_daemon_that_was_started_anew_is_a_failure(stand_in: StandIn) -> None:
    """As a service manager does; the command must not call that a restart in place."""
    daemon = stand_in
    daemon.fails("process-recovery")
    command = [sys.executable, "-m", "duplexd.duplexctl.cli", "--socket"]
    asking = subprocess.Popen(
        [*command, str(daemon.files.control_socket), "restart"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    with asking:
        assert daemon.wait() != 0
        daemon.fails("")
        daemon.start()
        _, said = asking.communicate(timeout=PATIENCE_SECONDS)
    assert asking.returncode == 1, said
    assert "started anew" in said


def test_without_a_program_to_become_it_goes_on_by_itself(stand_in: StandIn) -> None:
    """The file went away between the question and the exec."""
    daemon = stand_in
    daemon.fails("exec")
    with closing(Talk(daemon.files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        done = run_duplexctl(daemon.files, "restart")
        assert done.returncode == 1, done  # what the caller wanted is not so
        assert "could not be started" in done.stderr
        assert talk.read(0, 512) == b"x" * 512
        daemon.wait_log("the next program cannot be started")
        daemon.wait_log("stand-in: deadlines 0")  # one that goes on would end the process
        daemon.fails("")
        assert restart(daemon)["clients_kept"] == 1


def test_without_a_program_to_become_it_goes_on_as_the_stand_in_has_served(
    stand_in: StandIn,
) -> None:
    """That has added a volume, and clients may have written to it."""
    daemon, files = stand_in, stand_in.files
    wait_duplex(daemon)
    files.volumes = {**files.volumes, "new": "8MiB"}
    files.write()
    daemon.fails("exec")
    done = run_duplexctl(files, "restart")
    assert done.returncode == 1, done
    volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
    assert {volume["name"] for volume in volumes} == files.volumes.keys()
    assert daemon.request("POST", "/v1/reload", {})[1]["changes"] == []


@pytest.mark.parametrize("fault", ["recovery", "exec"])
def test_a_program_that_goes_on_keeps_nothing_of_the_next_one(
    stand_in: StandIn, fault: str
) -> None:
    daemon = stand_in
    daemon.fails(fault)

    def fail() -> None:
        assert run_duplexctl(daemon.files, "restart").returncode == 1

    def kept() -> int:
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))

    fail()
    before = kept()
    fail()
    fail()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while kept() > before or children(daemon.pid):
        assert time.monotonic() < deadline, (before, kept(), children(daemon.pid))
        time.sleep(0.02)


def children(pid: int) -> str:
    """Their numbers; also of those that have ended, and that nobody has waited for."""
    threads = Path(f"/proc/{pid}/task").iterdir()
    return "".join((thread / "children").read_text() for thread in threads)


def test_a_signal_while_clients_are_handed_over_stops_the_daemon(files: DaemonFiles) -> None:
    daemon = StandIn(files)
    daemon.fails("slow")
    daemon.start()
    with closing(Talk(files.nbd_socket, "v1")) as other:
        other.write(0, b"x" * 512)
        assert daemon.request("POST", "/v1/restart", {})[0] == 200
        daemon.wait_log("stand-in: slow")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    assert not files.nbd_socket.exists()
    assert not files.control_socket.exists()


def test_a_signal_in_the_middle_stops_the_next_program_in_order(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        assert daemon.request("POST", "/v1/restart", {})[0] == 200
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
    daemon.start()
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        assert talk.read(0, 512) == b"x" * 512


@pytest.mark.parametrize("edited", ["half a file", "without the volume"])
def test_a_configuration_that_is_edited_in_the_middle_waits_for_a_reload(
    files: DaemonFiles, start_daemon: Callable[..., Daemon], edited: str
) -> None:
    """The stand-in has checked another one, and the process serves by that."""
    daemon = start_daemon(files)
    with closing(Talk(files.nbd_socket, "v0")) as talk:
        talk.write(0, b"x" * 512)
        before, whole = len(daemon.lines()), files.config.read_text()
        begun = daemon.request("POST", "/v1/restart", {})[1]
        daemon.wait_log("restarting in place", after=before)
        files.config.write_text("[controller" if edited == "half a file" else _without_v0(whole))
        last = wait_restarted(daemon, begun)
        assert (last["id"], last["clients_kept"]) == (begun["id"], 1)
        assert talk.read(0, 512) == b"x" * 512
        status, answer = daemon.request("POST", "/v1/reload", {"check": True})
        assert (status, answer["exit_code"]) == {"half a file": (422, 6)}.get(edited, (409, 5))
        files.config.write_text(whole)
        assert daemon.request("POST", "/v1/reload", {})[1]["changes"] == []


def _without_v0(text: str) -> str:
    """Other volumes and groups stay."""
    return text.replace('[volumes."v0"]', '[volumes."renamed"]').replace('"v0"', '"renamed"')


class Activated(Daemon):
    """A daemon that also serves a socket which its service manager listens on."""

    passed: socket.socket

    def spawn(self) -> subprocess.Popen[bytes]:
        activation = 'exec 3<&"$0"; LISTEN_FDS=1 LISTEN_PID=$$ exec "$@"'
        descriptor = str(self.passed.fileno())
        with self.log_path.open("ab") as log:
            return subprocess.Popen(
                ["bash", "-c", activation, descriptor, *self.command()],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment(),
                cwd=self.files.directory, pass_fds=[self.passed.fileno()],
            )  # fmt: skip


def test_passed_sockets_that_went_with_a_stand_in_are_not_done_without(files: DaemonFiles) -> None:
    """Only who passed them has them still: clients would wait there, beside a daemon that looks
    well. The exit status is one after which systemd starts it again.
    """
    daemon, path = Activated(files), files.directory / "passed.sock"
    with closing(socket.socket(socket.AF_UNIX)) as daemon.passed:
        daemon.passed.bind(str(path))
        daemon.passed.listen()
        daemon.start()
        try:
            with closing(Talk(path, "v0")) as talk:
                talk.write(0, b"x" * 512)
                assert restart(daemon)["clients_kept"] == 1
                before = len(daemon.lines())
                assert daemon.request("POST", "/v1/restart", {})[0] == 200
                daemon.wait_log('"event": "ready"', after=before)
                os.kill(started(daemon.log(), before), signal.SIGKILL)
                assert daemon.wait() == 1, daemon.log()[-4000:]
            daemon.start()
            with closing(Talk(path, "v0")) as talk:
                assert talk.read(0, 512) == b"x" * 512
        finally:
            daemon.kill()


def started(log: str, after: int) -> int:
    """The process that the first line with one, behind so many, is of."""
    lines = [line for line in log.split("\n")[after:] if '"event": "starting"' in line]
    return int(json.loads(lines[0])["pid"])

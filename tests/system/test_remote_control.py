"""A real daemon over TLS: the roles, holds that end with their peer, docs/remote-control.md."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.limits import ApiLimits
from tests.support.certificates import HOST, Certificates, ask, open_answer
from tests.support.daemon import PATIENCE_SECONDS, ROOT, Daemon, environment, free_port, run_duplexd
from tests.support.netns import Network

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from tests.support.daemon import DaemonFiles

BACKUP, MONITOR = "backup.example", "monitor.example"
PAGE = ROOT / "docs" / "remote-control.md"
SUSPEND = ("POST", "/v1/suspend", {"targets": ["data"]})

# Follows the events, takes a hold, says so, and reads no further: the test stops it then.
HOLDER = """
import ssl, sys
from tests.support.certificates import open_answer
host, port, ca, client, hold_s = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
context.load_cert_chain(client)
hold = {"targets": ["data"], "hold_s": float(hold_s)}
with open_answer(int(port), context, "GET", "/v1/events", None, host):
    with open_answer(int(port), context, "POST", "/v1/quiesce", hold, host) as answer:
        print(answer.readline().decode(), end="", flush=True)
        sys.stdin.read()
"""


class Served:
    """A daemon with one pair and a TLS listener, and clients of both roles."""

    def __init__(self, daemon: Daemon, certificates: Certificates, port: int) -> None:
        self.daemon = daemon
        self.certificates = certificates
        self.port = port
        self.backup_file = certificates.client(BACKUP)
        self.backup = certificates.context(self.backup_file)
        self.monitor = certificates.context(certificates.client(MONITOR))

    def ask(
        self, context: ssl.SSLContext, method: str, path: str, body: object = None
    ) -> tuple[int, Any]:
        return ask(self.port, context, method, path, body)

    def configure(self, **names: tuple[str, ...]) -> None:
        """Other lists of names, and a reload."""
        self.daemon.files.extra = self.certificates.toml(self.port, **names)
        self.daemon.files.write()
        before = self.daemon.log().count('"reloaded"')
        self.daemon.signal(signal.SIGHUP)
        eventually(lambda: self.daemon.log().count('"reloaded"') > before)


def eventually(holds: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def served(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> Served:
    (tmp_path / "tls").mkdir()
    certificates, port = Certificates(tmp_path / "tls"), free_port()
    extra = certificates.toml(port, operate=(BACKUP,), observe=(MONITOR,))
    return Served(start_daemon(make_files(extra=extra)), certificates, port)


def test_an_operator_suspends_and_an_observer_sees_it(served: Served) -> None:
    status, cut = served.ask(served.backup, *SUSPEND)
    assert (status, cut["verdict"]) == (200, "consistent")
    status, seen = served.ask(served.monitor, "GET", "/v1/status")
    assert (status, seen["volumes"][0]["state"]) == (200, "SUSPENDED")
    assert seen["volumes"][0]["secondary"]["cut"]["id"] == cut["cut"]
    line = json.loads(served.daemon.wait_log('"command": "suspend"'))
    assert line["certificate"] == BACKUP
    assert "uid" not in line
    assert served.daemon.stop() == 0


def test_an_observer_cannot_change_anything(served: Served) -> None:
    status, problem = served.ask(served.monitor, *SUSPEND)
    assert (status, problem["exit_code"]) == (403, 4)
    assert problem["detail"].startswith(
        f"client certificate {MONITOR!r} has the role observe, this needs the role operate: "
    )
    assert served.ask(served.monitor, "GET", "/v1/status")[1]["volumes"][0]["state"] == "DUPLEX"


def test_a_stream_that_is_closed_ends_its_hold(served: Served) -> None:
    with open_answer(
        served.port, served.backup, "POST", "/v1/quiesce", {"targets": ["data"], "hold_s": 10}
    ) as answer:
        held = json.loads(answer.readline())
        assert held["event"] == "held"
        (lease,) = served.daemon.request("GET", "/v1/status")[1]["leases"]
        assert (lease["id"], lease["owner"]) == (held["lease"]["id"], f"certificate {BACKUP}")
    assert served.daemon.hold_ended(held["lease"]["id"])["reason"] == "owner gone"
    assert served.daemon.request("GET", "/v1/status")[1]["leases"] == []


def test_a_stopped_client_keeps_no_hold_beyond_its_deadline(served: Served) -> None:
    command = [
        sys.executable,
        "-c",
        HOLDER,
        HOST,
        str(served.port),
        str(served.certificates.client_ca),
        str(served.backup_file),
        "1.5",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
    ) as holder:
        try:
            assert holder.stdout
            assert json.loads(holder.stdout.readline())["event"] == "held"
            os.kill(holder.pid, signal.SIGSTOP)
            eventually(lambda: served.daemon.request("GET", "/v1/status")[1]["leases"] == [])
            assert served.ask(served.backup, *SUSPEND)[1]["verdict"] == "consistent"
        finally:
            os.kill(holder.pid, signal.SIGKILL)


def test_a_partitioned_client_keeps_neither_hold_nor_connection(
    tmp_path: Path, make_files: Callable[..., DaemonFiles]
) -> None:
    (tmp_path / "tls").mkdir()
    with Network(["client", "alpha"], delay_s=0.0, loss=0.0, seed=1) as network:
        certificates, port, address = (
            Certificates(tmp_path / "tls"),
            free_port(),
            network.address("alpha"),
        )
        certificates.renew_server(address)
        tls = certificates.toml(port, operate=(BACKUP,)).replace(HOST, address)
        daemon = Daemon(make_files(extra=tls), prefix=network.inside("alpha"))
        files = [str(certificates.client_ca), str(certificates.client(BACKUP)), "5"]
        command = [
            *network.inside("client"),
            sys.executable,
            "-c",
            HOLDER,
            address,
            str(port),
            *files,
        ]
        try:
            daemon.start()
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=ROOT
            ) as holder:
                assert holder.stdout
                assert json.loads(holder.stdout.readline())["event"] == "held"
                assert (
                    established(daemon.pid, port) == 2
                )  # the hold's and one that follows the events
                network.cut_off("client")
                eventually(lambda: daemon.request("GET", "/v1/status")[1]["leases"] == [])
                eventually(
                    lambda: established(daemon.pid, port) == 0,
                    ApiLimits().peer_silent_seconds_max + PATIENCE_SECONDS,
                )
                holder.kill()
            assert daemon.stop() == 0
        finally:
            daemon.kill()
    assert "Traceback" not in daemon.log()


def established(pid: int, port: int) -> int:
    """Connections that the kernel keeps at this port, in the network of the process."""
    rows = [line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(f":{port:04X}") and row[3] == "01" for row in rows)


def test_a_reload_applies_a_renewed_certificate_and_other_names(served: Served) -> None:
    def shown() -> bytes | None:
        with (
            socket.create_connection((HOST, served.port), PATIENCE_SECONDS) as plain,
            served.backup.wrap_socket(plain, server_hostname=HOST) as sock,
        ):
            return sock.getpeercert(binary_form=True)

    before = shown()
    served.certificates.renew_server()
    served.configure(observe=(BACKUP,))
    assert shown() != before
    assert served.ask(served.backup, "GET", "/v1/status")[0] == 200
    assert served.ask(served.backup, *SUSPEND)[0] == 403
    assert "no role here" in served.ask(served.monitor, "GET", "/v1/status")[1]["detail"]


def test_a_reload_with_a_broken_certificate_changes_nothing(served: Served) -> None:
    served.certificates.certificate.write_text("nothing")
    served.daemon.signal(signal.SIGHUP)
    line = json.loads(served.daemon.wait_log("reload refused"))
    assert "control.tls.certificate: " in line["problems"][0]
    assert served.ask(served.monitor, "GET", "/v1/status")[0] == 200


def test_a_port_in_use_is_waited_for(
    make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon], tmp_path: Path
) -> None:
    (tmp_path / "tls").mkdir()
    certificates = Certificates(tmp_path / "tls")
    with socket.create_server((HOST, 0)) as other:
        port = other.getsockname()[1]
        files = make_files(extra=certificates.toml(port, operate=(BACKUP,)))
        daemon = start_daemon(files, ready=False)
        daemon.wait_log(
            "not possible yet, trying again",
            f"control.tls.listen[0]: cannot listen on tcp:{HOST}:{port}: Address already in use",
        )
    daemon.wait_ready()
    assert daemon.stop() == 0


def test_check_reports_a_world_readable_key(
    make_files: Callable[..., DaemonFiles], tmp_path: Path
) -> None:
    (tmp_path / "tls").mkdir()
    certificates = Certificates(tmp_path / "tls")
    files = make_files(extra=certificates.toml(free_port(), operate=(BACKUP,)))
    assert run_duplexd("check", "--config", str(files.config)).returncode == 0
    certificates.key.chmod(0o644)
    found = run_duplexd("check", "--config", str(files.config))
    assert found.returncode == 6
    assert (
        f"{files.config}: control.tls.key: '{certificates.key}' "
        "is a private key that every local user can read" in found.stderr
    )


# --------------------------------------------------------------------------------------- the page


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


def shell(text: str, directory: Path) -> str:
    """What a block of the page prints, run as it is."""
    env = {**environment(), "CURL_HOME": str(directory)}
    done = subprocess.run(
        ["bash", "-euc", text],
        cwd=directory,
        env=env,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_documented_commands_work(
    tmp_path: Path, make_files: Callable[..., DaemonFiles], start_daemon: Callable[..., Daemon]
) -> None:
    (make, use), (settings,), port = blocks("sh"), blocks("toml"), free_port()
    (tmp_path / ".curlrc").write_text(f'silent\nconnect-to = "alpha.example:10810:{HOST}:{port}"\n')
    shell(make, tmp_path)
    assert '"0.0.0.0:10810"' in settings
    daemon = start_daemon(make_files(extra=settings.replace("0.0.0.0:10810", f"{HOST}:{port}")))
    status, cut = (
        json.loads(line)
        for line in shell(use.replace("\ncurl", "\necho; curl"), tmp_path).splitlines()
    )
    assert status["controller"]["name"] == "test"
    assert cut["verdict"] == "consistent"
    # a server's certificate is none for a client, and plain HTTP gets nowhere
    url = "https://alpha.example:10810/healthz"
    for command in (
        f"curl --cacert ca.pem --cert server.pem --key server.key {url}",
        f"curl {url.replace('https', 'http')}",
    ):
        assert shell(f"{command} || echo refused", tmp_path) == "refused\n"
    daemon.wait_log('"unsuitable certificate purpose"')
    daemon.wait_log('"http request"')

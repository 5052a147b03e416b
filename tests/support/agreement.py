"""Whether `check`, a reload and a start agree on a change of the configuration.

A cell of the table is a state of a real daemon and a change of its file:

    check    `duplexd check`, while the daemon runs: its exit code
    reload   `duplexctl reload`: its exit code; if it is not 0, the status is as before
    run      the daemon is stopped, and started with the changed file: 0, or its exit code

They agree if `check` is 0 exactly where the two others are; it is 6 where the file has to be edited
before anything starts with it, and else what the reload says.
"""

from __future__ import annotations

import asyncio
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, NamedTuple

from duplexd.client import Client
from duplexd.daemon import checking
from duplexd.errors import DuplexdError
from tests.support.certificates import Certificates
from tests.support.daemon import free_port, run_duplexctl, run_duplexd
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.daemon import Daemon, DaemonFiles

_TABLE = '[volumes."data"]'


class Row(NamedTuple):
    """The exit codes, and what `check` said."""

    check: int
    reload: int
    run: int
    said: str

    @property
    def agrees(self) -> bool:
        """See above."""
        if self.run == 6:
            return self.check == 6
        return self.run == 0 and self.check == self.reload


# ----------------------------------------------------------------------------------- states


def _fill(daemon: Daemon, name: str = "data") -> None:
    with ExitStack() as stack:
        talk = Talk(daemon.files.nbd_socket, name)
        stack.callback(talk.close)
        for at in range(8):
            talk.write(at << 20, bytes([at + 1]) * (1 << 20))


def _post(daemon: Daemon, path: str, **body: object) -> None:
    status, answer = daemon.request("POST", path, body)
    assert status == 200, answer


def _duplex(daemon: Daemon, _stack: ExitStack) -> None:
    _fill(daemon)


def _used(daemon: Daemon, stack: ExitStack) -> None:
    for name in daemon.files.volumes:
        stack.callback(Talk(daemon.files.nbd_socket, name).close)


def _suspended(daemon: Daemon, _stack: ExitStack) -> None:
    _fill(daemon)
    _post(daemon, "/v1/suspend", targets=["db"], tag="t")
    _fill(daemon)


def _failed_secondary(daemon: Daemon, _stack: ExitStack) -> None:
    _fill(daemon)
    image = daemon.files.secondary_of("data")
    image.rename(image.with_suffix(".gone"))
    run_duplexctl(daemon.files, "suspend", "data")


def _pending(daemon: Daemon, stack: ExitStack) -> None:
    """A copy that takes a minute."""
    _failed_secondary(daemon, stack)
    image = daemon.files.secondary_of("data")
    image.with_suffix(".gone").rename(image)
    _post(daemon, "/v1/resync", targets=["data"])


def _swapped(daemon: Daemon, _stack: ExitStack) -> None:
    _fill(daemon)
    _post(daemon, "/v1/swap", targets=["data"])


def _no_primary(daemon: Daemon, _stack: ExitStack) -> None:
    """A volume that is not served: no image of it is there after a restart."""
    _fill(daemon)
    daemon.stop()
    for image in (daemon.files.primary("data"), daemon.files.secondary_of("data")):
        image.rename(image.with_suffix(".gone"))
    daemon.start()


STATES: dict[str, Callable[[Daemon, ExitStack], None]] = {
    "DUPLEX": _duplex,
    "in use": _used,
    "SUSPENDED at a cut": _suspended,
    "secondary gone": _failed_secondary,
    "PENDING": _pending,
    "swapped": _swapped,
    "not served": _no_primary,
}

# ----------------------------------------------------------------------------------- changes


def _replace(old: str, new: str) -> Callable[[DaemonFiles, str], str]:
    def change(_files: DaemonFiles, text: str) -> str:
        assert old in text, (old, text)
        return text.replace(old, new, 1)

    return change


def _controller(line: str) -> Callable[[DaemonFiles, str], str]:
    return _replace("[controller]\n", f"[controller]\n{line}\n")


def _volume(line: str) -> Callable[[DaemonFiles, str], str]:
    return _replace(f"{_TABLE}\n", f"{_TABLE}\n{line}\n")


def _group(line: str) -> Callable[[DaemonFiles, str], str]:
    return _replace('[groups."db"]\n', f'[groups."db"]\n{line}\n')


def _nbd(line: str) -> Callable[[DaemonFiles, str], str]:
    return _replace("[nbd]\n", f"[nbd]\n{line}\n")


def _control(line: str) -> Callable[[DaemonFiles, str], str]:
    return _replace("[control]\n", f"[control]\n{line}\n")


def _section(text: str) -> Callable[[DaemonFiles, str], str]:
    return lambda _files, old: f"{old}\n{text}\n"


def _certificates(files: DaemonFiles) -> Certificates:
    directory = files.directory / "certificates"
    directory.mkdir(exist_ok=True)
    return Certificates(directory)


def _control_tls(files: DaemonFiles, text: str) -> str:
    settings = _certificates(files).toml(free_port(), operate=("backup",), observe=("monitor",))
    return f"{text}\n{settings}\n"


def _nbd_tls(files: DaemonFiles, text: str) -> str:
    own = _certificates(files)
    return (
        f'{text}\n[nbd.tls]\ncertificate = "{own.certificate}"\nkey = "{own.key}"\n'
        f'client_ca = "{own.client_ca}"\nclients = "required"\n'
    )


def _listener(files: DaemonFiles, text: str) -> str:
    """Another one, on which all that can be said of one is said."""
    return (
        f'{text}\n[[nbd.listeners]]\naddress = "unix:{files.directory / "more.sock"}"\n'
        'tls = "off"\nallow = ["user:0"]\nread_only = true\ninsecure = true\n'
        'group = "root"\nmode = "0666"\n'
    )


def _without_secondary(files: DaemonFiles, text: str) -> str:
    line = f'secondary = "{files.secondary_of("data")}"\n'
    assert line in text
    return text.replace(line, "")


def _moved(key: str) -> Callable[[DaemonFiles, str], str]:
    """The same image by another path."""

    def change(files: DaemonFiles, text: str) -> str:
        old = files.primary("data") if key == "primary" else files.secondary_of("data")
        new = old.with_name("moved.img")
        if old.exists():
            old.rename(new)
        return text.replace(f'{key} = "{old}"', f'{key} = "{new}"')

    return change


def _elsewhere(key: str) -> Callable[[DaemonFiles, str], str]:
    """A path with nothing at it."""

    def change(files: DaemonFiles, text: str) -> str:
        old = files.primary("data") if key == "primary" else files.secondary_of("data")
        return text.replace(f'{key} = "{old}"', f'{key} = "{old.with_name("other.img")}"')

    return change


def _without(name: str) -> Callable[[DaemonFiles, str], str]:
    def change(files: DaemonFiles, text: str) -> str:
        start = text.index(f'[volumes."{name}"]')
        end = text.index("[", start + 1)
        groups = text.index('[groups."db"]')
        kept = [each for each in files.volumes if each != name]
        group = f'[groups."db"]\nvolumes = ["{kept[0]}"]\n'
        return text[:start] + text[end:groups] + group

    return change


def _added(files: DaemonFiles, text: str) -> str:
    more = f'[volumes."new"]\nsize = "4MiB"\nprimary = "{files.primary("new")}"\n'
    return text.replace(
        '[groups."db"]', f'{more}secondary = "{files.secondary_of("new")}"\n' + '[groups."db"]'
    )


def _added_alone(files: DaemonFiles, text: str) -> str:
    """The secondary of a new volume is there, and its primary is not."""
    with files.secondary_of("new").open("wb") as image:
        image.truncate(4 << 20)
    return _added(files, text)


def _modes(_files: DaemonFiles, text: str) -> str:
    return text.replace('mode = "sync"', 'mode = "async"')


def _delayed(_files: DaemonFiles, text: str) -> str:
    return text.replace('mode = "sync"', 'mode = "delayed"\ndelay = "1h"')


def _listening(text: str, port: int) -> str:
    return text.replace("listen = [", f'insecure = true\nlisten = ["tcp:127.0.0.1:{port}", ', 1)


def _free_port(_files: DaemonFiles, text: str) -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    return _listening(text, port)


CHANGES: dict[str, Callable[[DaemonFiles, str], str]] = {
    "nothing": lambda _files, text: text,
    "not TOML": _replace("[nbd]", "[nbd"),
    "unknown key": _controller("colour = 1"),
    "copy_rate": _replace('copy_rate = "64KiB"', 'copy_rate = "1MiB"'),
    "hold_max": _controller("hold_max = 3.0"),
    "time-outs": _controller("primary_timeout = 40.0\nsecondary_timeout = 4.0"),
    "auto_resync": _controller("auto_resync = true"),
    "clone_limit": _controller('clone_limit = "1GiB"'),
    "tracked_cuts": _controller("tracked_cuts = 3"),
    "no tracked cuts": _controller("tracked_cuts = 0"),
    "too many tracked cuts": _controller("tracked_cuts = 1000000"),
    "marks_kept": _controller("marks_kept = 100"),
    "too few marks kept": _controller("marks_kept = 1"),
    "mark_every": _group('mark_every = "60s"'),
    "mark_every too often": _group('mark_every = "0.5s"'),
    "on_start_error": _controller('on_start_error = "refuse"'),
    "on_primary_error": _controller('on_primary_error = "refuse"'),
    "journal_size": _replace('journal_size = "16MiB"', 'journal_size = "32MiB"'),
    "controller.state_dir": _replace('/state"', '/state2"'),
    "controller.name": _replace('name = "test"', 'name = "other"'),
    "image_mode": _controller('image_mode = "0660"'),
    "image_group": _controller('image_group = "root"'),
    "control.socket": _replace("/ctl.sock", "/ctl2.sock"),
    "who may use the socket": _control('group = "root"\ngroup_role = "observe"'),
    "control.tls": _control_tls,
    "connections_per_volume": _nbd("connections_per_volume = 9"),
    "connections_per_peer": _nbd("connections_per_peer = 9"),
    "nbd.default": _nbd('default = "wal"'),
    "nbd.default, of no volume": _nbd('default = "nobody"'),
    "sockets of NBD": _nbd('group = "root"\nmode = "0600"'),
    "nbd.tls": _nbd_tls,
    "another listener": _listener,
    "health": _section('[health]\nsuspended_max = "1h"\ncut_age_max = "26h"\ndrill_age_max = "8d"'),
    "scrub": _section('[scrub]\nevery = "7d"\nrate = "1MiB"'),
    "metrics": lambda _files, text: f'{text}\n[metrics]\nlisten = "tcp:127.0.0.1:{free_port()}"\n',
    "another address": _free_port,
    "volume added": _added,
    "volume added, its secondary is there alone": _added_alone,
    "volume removed": _without("data"),
    "size": _replace(f'{_TABLE}\nsize = "8MiB"', f'{_TABLE}\nsize = "16MiB"'),
    "primary moved": _moved("primary"),
    "primary elsewhere": _elsewhere("primary"),
    "secondary moved": _moved("secondary"),
    "another secondary": _elsewhere("secondary"),
    "no secondary": _without_secondary,
    "mode": _modes,
    "delayed": _delayed,
    "read_only": _volume("read_only = true"),
    "allow": _volume('allow = ["user:0"]'),
    "hooks": _group('before_suspend = ["/bin/true"]\nafter_suspend = ["/bin/true"]'),
    "hook_timeout": _group('hook_timeout = "20s"'),
    "a hook that is not there": _group('before_suspend = ["/nowhere/freeze"]'),
    "a hook with no path": _group('before_suspend = ["true"]'),
    "group": _replace('volumes = ["data", "wal"]', 'volumes = ["data"]'),
}


# -------------------------------------------------------------------------------------- a cell


def by_programs(files: DaemonFiles) -> tuple[int, int, str]:
    """The exit codes of both commands, and what `check` said."""
    checked = run_duplexd("check", "--config", str(files.config))
    return checked.returncode, run_duplexctl(files, "reload").returncode, checked.stderr


def by_calls(files: DaemonFiles) -> tuple[int, int, str]:
    """The same without starting the programs, for many cells."""

    async def reload() -> int:
        async with Client.local(files.control_socket) as client:
            try:
                await client.reload()
            except DuplexdError as error:
                return error.exit_code
        return 0

    found = checking.check(str(files.config))
    return found.exit_code, asyncio.run(reload()), "\n".join(found.problems)


def cell(
    daemon: Daemon,
    state: str,
    change: str,
    ask: Callable[[DaemonFiles], tuple[int, int, str]] = by_programs,
) -> Row:
    """Start the daemon, bring it there, and ask all three. It is stopped at the end."""
    files = daemon.files
    daemon.start()
    with ExitStack() as stack:
        STATES[state](daemon, stack)
        before = _shown(daemon)
        files.config.write_text(CHANGES[change](files, files.text()))
        checked, reloaded, said = ask(files)
        if reloaded:
            assert _shown(daemon) == before, "a refused reload changed something"
    daemon.stop()
    return Row(checked, reloaded, _run(daemon), said)


def _shown(daemon: Daemon) -> list[tuple[str, str, str]]:
    volumes = daemon.request("GET", "/v1/status")[1]["volumes"]
    return [(each["name"], each["mode"], str(each["size"])) for each in volumes]


def _run(daemon: Daemon) -> int:
    """What a start with the changed file ends with; 0 if it serves."""
    begun = len(daemon.lines())
    daemon.start(ready=False)
    while daemon.running:
        if any('"event": "ready"' in line for line in daemon.lines()[begun:]):
            return daemon.stop()
        time.sleep(0.02)
    return daemon.wait()

"""Several controllers as real daemons with the volumes of one group, and the means to command and
watch them.

cluster = Cluster(tmp_path, {"alpha": ["a0", "a1"], "beta": ["b0"]})
with cluster:
    groups = cluster.write_groups({"db": cluster.members})
    cluster["beta"].kill()
    cluster["beta"].start()
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from duplexd.nbd.uri import NbdUri
from tests.support.daemon import Daemon, DaemonFiles, UnixConnection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path
    from typing import Self

PORT = 10809
CONTROL_PORT = 10810
THREE = ("alpha", "beta", "gamma")


class Member(NamedTuple):
    """A volume of a controller."""

    controller: str
    volume: str

    def __str__(self) -> str:
        return f"{self.controller}:{self.volume}"


class Place(NamedTuple):
    """Where a controller runs, if not simply here: on `address`, its command behind `prefix`, with
    `extra` in its configuration.
    """

    address: str
    prefix: Sequence[str]
    extra: str = ""


def spread(volumes: int, controllers: Sequence[str] = THREE) -> dict[str, list[str]]:
    """That many volumes, dealt out to the controllers."""
    return {
        controller: [
            f"{controller[0]}{number:02}" for number in range(first, volumes, len(controllers))
        ]
        for first, controller in enumerate(controllers)
    }


class Cluster:
    """Daemons by name; each has its volumes in a group `here` too. Use it as a context manager,
    which starts and ends them.
    """

    def __init__(
        self,
        directory: Path,
        volumes: Mapping[str, Sequence[str]],
        size: str = "1MiB",
        journal_size: str = "16MiB",
        places: Mapping[str, Place] | None = None,
        delay: str = "",
    ) -> None:
        """With `delay`, the secondaries are delayed."""
        self.directory = directory
        self.members = [
            Member(controller, volume) for controller, names in volumes.items() for volume in names
        ]
        self.places = dict(places or {})
        self.remote = (
            ""  # what a groups file needs besides the URL of each controller that is on a network
        )
        self.daemons: dict[str, Daemon] = {}
        for controller, names in volumes.items():
            place = self.places.get(controller)
            files = DaemonFiles(
                directory / controller,
                dict.fromkeys(names, size),
                {"here": names},
                mode="delayed" if delay else "sync",
                delay=delay,
                journal_size=journal_size,
                name=controller,
                listen=[f"tcp:{place.address}:{PORT}"] if place else [],
                extra=place.extra if place else "",
            )
            files.directory.mkdir(parents=True)
            self.daemons[controller] = Daemon(files.write(), prefix=place.prefix if place else ())

    def __getitem__(self, controller: str) -> Daemon:
        return self.daemons[controller]

    def __enter__(self) -> Self:
        try:
            for daemon in self.daemons.values():
                daemon.start(ready=False)
            for daemon in self.daemons.values():
                daemon.wait_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.end()
        for daemon in self.daemons.values():
            log = daemon.log()
            if kind is not None:
                print(f"--- {daemon.log_path}\n{log[-4000:]}")
            assert kind is not None or "Traceback (most recent call last)" not in log, (
                f"a daemon logged a traceback\n{log[-8000:]}"
            )

    def end(self) -> None:
        """Kill all; by their ids."""
        for daemon in self.daemons.values():
            daemon.kill()

    def secondary(self, member: Member) -> Path:
        """The image that a backup would read."""
        return self.daemons[member.controller].files.secondary_of(member.volume)

    def uri(self, member: Member) -> NbdUri:
        """Where a client finds the volume: on the network, if the cluster is on one."""
        place = self.places.get(member.controller)
        if place:
            return NbdUri(member.volume, host=place.address, port=PORT)
        return NbdUri(member.volume, socket=str(self.daemons[member.controller].files.nbd_socket))

    def sockets(self) -> dict[str, Path]:
        """The control sockets."""
        return {
            controller: daemon.files.control_socket for controller, daemon in self.daemons.items()
        }

    def write_groups(
        self,
        groups: Mapping[str, Sequence[Member]],
        hold_max_s: float = 2.0,
        sockets: Mapping[str, Path] | None = None,
        remote: str = "",
        path: Path | None = None,
    ) -> Path:
        """A groups.toml, with the controllers at `sockets`; with `remote` over the network, with
        these further lines for each.
        """
        lines = []
        for controller, socket in (sockets or self.sockets()).items():
            lines += [f"[controllers.{controller}]"]
            lines += (
                [f'url = "https://{self.places[controller].address}:{CONTROL_PORT}"', remote]
                if remote
                else [f'socket = "{socket}"']
            )
        for group, members in groups.items():
            lines += [
                f"[groups.{group}]",
                f"members = {json.dumps([str(member) for member in members])}",
                f"hold_max = {hold_max_s}",
            ]
        path = path or self.directory / "groups.toml"
        path.write_text("\n".join([*lines, ""]))
        return path

    def ask(self, controller: str, method: str, path: str, body: object = None) -> dict[str, Any]:
        """One request that succeeds."""
        status, answer = self.daemons[controller].request(method, path, body)
        assert status == 200, f"{controller}: {method} {path} {body}: {status} {answer}"
        assert isinstance(answer, dict)
        return answer

    def stream(
        self, controller: str, method: str, path: str, body: object = None
    ) -> list[dict[str, Any]]:
        """All lines of an answer that is a stream of them."""
        connection = UnixConnection(self.daemons[controller].files.control_socket)
        try:
            connection.request(method, path, json.dumps(body), {"Content-Type": "application/json"})
            return [json.loads(line) for line in connection.getresponse().read().splitlines()]
        finally:
            connection.close()

    def resync(self, controller: str, target: str = "here") -> None:
        """Resync; returns when all is DUPLEX."""
        lines = self.stream(controller, "POST", "/v1/resync", {"targets": [target], "wait": True})
        assert lines[-1].get("ok"), f"{controller}: {lines}"

    def cut_states(self, cut: str) -> dict[str, str]:
        """What each controller that answers shows of a cut: its state, "" if it does not know
        it.
        """
        found = {}
        for controller, daemon in self.daemons.items():
            status, answer = daemon.request("GET", f"/v1/cuts/{cut}")
            assert status in {200, 404}, (status, answer)
            found[controller] = str(answer["state"]) if status == 200 else ""
        return found

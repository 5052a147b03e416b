"""The reference client's listing, and nbdkit as a client in front of the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.interop.conftest import digest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Client, NbdServer


def test_nbd_client_lists_every_volume(nbd_server: NbdServer, client: Client) -> None:
    output = client("nbd-client", "-l", "127.0.0.1", str(nbd_server.port))
    names = {line.partition(":")[0] for line in output.splitlines()}
    assert {"data", "wal"} <= names


def test_nbdkits_nbd_plugin_as_a_client(
    nbd_server: NbdServer, transport: str, client: Client, image: Path, tmp_path: Path
) -> None:
    uri = nbd_server.uri("data", transport)
    commands = f'nbdcopy --flush "{image}" "$uri" && nbdcopy "$uri" "{tmp_path}/out.raw"'
    client(
        "nbdkit",
        "-U",
        "-",
        "--filter=checkwrite",
        "nbd",
        f"uri={uri}",
        "--run",
        f'nbdcopy --flush "{image}" "{uri}" && nbdcopy "{image}" "$uri"',
    )
    client("nbdkit", "-U", "-", "nbd", f"uri={uri}", "shared=true", "--run", commands)
    assert digest(tmp_path / "out.raw") == digest(image)

"""fio's nbd engine with verification, several jobs, and all sizes of requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from tests.interop.conftest import Client, NbdServer

VERIFY = ["--verify=crc32c", "--verify_fatal=1", "--serialize_overlap=1"]


def run(
    client: Client, directory: Path, uri: str, *options: str
) -> list[dict[str, dict[str, int]]]:
    """The report of each job; fio ends with an error if a check fails."""
    client(
        "fio",
        "--name=v",
        "--ioengine=nbd",
        f"--uri={uri}",
        "--output-format=json",
        "--output=fio.json",
        *options,
    )
    jobs: list[dict[str, dict[str, int]]] = json.loads((directory / "fio.json").read_text())["jobs"]
    return jobs


def test_random_writes_verify(
    nbd_server: NbdServer, transport: str, client: Client, tmp_path: Path
) -> None:
    options = [
        "--rw=randwrite",
        "--bsrange=512-128k",
        "--size=24m",
        "--iodepth=64",
        "--numjobs=2",
        "--offset_increment=24m",
    ]
    jobs = run(client, tmp_path, nbd_server.uri("data", transport), *options, *VERIFY)
    assert len(jobs) == 2
    for job in jobs:
        assert job["write"]["io_bytes"] >= 24 << 20
        assert job["read"]["io_bytes"] >= 24 << 20


def test_mixed_load_verifies(
    nbd_server: NbdServer, transport: str, client: Client, tmp_path: Path
) -> None:
    (job,) = run(
        client,
        tmp_path,
        nbd_server.uri("data", transport),
        "--rw=randrw",
        "--bs=4k",
        "--size=16m",
        "--iodepth=32",
        *VERIFY,
    )
    assert job["write"]["total_ios"] > 1000


def test_large_requests_verify(
    nbd_server: NbdServer, transport: str, client: Client, tmp_path: Path
) -> None:
    (job,) = run(
        client,
        tmp_path,
        nbd_server.uri("data", transport),
        "--rw=write",
        "--bs=4m",
        "--size=64m",
        "--iodepth=4",
        *VERIFY,
    )
    assert job["write"]["io_bytes"] == 64 << 20

"""`duplexd demo` does what the README says, and leaves nothing behind."""

import asyncio
import contextlib
import os
import re
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Self

import pytest

from duplexd.canary.checker import Findings
from duplexd.demo import main as demo
from duplexd.demo.scene import Cut
from tests.support.daemon import PATIENCE_SECONDS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory with a short name: the demo's sockets lie in it."""
    with tempfile.TemporaryDirectory(prefix="dd-", dir="/tmp") as directory:
        yield Path(directory)


async def _start(tmp_path: Path) -> asyncio.subprocess.Process:
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "duplexd",
        "demo",
        env=environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def test_the_demo_finds_every_group_cut_consistent_and_the_naive_split_broken(
    tmp_path: Path,
) -> None:
    process = await _start(tmp_path)
    output, _ = await process.communicate()
    text = output.decode()
    assert process.returncode == 0, text
    rows = re.findall(
        r"^ *\d+ +([\d.]+) / ([\d.]+) +\d+ +consistent +(\d+) +(\d+) +", text, re.MULTILINE
    )
    assert len(rows) == 10, text
    assert all(group == "0" for _, _, group, _ in rows), text
    assert any(int(naive) > 0 for *_, naive in rows), text
    assert "1000 pairs in one group" in text
    assert "nbd-client" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_demo_stops_its_daemon_and_removes_its_files(
    tmp_path: Path, number: signal.Signals
) -> None:
    process = await _start(tmp_path)
    assert process.stdout is not None
    async with asyncio.timeout(PATIENCE_SECONDS):
        line = b"begin"
        while line and not re.match(rb" *\d+ +[\d.]+ / ", line):
            line = await process.stdout.readline()
        assert line, "it ended before the first cut"
        directory = next(tmp_path.iterdir())
        process.send_signal(number)
        await process.communicate()
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    assert not _processes_with(str(directory))


class PlantedScene:
    """A scene without a daemon, whose cuts have these faults."""

    group_broken = 0
    naive_broken = 0

    def __init__(self, *_: object) -> None:
        self.workload = SimpleNamespace(history=SimpleNamespace(acknowledged=0))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is left."""

    async def write_for(self, _seconds: float) -> float:
        return 0.0

    async def changed_bytes(self) -> int:
        return 0

    async def resync(self) -> int:
        return 0

    async def cut_group(self, _tag: str = "") -> Cut:
        return self._cut(self.group_broken)

    async def cut_one_by_one(self, _tag: str = "") -> Cut:
        return self._cut(self.naive_broken)

    def _cut(self, broken: int) -> Cut:
        hold = {"seconds_max": 0.0, "writes_held": 0}
        answer = {"verdict": "consistent", "cut": "1", "hold": hold}
        return Cut(Findings(counts=Counter(broken=broken)), [answer], 0.0, 0.0)


@pytest.mark.parametrize(
    ("group_broken", "naive_broken", "status"), [(0, 5, 0), (1, 5, 1), (0, 0, 1)]
)
def test_the_exit_code_says_whether_the_checker_proved_anything(
    monkeypatch: pytest.MonkeyPatch, group_broken: int, naive_broken: int, status: int
) -> None:
    @contextlib.asynccontextmanager
    async def no_daemon(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr(demo, "_daemon", no_daemon)
    monkeypatch.setattr(demo, "Scene", PlantedScene)
    monkeypatch.setattr(PlantedScene, "group_broken", group_broken)
    monkeypatch.setattr(PlantedScene, "naive_broken", naive_broken)
    assert demo.main(rounds=1, pairs=16) == status


def _processes_with(text: str) -> list[str]:
    commands = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            commands.append(command)
    return commands

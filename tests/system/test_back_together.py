"""Delayed secondaries of three controllers go back to marks of their group, and on to later ones.

The writers depend on each other, over all volumes. What the secondaries hold is graded where they
lie, as a backup would read them.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.canary.checker import check
from duplexd.canary.record import Placement
from duplexd.client import Client
from duplexd.limits import HOLD_SECONDS_MAX
from tests.support.cluster import THREE, Cluster, spread
from tests.support.daemon import PATIENCE_SECONDS, ROOT, environment
from tests.support.group_writers import GroupWriters, Taken
from tests.support.wire import ANSWER, REQUEST, Message, Wire

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from duplexd.canary.checker import Findings
    from duplexd.client import Marked

    Marks = list[tuple[Marked, Taken]]

PLACEMENT = Placement(writers=6, volumes=9, slots=2)
PAUSE_S = 0.002

pytestmark = pytest.mark.timeout(1800)


class Story:
    """A cluster whose secondaries stay an hour behind, with its writers, and duplexctl."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self.groups = cluster.write_groups({"db": cluster.members}, HOLD_SECONDS_MAX)
        self.writers = GroupWriters(cluster, cluster.members, PLACEMENT, PAUSE_S)

    async def ctl(
        self, *arguments: str, code: int = 0, files: str = "", groups: Path | None = None
    ) -> dict[str, Any]:
        """What it answers as JSON; with another exit code, what it says."""
        where = ["--socket", files] if files else ["--groups", str(groups or self.groups)]
        command = [sys.executable, "-m", "duplexd.duplexctl.cli", *where, "--json", *arguments]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, env=environment(), cwd=ROOT,
            timeout=PATIENCE_SECONDS, check=False,
        )  # fmt: skip
        assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
        return answer | {"stderr": done.stderr}

    async def marks(self, count: int, pause_s: float = 0.0) -> Marks:
        """That many marks, with writes between them."""
        found = []
        async with Client.open(self.groups) as client:
            for _ in range(count):
                await self.writers.write(40)
                await asyncio.sleep(pause_s)
                mark, taken = await self.writers.during(client.marks.make("db"))
                assert mark.verdict == "consistent", mark
                found.append((mark, taken))
        return found

    async def graded(self, taken: Taken) -> Findings:
        images = await asyncio.to_thread(self.writers.images)
        return check(PLACEMENT, images, self.writers.workload.history, taken.asked, taken.done)

    async def stands(self, result: dict[str, Any], mark: Marked, taken: Taken) -> None:
        """All are at this mark, and no dependency is broken there."""
        assert (result["verdict"], result["left"], result["untold"]) == ("consistent", [], [])
        assert (result["mark"], result["controllers"]) == (mark.mark, mark.controllers)
        findings = await self.graded(taken)
        assert findings.consistent, findings
        assert findings.records == PLACEMENT.writers * PLACEMENT.period

    async def cuts(self) -> dict[str, Any]:
        """Of each volume."""
        status = await self.ctl("status", "db")
        return {each["name"]: (each["secondary"] or {}).get("cut") for each in status["volumes"]}


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    volumes = spread(PLACEMENT.volumes)
    with Cluster(tmp_path, volumes, journal_size="64MiB", delay="1h") as cluster:
        yield Story(cluster)


@pytest.mark.parametrize(
    ("count", "pause_s"), [(8, 0.0), pytest.param(60, 1.0, marks=pytest.mark.long)]
)
async def test_a_group_stands_at_one_mark_after_the_other(
    story: Story, count: int, pause_s: float
) -> None:
    async with story.writers:
        await story.writers.go_round()
        made = await story.marks(count, pause_s)
        first, *later = made[count // 4 :: max(count // 6, 2)]
        certificate = str(story.cluster.directory / "cut.json")
        result = await story.ctl(
            "suspend", "db", "--at", f"mark:{first[0].mark}", "--certificate", certificate
        )
        await story.stands(result, *first)
        assert (await story.ctl("verify-cut", certificate))["outcome"] == "confirmed"
        again = await story.ctl("suspend", "db", "--at", f"mark:{first[0].mark}")
        assert (again["already"], again["cut"]) == (True, result["cut"])
        cuts = {result["cut"]}
        for mark, taken in later:
            await story.writers.write(20)
            result = await story.ctl("resync", "db", "--until", f"mark:{mark.mark}", "--tag", "on")
            await story.stands(result, mark, taken)
            cuts.add(result["cut"])
        assert len(cuts) == 1 + len(later) > 2
        (_, *known) = (await story.ctl("cuts", "db"))["cuts"]
        assert {(each["verdict"], each["tag"]) for each in known} == {("consistent", "on")}
        late = await story.ctl("resync", "db", "--until", f"mark:{first[0].mark}", code=5)
        assert "is not within reach: secondaries" in late["stderr"]
        assert "within reach" in late["stderr"]
        await story.ctl("resync", "db", "--wait")
        assert story.writers.lost_connections == 0
    await story.ctl("suspend", "db")
    verified = await story.ctl("verify", "db")
    assert all(row["equal"] for row in verified["volumes"])


async def test_a_time_means_the_newest_mark_before_it(story: Story) -> None:
    """And a secondary that is beyond it keeps all others from it."""
    async with story.writers:
        await story.writers.go_round()
        made = await story.marks(4)
        (mark, taken), (after, _) = made[1:3]
        assert mark.time is not None
        assert after.time is not None
        at = (mark.time + after.time) / 2
        before_all = as_typed((made[0][0].time or 0) - 1)
        early = await story.ctl("suspend", "db", "--at", before_all, code=5)
        assert "no consistent mark of db is at or before" in early["stderr"]
        result = await story.ctl("suspend", "db", "--at", as_typed(at), "--tag", "before-drop")
        await story.stands(result, mark, taken)
        assert result["time"] == mark.time
        assert result["earlier_s"] == pytest.approx(at - mark.time, abs=1e-5)
        await story.ctl("resync", "db", "--wait")
        (mark, _) = (await story.marks(3))[1]
        beta = str(story.cluster["beta"].files.control_socket)
        await story.ctl("suspend", "here", files=beta)
        before = await story.cuts()
        gone = await story.ctl("suspend", "db", "--at", f"mark:{mark.mark}", code=5)
        assert "nothing was suspended: beta: " in gone["stderr"]
        assert await story.cuts() == before


@pytest.mark.parametrize(("verb", "way"), [("suspend", REQUEST), ("resync", ANSWER)])
async def test_a_member_that_is_killed_is_no_end(story: Story, verb: str, way: str) -> None:
    """What the others did is in doubt until the same command, given again, has reached it."""
    beta, asked = story.cluster["beta"], list[Message]()

    def watch(message: Message) -> bool:
        if (message.member, message.way) == ("beta", way) and "stand" in message.verb:
            asked.append(message)
            if len(asked) == 2:  # the first only checks
                beta.kill()
        return True

    async with story.writers, Wire(story.cluster.sockets(), story.cluster.directory, watch) as wire:
        wired = story.cluster.write_groups(
            {"db": story.cluster.members}, sockets=wire.paths, path=story.groups.with_name("wired")
        )
        await story.writers.go_round()
        made = await story.marks(6)
        command = ["suspend", "db", "--at", f"mark:{made[2][0].mark}"]
        mark, taken = made[2]
        if verb == "resync":
            await story.ctl(*command)
            mark, taken = made[4]
            command = ["resync", "db", "--until", f"mark:{mark.mark}"]
        said = (await story.ctl(*command, code=7, groups=wired))["stderr"]
        there = "alpha, gamma" if way == REQUEST else "alpha, beta, gamma"
        assert f"at mark {mark.mark} is not complete: {there} stand at it; beta: " in said
        assert "run the same command again" in said
        (group,) = (await story.ctl("status", "db", code=7))["groups"]
        assert (group["verdict"], len(asked)) == (None, 2)
        await asyncio.to_thread(beta.start)
        result = await story.ctl(*command)
        await story.stands(result, mark, taken)
        assert f"cut {result['cut']} of db" in said
        await story.ctl("resync", "db", "--wait")


async def test_that_the_checker_finds_controllers_at_different_marks(story: Story) -> None:
    async with story.writers:
        await story.writers.go_round()
        made = await story.marks(6)
        for name, (mark, _) in zip(THREE, (made[4], made[1], made[3]), strict=True):
            socket = str(story.cluster[name].files.control_socket)
            await story.ctl("suspend", "here", "--at", f"mark:{mark.mark}", files=socket)
        whole = Taken(made[0][1].asked, made[5][1].done)
        findings = await story.graded(whole)
        assert findings.broken, findings


def as_typed(seconds: float) -> str:
    from datetime import UTC, datetime  # noqa: PLC0415

    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")

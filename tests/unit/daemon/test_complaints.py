"""The log of findings: each once when it comes, once when it is gone, at its level."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from duplexd.core.findings import Finding
from duplexd.daemon.complaints import Complaints

LATE = Finding("cut-too-old", "data", "no cut")
FAILED = Finding("controller-failed", "", "no sync")


def test_a_finding_is_logged_when_it_comes_and_when_it_is_gone() -> None:
    found: list[Finding] = []
    complaints = Complaints(lambda: found)
    with capture_logs() as logged:
        complaints.look()
        found[:] = [LATE, FAILED]
        complaints.look()
        complaints.look()
        found[:] = [FAILED]
        complaints.look()
    assert [(line["log_level"], line["event"], line["kind"]) for line in logged] == [
        ("warning", "not well", "cut-too-old"),
        ("error", "not well", "controller-failed"),
        ("info", "well again", "cut-too-old"),
    ]


def test_a_text_that_changes_is_no_other_finding() -> None:
    texts = iter(["1 h old", "2 h old"])
    complaints = Complaints(lambda: [LATE._replace(text=next(texts))])
    with capture_logs() as logged:
        complaints.look()
        complaints.look()
    assert [line["finding"] for line in logged] == ["1 h old"]


def test_a_second_disk_that_is_silent_is_another_finding() -> None:
    primary = Finding("disk-silent", "data", "primary /a: no answer", about="primary")
    secondary = Finding("disk-silent", "data", "secondary /b: no answer", about="secondary")
    found = [primary]
    complaints = Complaints(lambda: found)
    with capture_logs() as logged:
        complaints.look()
        found[:] = [primary, secondary]
        complaints.look()
        found[:] = [secondary]
        complaints.look()
    assert [(line["event"], line.get("finding") or line["about"]) for line in logged] == [
        ("not well", primary.text),
        ("not well", secondary.text),
        ("well again", "primary"),
    ]


async def test_a_look_that_goes_wrong_ends_nothing() -> None:
    looks: list[None] = []
    enough = asyncio.Event()

    def findings() -> list[Finding]:
        looks.append(None)
        if len(looks) == 2:
            enough.set()
        raise KeyError("name")

    task = asyncio.create_task(Complaints(findings).look_forever(0.0))
    with capture_logs() as logged:
        await asyncio.wait(
            (task, waiting := asyncio.create_task(enough.wait())),
            timeout=60,
            return_when="FIRST_COMPLETED",
        )
    assert waiting.done()
    assert {line["event"] for line in logged} == {"unexpected error of a look at health"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

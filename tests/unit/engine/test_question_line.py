"""Questions about extents run one at a time, disks in turns; a slow disk holds up itself only."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from duplexd.engine.question_line import QuestionLine
from tests.unit.engine.parts import turns

if TYPE_CHECKING:
    from collections.abc import Callable

NEVER_SECONDS, AT_ONCE_SECONDS = 3600.0, 0.0


class Questions:
    """Each runs until `answer`."""

    def __init__(self, line: QuestionLine) -> None:
        self.line = line
        self.begun: list[str] = []
        self._open: dict[str, asyncio.Event] = {}

    def ask(self, disk: str, *names: str) -> None:
        for name in names:
            self._open[name] = asyncio.Event()
            self.line.ask(disk, partial(self._run, name))

    async def _run(self, name: str) -> None:
        self.begun.append(name)
        await self._open[name].wait()

    async def answer(self, name: str) -> None:
        self._open[name].set()
        await turns()

    async def answer_all(self) -> None:
        for event in self._open.values():
            event.set()
        await turns(200)


async def test_one_question_runs_at_a_time() -> None:
    questions = Questions(QuestionLine(NEVER_SECONDS))
    questions.ask("a", "a1", "a2")
    questions.ask("b", "b1")
    await turns()
    assert questions.begun == ["a1"]
    await questions.answer("a1")
    assert len(questions.begun) == 2
    await questions.answer_all()
    assert len(questions.begun) == 3


async def test_disks_take_turns_however_many_questions_one_has() -> None:
    questions = Questions(QuestionLine(NEVER_SECONDS))
    questions.ask("flooded", *[f"f{number}" for number in range(50)])
    questions.ask("quiet", "q0", "q1")
    await questions.answer_all()
    assert questions.begun[:5] == ["f0", "f1", "q0", "f2", "q1"]
    assert questions.begun[5:] == [f"f{number}" for number in range(3, 50)]


async def test_a_disk_that_is_slow_holds_up_its_own_questions_only() -> None:
    questions = Questions(QuestionLine(AT_ONCE_SECONDS))
    questions.ask("hangs", "h1", "h2", "h3")
    questions.ask("well", "w1")
    await _until(lambda: "w1" in questions.begun)
    assert questions.begun == ["h1", "w1"]
    await questions.answer("w1")
    questions.ask("well", "w2")
    await turns()
    assert questions.begun == ["h1", "w1", "w2"]
    await questions.answer("h1")
    await _until(lambda: "h2" in questions.begun)
    assert "h3" not in questions.begun
    await questions.answer_all()
    assert sorted(questions.begun) == ["h1", "h2", "h3", "w1", "w2"]


async def test_a_slow_answer_does_not_end_the_turn_of_another_disk() -> None:
    line = QuestionLine(AT_ONCE_SECONDS)
    questions = Questions(line)
    questions.ask("slow", "s1")
    await _until(lambda: line._running is None)
    line._slow_seconds = NEVER_SECONDS
    questions.ask("a", "a1")
    questions.ask("b", "b1")
    await questions.answer("s1")
    assert questions.begun == ["s1", "a1"]
    await questions.answer_all()


async def test_the_next_question_begins_in_a_later_turn_of_the_loop() -> None:
    """What was sent meanwhile is served in between, and the answer of one is made."""
    seen: list[str] = []

    async def question(name: str) -> None:
        seen.append(name)
        asyncio.get_running_loop().call_soon(seen.append, "another")

    line = QuestionLine(NEVER_SECONDS)
    for name in ("one", "two"):
        line.ask("disk", partial(question, name))
    await turns()
    assert seen == ["one", "another", "two", "another"]


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():  # noqa: ASYNC110 - it has no event
            await asyncio.sleep(0.001)

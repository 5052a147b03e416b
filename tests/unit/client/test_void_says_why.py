"""A cut that is void because a member's secondary failed: the result says which, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.core import cut_states as votes
from tests.unit.client.members import members

if TYPE_CHECKING:
    from pathlib import Path

WHY = "/b/data.img: Input/output error"


async def test_a_member_that_votes_void_says_why(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha", "beta") as (client, (_, beta)):

        async def fails() -> tuple[int, dict[str, Any]]:
            cut = beta.cut
            answer = beta.answer("open", cut, {"fence": beta.fence})[1]
            beta.states[cut] = votes.VOID
            return 200, answer | {"state": "void", "verdict": "void", "why": WHY}

        beta.plant["open"] = fails
        result = await client.suspend("db")
        assert (result.verdict, result.why) == ("void", f"beta: {WHY}")


async def test_a_controller_alone_says_why(tmp_path: Path) -> None:
    async with members(tmp_path, "alpha") as (client, (alpha,)):
        answer = {
            "verdict": "void",
            "cut": "c",
            "tag": "",
            "controllers": {"alpha": 5},
            "volumes": ["data"],
            "hold": {},
        }
        alpha.plant["suspend"] = 200, answer | {"why": WHY}
        assert (await client.suspend("db")).why == f"alpha: {WHY}"
        alpha.plant["suspend"] = 200, answer
        assert (await client.suspend("db")).why == "alpha: see its events and its log"

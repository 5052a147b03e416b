"""Draws docs/states.md from the table in `core/state.py`: `python -m tests.unit.core.draw` writes it again."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from duplexd.core import pair_states as state
from duplexd.core.pair_states import EVENTS, STATES, TRANSITIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "states.md"

HEAD = """\
# The states of a pair

Drawn from the table in `duplexd/core/state.py` by a test: change the table, not this page.

```mermaid
stateDiagram-v2
"""

MIDDLE = """\
```

| state | means |
|---|---|
| SIMPLEX | no secondary |
| PENDING | being copied, or on the way back from a cut |
| DUPLEX | the secondary follows |
| SUSPENDED | the secondary stands still at a cut; changes are tracked |

## Every event in every state

An empty field: not possible, and nothing changes.

"""

REASONS = """\

## Reasons

| state | reason | means |
|---|---|---|
"""

MEANINGS = [
    ("PENDING", state.FIRST_COPY, "the secondary is new: unusable until the copy is done"),
    (
        "PENDING",
        state.POWER_CUT,
        "the legs may differ where they were written last: unusable until that is made equal",
    ),
    (
        "PENDING",
        state.RESYNCING,
        "on the way from its cut to the present; usable, unless its cut was void because it was torn",
    ),
    (
        "SUSPENDED",
        state.BY_COMMAND,
        "`duplexctl suspend`, of this controller or of a group over several",
    ),
    ("SUSPENDED", state.BY_ERROR, "its secondary failed"),
    (
        "SUSPENDED",
        state.BY_GROUP,
        "the secondary of another pair of its group failed: all of them stand at one cut",
    ),
]

CUTS = """\

A pair that is SUSPENDED by command stands at its cut; whether that cut is `consistent`, `void`, or not decided yet is the cut's own state. Those of a cut that several
controllers take together are in [groups.md](groups.md).
"""


def comments() -> dict[str, str]:
    """What the source says of each event, behind its name."""
    source = inspect.getsource(state)
    lines = source.splitlines()
    said: dict[str, str] = {}
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            _, _, comment = lines[node.lineno - 1].partition("  # ")
            said[str(node.value.value)] = comment
    return said


def diagram() -> str:
    """The table as a mermaid diagram: one arrow for each pair of states."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        arrows.setdefault((before, after), []).append(event)
    lines = [f"    [*] --> {STATES[0]}"]
    lines += [
        f"    {before} --> {after}: {', '.join(events)}"
        for (before, after), events in arrows.items()
    ]
    return "\n".join(lines) + "\n"


def matrix() -> str:
    """Events down, states across."""
    said = comments()
    rows = [["event", *STATES, "when"], ["---"] * (len(STATES) + 2)]
    rows += [
        [event, *(TRANSITIONS.get((before, event), "") for before in STATES), said[event]]
        for event in EVENTS
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def document() -> str:
    reasons = "".join(f"| {of} | `{reason}` | {meaning} |\n" for of, reason, meaning in MEANINGS)
    return HEAD + diagram() + MIDDLE + matrix() + REASONS + reasons + CUTS


if __name__ == "__main__":
    DOCUMENT.write_text(document())

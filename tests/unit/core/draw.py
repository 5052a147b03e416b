"""Draws docs/states.md from the table in `core/pair_states.py`.

`python -m tests.unit.core.draw` writes it; a test compares the two.
"""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

from duplexd.core import pair_states as state
from duplexd.core.pair_states import EVENTS, STATES, TRANSITIONS

DOCUMENT = Path(__file__).parents[3] / "docs" / "states.md"

HEAD = """\
# The states of a pair

Drawn from the table in `duplexd/core/pair_states.py` by a test: change the table, not this page.

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
| SUSPENDED | the secondary stays at a cut; changes are tracked |

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
    ("PENDING", state.UNCLEAN_STOP, "the legs may differ: unusable until they are made equal"),
    ("PENDING", state.RESYNCING, "on the way from its cut to the present; usable (see below)"),
    ("SUSPENDED", state.BY_COMMAND, "`duplexctl suspend`, of this controller or several"),
    ("SUSPENDED", state.BY_ERROR, "its secondary failed"),
    ("SUSPENDED", state.BY_GROUP, "another secondary of its group failed: all are at one cut"),
    ("SUSPENDED", state.BY_JOURNAL, "the journal could not be read for it: no image is to blame"),
]

CUTS = """\

After an unclean stop (a power cut, a kill, a crash) only the regions written last are compared.
Earlier versions called this reason `power cut`. If a secondary cannot be used at such a start, its
pair alone is suspended: the others of its group are compared, because they are at no known number.
A pair that is PENDING by resync has an unusable secondary only if it had one before: torn, or with
a failed sync.

A pair that is SUSPENDED by command is at its cut. Whether that cut is `consistent`, `void`, or
still undecided is the cut's own state. It is undecided until its secondaries are durable, also if
a failure made it, and a verdict never changes because a secondary fails later: that pair leaves the
cut. Those of a cut over several controllers are in [groups.md](groups.md).

## Roles, and volumes that are not served

Which image has which role is recorded in the journal, and is no state: a pair in any state may be
swapped. A swap of a DUPLEX pair loses nothing. One of a SUSPENDED pair either brings the secondary
to the last change first (`--roll-forward`), or gives up the changes after its cut
(`--lose-changes`). A PENDING pair has no complete secondary, and a SIMPLEX one has none, so neither
can be swapped. A secondary that fails while it is brought forward is not usable, but keeps the
number that it durably held: the journal brings it forward from there when that is asked again.

A volume is served as long as its primary is there and is the image that the journal knows. A DUPLEX
pair whose primary fails is swapped, and then SUSPENDED by secondary error. Where the secondary is
not current the volume is not served, in whatever state its pair is, until its primary is back, its
pair is swapped, or the image is adopted: [disaster.md](disaster.md).

The secondary of such a volume is usable only while it is at exactly the number that status shows.
It is not if a start could apply only a part of the journal to it, or if an unclean stop left open
whether it holds more: `secondary.error` says why. The next start brings it to the last number, as
long as the journal reaches back; a resync copies what it may lack.
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
    rows = [["event", *STATES], ["---"] * (len(STATES) + 1)]
    rows += [
        [event, *(TRANSITIONS.get((before, event), "") for before in STATES)] for event in EVENTS
    ]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def events() -> str:
    """What each event is: a table of its own, so that its lines are not too long."""
    said = comments()
    rows = "".join(f"| {event} | {said[event]} |\n" for event in EVENTS)
    return f"\n| event | when |\n|---|---|\n{rows}"


def document() -> str:
    reasons = "".join(f"| {of} | `{reason}` | {meaning} |\n" for of, reason, meaning in MEANINGS)
    return HEAD + diagram() + MIDDLE + matrix() + events() + REASONS + reasons + CUTS


if __name__ == "__main__":
    DOCUMENT.write_text(document())

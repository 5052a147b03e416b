"""docs/nbd-odd-inputs.md: its table is what the servers answered; the text is written by hand.

`python -m tests.support.prober.page` asks every server and replaces the table. The last column is
kept: where duplexd differs from all others, it says what of the specification asks for it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.daemon import ROOT
from tests.support.prober.haggling import all_of_haggling
from tests.support.prober.peers import LACKS, PEERS, SERVERS, client_context, serve, version
from tests.support.prober.talk import GOES_ON, HAGGLE, Odd, converse
from tests.support.prober.tls import LISTENERS, OddTls, all_of_tls, converse_tls
from tests.support.prober.transmission import all_of_transmission

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = ROOT / "docs" / "nbd-odd-inputs.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
VERSIONS = "The other servers: "
HEAD = ("where", "input", *SERVERS, "why")

ENDS = "the server ends"
TLS = ("off", "required", "optional")
NOTHING_ODD = Odd("nothing", HAGGLE, b"")

Key = tuple[str, str]  # where, input


def inputs() -> dict[Key, Odd]:
    """All of them, in the order of the page."""
    odd = [*all_of_haggling(), *all_of_tls(), *all_of_transmission()]
    found = {(each.beginning, each.name): each for each in odd}
    assert len(found) == len(odd), "two inputs have one name"
    return found


def ask(server: str, directory: Path, odd: Iterable[Odd]) -> dict[Key, str]:
    """What a server answers."""
    answers: dict[Key, str] = {}
    waiting = list(odd)
    for tls in TLS:
        its_own = [each for each in waiting if LISTENERS.get(each.beginning, "off") == tls]
        if (server, tls) in LACKS:
            answers |= {(each.beginning, each.name): LACKS[server, tls] for each in its_own}
        elif its_own:
            answers |= _ask(server, directory, its_own, tls)
    return answers


def _ask(server: str, directory: Path, left: list[Odd], tls: str) -> dict[Key, str]:
    """One that ends is started again for the rest."""
    answers: dict[Key, str] = {}
    while left:
        place = directory / f"{server}-{tls}-{len(answers)}"
        with serve(server, place, tls) as path:
            client = client_context(place) if tls != "off" else None
            while left:
                each = left.pop(0)
                if client is not None and isinstance(each, OddTls):
                    answer = converse_tls(path, each, client)
                else:
                    answer = converse(path, each)
                answers[each.beginning, each.name] = answer
                if not serves(path):
                    answers[each.beginning, each.name] = ENDS
                    break
    return answers


def serves(path: str) -> bool:
    """Whether the server is there for the next client."""
    try:
        return converse(path, NOTHING_ODD) == GOES_ON
    except ConnectionError:
        return False


def documented() -> dict[Key, dict[str, str]]:
    """The rows of the page, by column."""
    section = PAGE.read_text().partition(BEGIN)[2].partition(END)[0]
    rows = {}
    for line in section.strip().splitlines()[4:]:
        cells = [cell.strip() for cell in line[2:-2].split(" | ")]
        rows[cells[0], cells[1]] = dict(zip(HEAD[2:], cells[2:], strict=True))
    return rows


def differs(row: dict[str, str]) -> bool:
    """Whether duplexd answers as none of the others does."""
    own, *others = (row[server] for server in SERVERS)
    return own not in others


def main() -> None:
    page, old = PAGE.read_text(), documented()
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        answers = {server: ask(server, Path(directory), inputs().values()) for server in SERVERS}
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for key in inputs():
        row = {server: answers[server][key] for server in SERVERS}
        why = old.get(key, {}).get("why", "") if differs(row) else ""
        lines.append(f"| {' | '.join((*key, *row.values(), why))} |")
    versions = ", ".join(f"{name} {version(name)}" for name in PEERS)
    table = "\n".join([f"{VERSIONS}{versions}.", "", *lines])
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()

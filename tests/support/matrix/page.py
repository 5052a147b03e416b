"""docs/interop.md: its tables are what the clients did; the text is written by hand.

`python -m tests.support.matrix.page` runs every client and replaces the tables.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.support.daemon import ROOT
from tests.support.matrix import ext4, fio, kernel, libnbd, ovirt, qemu, raw
from tests.support.matrix.features import FEATURES, UNDER_LOAD
from tests.support.matrix.rig import served
from tests.support.matrix.under_load import measure

PAGE = ROOT / "docs" / "interop.md"
BEGIN, END = "<!-- measured -->", "<!-- end -->"
CLIENTS = [module.CLIENT for module in (libnbd, qemu, fio, ext4, ovirt, raw)]
HEAD = ("feature", *(client.name for client in CLIENTS))

Cells = dict[tuple[str, str], str]  # by client and feature


def documented() -> Cells:
    """The cells of the first table."""
    lines = PAGE.read_text().partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    rows = [line.strip("| ").split(" | ") for line in lines if line.startswith("| ")]
    return {
        (client.key, row[0]): cell
        for row in rows[1 : 1 + len(FEATURES) + len(UNDER_LOAD)]
        for client, cell in zip(CLIENTS, row[1:], strict=True)
    }


def notes() -> list[str]:
    """The second table: why a cell does not say that it works."""
    found: dict[tuple[str, str], list[str]] = {}
    for client in CLIENTS:
        for feature in FEATURES:
            if feature in client.notes:
                _word, why = client.notes[feature]
                found.setdefault((client.name, why), []).append(feature)
    rows = [f"| {name} | {', '.join(which)} | {why} |" for (name, why), which in found.items()]
    return ["| client | features | why |", "|---|---|---|", *rows]


def of_kernel() -> list[str]:
    """The third table: which tests cover the kernel's driver, and what it lacks."""
    rows = [f"| {feature} | {test} |" for feature, test in kernel.CELLS.items()]
    rows += [f"| {', '.join(which)} | -: {why} |" for why, which in kernel.LACKS.items()]
    return [f"| {kernel.NAME} | covered by |", "|---|---|", *rows]


def tables(cells: Cells) -> str:
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    for feature in (*FEATURES, *UNDER_LOAD):
        row = (feature, *(cells[client.key, feature] for client in CLIENTS))
        lines.append(f"| {' | '.join(row)} |")
    versions = ", ".join(client.version() for client in CLIENTS)
    return "\n".join([*lines, "", f"{versions}.", "", *notes(), "", *of_kernel()])


def main() -> None:
    cells: Cells = {}
    with (
        tempfile.TemporaryDirectory(dir="/tmp") as directory,
        served(Path(directory), CLIENTS) as rig,
    ):
        for client in CLIENTS:
            for feature in FEATURES:
                cells[client.key, feature] = client.measure(feature, rig)
        for feature in UNDER_LOAD:
            for key, cell in measure(rig, feature).items():
                cells[key, feature] = cell
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{tables(cells)}\n\n{END}{rest.partition(END)[2]}")


if __name__ == "__main__":
    main()

"""docs/nbd.md says what the handshake does."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from duplexd.limits import NbdLimits
from duplexd.nbd import constants as c
from duplexd.nbd import messages as m
from duplexd.nbd.export_flags import export_flags
from duplexd.nbd.handshake import TRANSMISSION
from duplexd.nbd.negotiated import Negotiated
from tests.unit.nbd.wire import ALL_OFFERS, haggle, outcomes

PAGE = (Path(__file__).parents[3] / "docs" / "nbd.md").read_text()
OPTIONS = re.findall(r"^\| `(\w+)` \| (\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE, re.MULTILINE)
DATA = {
    "none": b"",
    "ignored": b"whatever",
    "name": b"data",
    "name, kinds": m.go_data("data", []),
    "name, queries": m.context_data("data", []),
}


def test_every_option_that_is_answered_is_listed_with_its_number() -> None:
    assert [(name, int(number)) for name, number, _, _ in OPTIONS] == [
        (name.removeprefix("OPT_"), number)
        for name, number in vars(c).items()
        if name.startswith("OPT_")
    ]


@pytest.mark.parametrize(("number", "data"), [row[1:3] for row in OPTIONS])
def test_options_take_the_data_that_is_documented(number: str, data: str) -> None:
    option = int(number)
    before = m.CLIENT_FLAGS.pack(3) + m.option(c.OPT_STRUCTURED_REPLY)

    def answer(data: bytes) -> int:
        """The last reply to the option."""
        options = before + m.option(option, data)
        handshake, replies = haggle(options, offers=ALL_OFFERS, tls="optional")
        if handshake.state == TRANSMISSION:
            return c.REP_ACK
        return outcomes(replies)[-1][1]

    assert answer(DATA[data]) == c.REP_ACK
    if data == "none":
        assert answer(b"x") == c.REP_ERR_INVALID


@pytest.mark.parametrize(
    "figure",
    [
        f"minimum {c.BLOCK_BYTES_MIN}, preferred {c.BLOCK_BYTES_PREFERRED:,}, maximum payload",
        f"maximum payload {c.PAYLOAD_BYTES_ADVERTISED:,} bytes",
        f"up to {c.PAYLOAD_BYTES_MAX:,}",
        f"more than {c.OPTION_BYTES_MAX:,} bytes of data",
        f"more than {c.OPTION_SKIPPED_BYTES_MAX:,} bytes of data",
        f"more than {c.STRING_BYTES_MAX:,} bytes",
        f"more than {c.CONTEXT_QUERIES_MAX:,} queries",
        f"{NbdLimits().handshake_options_max:,} options",
        f"the newest first, at most {c.BITMAPS_LISTED_MAX}",
        f"takes at most {c.BITMAPS_SELECTED_MAX} of them at once",
        "eight contexts" if c.CONTEXTS_AN_OPTION == 8 else "",
        f"{NbdLimits().handshake_seconds_max:.0f} s from one option to the next",
        f"{NbdLimits().handshake_total_seconds_max / 60:.0f} minutes in all",
    ],
)
def test_figures_are_those_of_the_code(figure: str) -> None:
    assert figure in PAGE


PREFIXES = {"REP_": r"\| `{}` \|", "INFO_": r"\| `INFO_{}` \|", "FLAG_": r"\| `{}` \|"}
OF_HANDSHAKE = {"FLAG_FIXED_NEWSTYLE", "FLAG_NO_ZEROES", "REP_FLAG_ERROR"}


@pytest.mark.parametrize(
    ("prefix", "name"),
    [
        (prefix, name)
        for name in vars(c)
        for prefix in PREFIXES
        if name.startswith(prefix) and name not in OF_HANDSHAKE
    ],
)
def test_every_reply_information_and_flag_has_a_row(prefix: str, name: str) -> None:
    row = PREFIXES[prefix].format(re.escape(name.removeprefix(prefix)))
    assert re.search(f"^{row}", PAGE, re.MULTILINE), f"docs/nbd.md says nothing of {name}"


ANNOUNCED = dict(re.findall(r"^\| `(\w+)` \| ((?:always|never|to|with).*) \|$", PAGE, re.MULTILINE))


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    "negotiated",
    [
        Negotiated(),
        Negotiated(structured=True),
        Negotiated(structured=True, extended=True),
        Negotiated(structured=True, extended=True, contexts=((1, c.CONTEXT_ALLOCATION),)),
    ],
)
def test_flags_are_announced_as_documented(negotiated: Negotiated, read_only: bool) -> None:
    true = {
        "always": True,
        "never": False,
        "to clients that may only read": read_only,
        "to clients that may write": not read_only,
        "with structured replies or extended headers": negotiated.structured,
        "with extended headers and a context": bool(negotiated.contexts),
    }
    announced = export_flags(read_only=read_only, negotiated=negotiated)
    for name, value in vars(c).items():
        if name.startswith("FLAG_") and name not in OF_HANDSHAKE:
            when = ANNOUNCED[name.removeprefix("FLAG_")].partition(":")[0]
            assert bool(announced & value) == true[when], name

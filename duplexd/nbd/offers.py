"""Which options there are for a client, and what an option gets by its number and length alone.

What is decided here costs a client 16 bytes and the server nothing: the data that follows is
skipped as it arrives. So an option that is too long, unknown or not allowed yet is answered, and
the connection stays in step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from . import constants as c

Tls = Literal["off", "optional", "required"]


@dataclass(frozen=True)
class Offers:
    """Options that transmission can keep; the others are not supported. `contexts` is of use only
    with one of the other two.
    """

    structured: bool = False
    extended: bool = False
    contexts: bool = False


NO_OFFERS = Offers()


class Refusal(NamedTuple):
    """Why an option fails: REP_ERR_* and words for the client."""

    reply: int
    text: str


_ALWAYS_OFFERED = frozenset({c.OPT_EXPORT_NAME, c.OPT_LIST, c.OPT_INFO, c.OPT_GO})
_WITHOUT_DATA = frozenset(
    {c.OPT_LIST, c.OPT_STARTTLS, c.OPT_STRUCTURED_REPLY, c.OPT_EXTENDED_HEADERS}
)


def offered(offers: Offers, tls: Tls) -> frozenset[int]:
    """The options that are answered, ABORT aside."""
    more = {
        c.OPT_STARTTLS: tls != "off",
        c.OPT_STRUCTURED_REPLY: offers.structured,
        c.OPT_LIST_META_CONTEXT: offers.contexts,
        c.OPT_SET_META_CONTEXT: offers.contexts,
        c.OPT_EXTENDED_HEADERS: offers.extended,
    }
    return _ALWAYS_OFFERED | {number for number, offered in more.items() if offered}


def decide(
    number: int, length: int, offered: frozenset[int], *, tls_missing: bool
) -> Refusal | None:
    """None if the answer depends on the data. ABORT is acknowledged, whatever comes with it.
    `tls_missing`: TLS is required, and is not up.
    """
    if number == c.OPT_ABORT:  # its data is ignored
        return Refusal(c.REP_ACK, "")
    if tls_missing and number != c.OPT_STARTTLS:
        return Refusal(c.REP_ERR_TLS_REQD, "TLS is required; send STARTTLS first")
    if length and number in _WITHOUT_DATA:
        return Refusal(c.REP_ERR_INVALID, f"option {number} takes no data")
    if number == c.OPT_STARTTLS and number not in offered:  # known, and not wanted here
        return Refusal(c.REP_ERR_POLICY, "TLS is not configured")
    if number not in offered:
        return Refusal(c.REP_ERR_UNSUP, f"option {number} is not supported")
    if length > c.OPTION_BYTES_MAX:
        return Refusal(
            c.REP_ERR_TOO_BIG,
            f"option {number} has {length} bytes of data; {c.OPTION_BYTES_MAX} is the maximum",
        )
    return None

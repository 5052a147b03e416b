"""Whether a request of HTTP was meant for this listener, by its Host header. Pure.

A web page of a stranger can have its own name resolve to an address that only the reader's browser
reaches, this machine's for instance (DNS rebinding). The browser then lets that page read whatever
is answered there. It says the stranger's name in Host, so a listener that asks for no certificate
answers only to names which nobody else can have: addresses, and names of its own.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

_HOST = re.compile(r"(?:\[(?P<v6>[^\]]*)\]|(?P<name>[^:]*))(?::\d*)?")


def is_meant(host: str | None, names: AbstractSet[str]) -> bool:
    """Whether `host`, a Host header, is an address, localhost or one of `names`, which are in lower
    case. None: there is none (HTTP/1.0), which no browser does.
    """
    if host is None:
        return True
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return False
    name = (found["name"] or found["v6"] or "").lower().removesuffix(".")
    return name == "localhost" or name in names or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

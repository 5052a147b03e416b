"""What a verified certificate says of its holder: names, and until when it is valid. Pure.

A certificate arrives as `ssl` shows it (`getpeercert()`), which is empty for one that was not
verified. So whatever is read here was signed by an authority that the configuration names.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Certificate = Mapping[str, Any]  # of nested tuples, see `ssl.SSLSocket.getpeercert`
ALTERNATIVES = ("DNS", "URI", "email")


def names_of(certificate: Certificate, kinds: Sequence[str] = ("DNS",)) -> Iterator[str]:
    """Common names of the subject, then alternative names of these kinds. A wildcard matches
    nothing but itself.
    """
    yield from (
        value
        for part in certificate.get("subject", ())
        for kind, value in part
        if kind == "commonName" and value
    )
    yield from (
        value for kind, value in certificate.get("subjectAltName", ()) if kind in kinds and value
    )


def valid_until(certificate: Certificate) -> float | None:
    """The end of its validity, in seconds since 1970; None if there is no certificate."""
    text = certificate.get("notAfter")
    return float(ssl.cert_time_to_seconds(text)) if text else None

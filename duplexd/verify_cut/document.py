"""The certificate as `verify-cut` reads it: docs/verify-cut.md has its fields.

The file may be edited, truncated or hostile, so every field is converted to its type here, once.
The check-sum detects an accident, not a forger; what cannot be forged is that a journal agrees.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from duplexd.errors import UsageError
from duplexd.limits import ProofLimits

if TYPE_CHECKING:
    from duplexd.json_object import Json

VERSION = 1
_LIMITS = ProofLimits()


class CertifiedVolume(NamedTuple):
    """A volume at the cut. Paths are those of the controller's machine, "" where not known."""

    id: int
    name: str
    size: int
    primary: str
    secondary: str


class CertifiedMember(NamedTuple):
    """A controller, and the position of the cut in its journal."""

    name: str
    sequence: int
    identity: bytes
    crc: int | None  # None: not known when the certificate was written
    chain: int | None
    directory: str
    volumes: tuple[CertifiedVolume, ...]


class Document(NamedTuple):
    """A certificate. `intact`: its check-sum matches its content."""

    cut: str
    group: str
    tag: str
    verdict: str
    members: tuple[CertifiedMember, ...]
    intact: bool


def read(path: str, limits: ProofLimits = _LIMITS) -> Document:
    """The certificate in a file. Raises UsageError if there is none in it."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(limits.certificate_bytes_max + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(data) > limits.certificate_bytes_max:
        raise UsageError(
            f"{path}: larger than any certificate ({limits.certificate_bytes_max} bytes)"
        )
    try:
        outer = json.loads(data)
        body = outer["certificate"]
        if body["version"] != VERSION:
            raise UsageError(
                f"{path}: a certificate of version {body['version']!r}; "
                f"this program reads version {VERSION}"
            )
        return _document(body, outer.get("sha256") == check_sum(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a certificate of a cut ({type(error).__name__}: {error})"
        ) from error


def check_sum(body: Json) -> str:
    """SHA-256 of the content as JSON without spaces, keys sorted, all but ASCII escaped."""
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def _document(body: Json, intact: bool) -> Document:
    members = tuple(_member(entry) for entry in body["controllers"])
    if not members or len({member.name for member in members}) != len(members):
        raise ValueError("its controllers are missing, or one is named twice")
    return Document(
        str(body["cut"]),
        str(body.get("group") or ""),
        str(body.get("tag") or ""),
        str(body["verdict"]),
        members,
        intact,
    )


def _member(entry: Json) -> CertifiedMember:
    journal = entry["journal"]
    volumes = tuple(
        CertifiedVolume(
            int(row["id"]),
            str(row["name"]),
            int(row["size"]),
            str(row.get("primary") or ""),
            str(row.get("secondary") or ""),
        )
        for row in entry["volumes"]
    )
    identity = bytes.fromhex(journal["identity"])
    return CertifiedMember(
        str(entry["name"]),
        int(entry["sequence"]),
        identity,
        _check_sum(journal, "crc"),
        _check_sum(journal, "chain"),
        str(journal["directory"]),
        volumes,
    )


def _check_sum(journal: Json, key: str) -> int | None:
    return None if journal.get(key) is None else int(journal[key])

"""The certificate as `verify-cut` reads it: docs/verify-cut.md has its fields."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from duplexd.errors import UsageError
from duplexd.limits import CERTIFICATE_BYTES_MAX

VERSION = 1


class CertifiedVolume(NamedTuple):
    """A volume as it was at the cut; the paths are those of the controller's machine, "" where not known."""

    id: int
    name: str
    size: int
    primary: str
    secondary: str


class CertifiedMember(NamedTuple):
    """A controller, and the place of the cut in its journal."""

    name: str
    sequence: int
    identity: bytes
    crc: int | None  # None: not known when the certificate was written
    chain: int | None
    directory: str
    volumes: tuple[CertifiedVolume, ...]


class Document(NamedTuple):
    """A certificate. `intact`: its check-sum is that of its content."""

    cut: str
    group: str
    tag: str
    verdict: str
    members: tuple[CertifiedMember, ...]
    intact: bool


def read(path: str) -> Document:
    """The certificate in a file. Raises UsageError if it is none."""
    try:
        with Path(path).open("rb") as file:
            data = file.read(CERTIFICATE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if len(data) > CERTIFICATE_BYTES_MAX:
        raise UsageError(f"{path}: larger than any certificate ({CERTIFICATE_BYTES_MAX} bytes)")
    try:
        outer = json.loads(data)
        body = outer["certificate"]
        if body["version"] != VERSION:
            raise UsageError(
                f"{path}: a certificate of version {body['version']!r}; this program knows version {VERSION}"
            )
        return _document(body, outer.get("sha256") == check_sum(body))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UsageError(
            f"{path}: not a certificate of a cut ({type(error).__name__}: {error})"
        ) from error


def check_sum(body: dict[str, Any]) -> str:
    """SHA-256 of the content as JSON without spaces, keys sorted, all but ASCII escaped."""
    return hashlib.sha256(
        json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    ).hexdigest()


def _document(body: dict[str, Any], intact: bool) -> Document:
    members = tuple(_member(entry) for entry in body["controllers"])
    if not members or len({member.name for member in members}) != len(members):
        raise ValueError("it names no controllers, or one twice")
    return Document(
        str(body["cut"]),
        str(body.get("group") or ""),
        str(body.get("tag") or ""),
        str(body["verdict"]),
        members,
        intact,
    )


def _member(entry: dict[str, Any]) -> CertifiedMember:
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


def _check_sum(journal: dict[str, Any], key: str) -> int | None:
    return None if journal.get(key) is None else int(journal[key])

"""The certificate of a cut: what a suspend claims, for `duplexctl verify-cut` to check later.

It says where in the journals the cut is written.

Its fields are in docs/verify-cut.md. The check-sum in it tells an edited file from one that is as
it was written; it is not a signature.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import stat
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duplexd
from duplexd.errors import DuplexdError, UsageError
from duplexd.runtime import owned
from duplexd.runtime.directory import replace_file

if TYPE_CHECKING:
    from duplexd.client.results import Suspended
    from duplexd.json_object import Json

VERSION = 1
_DESCRIPTORS = re.compile(r"/proc/\d+(/task/\d+)?/fd")
_LINKS_MAX = 40  # as the kernel follows


def make(result: Suspended) -> Json:
    """The certificate of a suspend.

    Raises UsageError if the controllers did not say where in their journals the cut is.
    """
    silent = sorted(
        set(result.controllers) - {str(member["controller"]) for member in result.members}
    )
    if silent or not result.members:
        raise UsageError(
            f"no certificate can be written: {', '.join(silent) or 'no controller'} did not"
            f" say where in its journal cut {result.cut} is"
        )
    body: Json = {
        "version": VERSION,
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
        "program": f"duplexd {duplexd.__version__}",
        "group": result.group,
        "tag": result.tag,
        "cut": result.cut,
        "verdict": result.verdict,
        "why": result.why,
        "hold": result.hold.json(),
        "phases": dict(result.phases),
        "controllers": [_member(member) for member in result.members],
    }
    return {"certificate": body, "sha256": _check_sum(body)}


_JOURNAL_KEYS = ("directory", "identity", "crc", "chain")
_VOLUME_KEYS = ("id", "name", "size", "primary", "secondary", "drill")


def _member(member: Json) -> Json:
    return {
        "name": member["controller"],
        "sequence": member["sequence"],
        "time": member["time"],
        "journal": {key: member["journal"].get(key) for key in _JOURNAL_KEYS},
        "volumes": [{key: volume.get(key) for key in _VOLUME_KEYS} for volume in member["volumes"]],
    }


def _check_sum(body: Json) -> str:
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def check_place(path: str | Path) -> None:
    """Could a certificate be put there?

    To be asked before the cut that it is about. Raises UsageError.
    """
    try:
        place = _place(path)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{place.name}.", dir=place.parent)
        os.close(descriptor)
        Path(temporary).unlink()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"no certificate could be written: {path}: {reason}; name a file in a"
            " directory that you may write to"
        ) from None


def write(path: str | Path, certificate: Json) -> None:
    """Put a certificate into a file, durably.

    It is there whole, or what was there before. Raises DuplexdError.
    """
    try:
        text = json.dumps(certificate, indent=2, sort_keys=True, allow_nan=False) + "\n"
        replace_file(str(_place(path)), text.encode("ascii"), shared=True)
    except OSError as error:
        raise DuplexdError(
            f"the certificate could not be written: {path}: {error.strerror}"
        ) from error


def _place(path: str | Path) -> Path:
    """The file that `path` names, or a symbolic link there.

    Raises OSError for what exists and is not a file: a device or a pipe would be gone.

    And for what this process has open: who redirected its output does not mean that file to be
    replaced.
    """
    owned.check_links(str(path))
    if _leads_through_descriptors(path):
        raise OSError(errno.EINVAL, "It is what a descriptor has open, not the name of a file")
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "Not a regular file")
    return Path(os.path.realpath(path))


def _leads_through_descriptors(path: str | Path) -> bool:
    """As /dev/stdout, /dev/fd/1 and symbolic links to them do.

    A file in a directory that is open does not.
    """
    for _ in range(_LINKS_MAX):
        directory, name = os.path.split(path)
        directory = os.path.realpath(directory)
        if _DESCRIPTORS.fullmatch(directory):
            return True
        path = os.path.join(directory, name)
        if not os.path.islink(path):
            return False
        path = os.path.join(directory, os.readlink(path))
    return False  # nobody can open that

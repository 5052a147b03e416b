"""What Linux knows of /dev/nbdN: whether it is attached, whose it is, and who uses it.

`root` is where the kernel shows it, another directory in tests.
"""

from __future__ import annotations

import errno
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from duplexd.errors import UsageError, WrongStateError

if TYPE_CHECKING:
    from collections.abc import Iterator

SECTOR_BYTES = 512  # the unit of sysfs, whatever the device's blocks are
_OPEN_SECONDS_MAX = 10.0
_PATH = re.compile(r"/dev/nbd(0|[1-9][0-9]{0,3})")


class NbdDevice:
    """/dev/nbd`number`."""

    def __init__(self, number: int, root: Path = Path("/")) -> None:
        self.number = number
        self.path = f"/dev/nbd{number}"
        self._shown = root / "sys" / "block" / f"nbd{number}"
        self._mounts = root / "proc" / "self" / "mountinfo"

    @classmethod
    def named(cls, path: str) -> NbdDevice:
        """Raises UsageError for anything but a whole NBD device."""
        found = _PATH.fullmatch(path)
        if found is None:
            raise UsageError(f"{path} is not an NBD device; expected /dev/nbd0, /dev/nbd1, ...")
        return cls(int(found[1]))

    @property
    def is_attached(self) -> bool:
        """Whether some client, of whatever kind, has connected it."""
        return self._read("pid") not in {"", "0"}

    @property
    def backend(self) -> str:
        """What the client that attached it said it is; "" where it said nothing."""
        return self._read("backend")

    @property
    def size(self) -> int:
        """In bytes."""
        return int(self._read("size") or "0") * SECTOR_BYTES

    @property
    def user(self) -> str:
        """Who uses it, so that it must not be taken away; "" for nobody that Linux knows of.

        File systems, swap, device mapper, md and others claim a device, and an opener that wants
        it alone is refused. A program that has it merely open is not seen. What cannot be found
        out counts as use.
        """
        answers: list[str] = []
        # The first opener of a device makes the kernel read it, which may take as long as there is
        # no connection.
        opener = threading.Thread(target=lambda: answers.append(self._claimed()), daemon=True)
        opener.start()
        opener.join(_OPEN_SECONDS_MAX)
        return answers[0] if answers else "perhaps in use: it does not answer"

    def _claimed(self) -> str:
        try:
            os.close(os.open(self.path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
        except OSError as error:
            if error.errno in {errno.ENXIO, errno.ENODEV}:
                return ""
            if error.errno != errno.EBUSY:
                return f"perhaps in use: {error.strerror}"
            where = next(self._mounted_on(), "")
            return f"mounted on {where}" if where else "in use by the kernel"
        return ""

    def _mounted_on(self) -> Iterator[str]:
        number = self._read("dev")
        for line in self._mounts.read_text().splitlines():
            fields = line.split(" ")
            if fields[2] == number:
                yield fields[4]

    def refuse_if_used(self, instead: str) -> None:
        """Raises WrongStateError; `instead`: what to do."""
        if user := self.user:
            raise WrongStateError(f"{self.path} is {user}; {instead}")

    def _read(self, name: str) -> str:
        try:
            return (self._shown / name).read_text().strip()
        except OSError:
            return ""

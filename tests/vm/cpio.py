"""Archives that Linux unpacks as its first file system: cpio in the "newc" format, uncompressed,
everything owned by root.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import BinaryIO

_DIRECTORY, _FILE, _LINK = 0o040000, 0o100000, 0o120000


class Archive:
    """What is added gets the directories above it first, with mode 755.

    Paths are relative; one that was added stays what it is.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._added: set[str] = set()

    def directory(self, path: str) -> None:
        """Add a directory, if it is not there."""
        if path in self._added:
            return
        self._parents(path)
        self._add(path, _DIRECTORY | 0o755, b"")

    def file(self, path: str, data: bytes, mode: int = 0o755) -> None:
        """Add a file, unless something of that name was added before."""
        if path not in self._added:
            self._parents(path)
            self._add(path, _FILE | mode, data)

    def link(self, path: str, target: str) -> None:
        """Add a symbolic link, unless something of that name was added before."""
        if path not in self._added:
            self._parents(path)
            self._add(path, _LINK | 0o777, target.encode())

    def end(self) -> None:
        """Write what ends every archive."""
        self._add("TRAILER!!!", 0, b"")

    def _parents(self, path: str) -> None:
        for parent in reversed(PurePosixPath(path).parents[:-1]):
            self.directory(str(parent))

    def _add(self, name: str, mode: int, data: bytes) -> None:
        """One member: 13 fields of 8 hexadecimal digits, the name, the data, each padded to 4
        bytes.
        """
        self._added.add(name)
        encoded = name.encode() + b"\0"
        links = 2 if mode & 0o170000 == _DIRECTORY else 1
        #        inode mode  uid gid links mtime size      device, rdevice  name          check
        fields = (0, mode, 0, 0, links, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
        self._file.write(header + bytes(-len(header) % 4))
        self._file.write(data + bytes(-len(data) % 4))

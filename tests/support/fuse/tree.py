"""Inodes that the kernel knows of, each held open with O_PATH in the directory below.

Held open, an inode stays the same whatever happens to its names, and its number is not given out
again. A node remembers under which name it was last found, because faults go by names.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field

from tests.support.fuse.protocol import ROOT_ID
from tests.support.fuse.unsynced import Unsynced


@dataclass(eq=False)
class Node:
    """One inode. `lock` orders the changes of its content."""

    number: int
    fd: int  # O_PATH
    key: tuple[int, int]
    parent: Node | None = None
    name: bytes = b"."
    lookups: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    blocks: bytearray | None = None  # which have space, from the first open on
    unsynced: Unsynced = field(default_factory=Unsynced)

    @property
    def path(self) -> str:
        """Relative to the root, as it was found last."""
        if self.parent is None:
            return "."
        return os.fsdecode(self.inside(b"")[:-1])

    def inside(self, name: bytes) -> bytes:
        """The path of a name in this directory."""
        names = [name]
        node = self
        while node.parent is not None:
            names.append(node.name)
            node = node.parent
        return b"/".join(reversed(names))

    @property
    def by_proc(self) -> str:
        """A path that leads to this very inode."""
        return f"/proc/self/fd/{self.fd}"


class Tree:
    """All nodes, by number and by inode."""

    def __init__(self, below: str) -> None:
        self._lock = threading.Lock()
        fd = os.open(below, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._root = Node(ROOT_ID, fd, _key(os.fstat(fd)), lookups=1)
        self._nodes = {ROOT_ID: self._root}
        self._by_key = {self._root.key: self._root}
        self._last = ROOT_ID

    def __getitem__(self, number: int) -> Node:
        return self._nodes[number]

    def nodes(self) -> list[Node]:
        with self._lock:
            return list(self._nodes.values())

    def find(self, parent: Node, name: bytes) -> tuple[Node, os.stat_result]:
        """Look a name up; counts as a lookup of the kernel."""
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent.fd)
        return self.adopt(fd, parent, name)

    def adopt(
        self, fd: int, parent: Node, name: bytes, lookups: int = 1
    ) -> tuple[Node, os.stat_result]:
        """The node of an O_PATH descriptor, which is taken over."""
        found = os.fstat(fd)
        with self._lock:
            node = self._by_key.get(_key(found))
            if node is None:
                self._last += 1
                node = Node(self._last, fd, _key(found))
                self._nodes[node.number] = self._by_key[node.key] = node
            else:
                os.close(fd)
            if node is not self._root:
                node.parent, node.name = parent, name
            node.lookups += lookups
        return node, found

    def known(self, parent: Node, name: bytes) -> Node | None:
        """The node of a name, if the kernel knows it."""
        try:
            found = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except OSError:
            return None
        with self._lock:
            return self._by_key.get(_key(found))

    def forget(self, number: int, lookups: int) -> None:
        """The kernel gives up lookups; with the last one the node goes."""
        with self._lock:
            node = self._nodes.get(number)
            if node is None or node is self._root:
                return
            node.lookups -= lookups
            # what can still be forgotten needs its file
            if node.lookups <= 0 and not node.unsynced.changes and node.blocks is None:
                del self._nodes[number], self._by_key[node.key]
                os.close(node.fd)


def _key(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino

"""Reads ext4 file systems in images on the host without mounting them, which needs root."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from tests.vm.tools import MachineError, run_tool

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.checker import Files


def read_images(images: dict[str, Path], scratch: Path) -> Files:
    """Copy each image, replay its journal, check its file system, and return its numbered files.

    Raises MachineError if a file system is not clean after the replay. The images themselves are
    only read; `scratch` keeps an exact copy of each as VOLUME.origin.
    """
    files: Files = {}
    for volume, image in images.items():
        origin, copy, tree = (scratch / f"{volume}.{part}" for part in ("origin", "copy", "files"))
        shutil.copyfile(image, origin)
        shutil.copyfile(origin, copy)
        replay_and_check(copy)
        files[volume] = read_files(copy, tree)
    return files


def replay_and_check(image: Path) -> None:
    """Replay the journal as mounting would, repair nothing, then check all of it with fsck."""
    run_tool("e2fsck", "-y", "-E", "journal_only", image)
    features = run_tool("dumpe2fs", "-h", image)
    # fsck -n would skip the journal, and look at an older state than the one that counts
    if "needs_recovery" in features:
        raise MachineError(f"{image}: the journal was not replayed\n{features}")
    run_tool("fsck.ext4", "-fn", image)


def read_files(image: Path, tree: Path) -> dict[int, bytes]:
    """The numbered files of the root directory."""
    tree.mkdir(parents=True)
    run_tool("debugfs", "-R", f"rdump / {tree}", image)
    return {int(file.name): file.read_bytes() for file in tree.iterdir() if file.name.isdigit()}

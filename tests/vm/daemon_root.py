"""A guest in which a daemon runs: busybox, the device mapper, duplexd as it is installed, and the
kernel's NBD client in front of it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.vm.cpio import Archive
from tests.vm.initramfs import DIRECTORIES, GUEST_SCRIPTS
from tests.vm.merged_root import MERGED, add_libraries, add_merged, add_programs
from tests.vm.python_tree import add_python

if TYPE_CHECKING:
    from collections.abc import Iterable

# busybox replaces what is not named here
PROGRAMS = (
    *("busybox", "curl", "dmsetup", "e2fsck", "filefrag", "mkfs.ext4", "nbd-client"),
    "resize2fs",
)
FILES = Path(__file__).parent / "guest_daemon"
ETC = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "etc/group": "root:x:0:\n",
    "etc/hosts": "127.0.0.1 localhost\n",
}


def write_daemon_root(target: Path, modules: Iterable[Path]) -> None:
    """Write the archive."""
    with target.open("wb") as file:
        archive = Archive(file)
        add_merged(archive)
        for directory in (*DIRECTORIES, "root", "srv"):
            if directory not in MERGED:
                archive.directory(directory)
        for path, text in ETC.items():
            archive.file(path, text.encode(), 0o644)
        archive.file("init", (GUEST_SCRIPTS / "init").read_bytes())
        for order, module in enumerate(modules):
            archive.file(f"modules/{order:02d}-{module.name}.ko", module.read_bytes())
        for script in FILES.iterdir():
            archive.file(f"usr/bin/{script.name}", script.read_bytes())
        for name in ("duplexd", "duplexctl"):
            archive.link(f"usr/bin/{name}", f"/opt/duplexd/bin/{name}")
        programs = add_programs(archive, PROGRAMS)
        add_libraries(archive, [*programs, *add_python(archive)])
        archive.end()

"""A guest in which systemd is the first process: Debian's package as it is installed here, a few
programs, duplexd, and this source tree's pages. One with devices has udev, the NBD driver, and what
makes and mounts file systems, too.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.daemon import ROOT
from tests.vm.cpio import Archive
from tests.vm.merged_root import add_libraries, add_merged, add_programs, merged
from tests.vm.python_tree import add_python
from tests.vm.tools import run_tool

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE = "root/duplexd"  # where the guest has this source tree: what one unpacks before installing
# busybox replaces what is not named here
PROGRAMS = (
    "busybox",
    "curl",
    "dash",
    "install",
    "kill",
    "nbdcopy",
    "nologin",
    "setpriv",
    "useradd",
)
DEVICE_PROGRAMS = (
    *("blkid", "depmod", "e2fsck", "mkfs.ext4", "modprobe", "mount", "nbd-client", "resize2fs"),
    "umount",
)
LOAD = Path(__file__).parent / "guest_daemon" / "load"
LEFT_OUT = ("/usr/share/", "/lib/udev/hwdb.d/")
GUEST_FILES = Path(__file__).parent / "guest_systemd"
DIRECTORIES = (
    "dev",
    "proc",
    "sys",
    "run",
    "tmp",
    "home",
    "srv",
    "var/lib",
    "var/log",
    "usr/local/bin",
    "etc/systemd/system",
)

ETC = {
    "etc/passwd": (
        "root:x:0:0:root:/root:/bin/sh\n"
        "nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
    ),
    "etc/group": "root:x:0:\ntty:x:5:\ndisk:x:6:\nsystemd-journal:x:101:\nnogroup:x:65534:\n",
    "etc/os-release": "ID=guest\nNAME=guest\n",
    "etc/machine-id": "d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0d0\n",
    "etc/hosts": "127.0.0.1 localhost\n",
    "etc/login.defs": (
        "USERGROUPS_ENAB yes\nSYS_UID_MIN 100\nSYS_UID_MAX 999\n"
        "SYS_GID_MIN 100\nSYS_GID_MAX 999\nUID_MIN 1000\nGID_MIN 1000\n"
    ),
}


def write_systemd_root(target: Path, _modules: Iterable[Path]) -> None:
    """Write the archive. No modules: everything that this guest uses is built into the kernel."""
    _write(target, PROGRAMS, ("systemd",), {})


def write_device_root(target: Path, modules: Iterable[Path]) -> None:
    """Write the archive of a guest that can attach volumes; the driver is loaded when it is asked
    for.
    """
    files = {f"modules/{path.name}.ko": path for path in modules if path.name == "nbd"}
    files["etc/mke2fs.conf"] = Path("/etc/mke2fs.conf")
    files["usr/bin/load"] = LOAD
    _write(target, (*PROGRAMS, *DEVICE_PROGRAMS), ("systemd", "udev"), files)


def _write(
    target: Path, programs: Iterable[str], packages: Iterable[str], files: dict[str, Path]
) -> None:
    with target.open("wb") as file:
        archive = Archive(file)
        archive.directory(".")
        archive.link("usr/bin/sh", "dash")
        archive.link("etc/systemd/system/getty.target", "/dev/null")  # no login
        add_merged(archive)
        for directory in DIRECTORIES:
            archive.directory(directory)
        for path, text in ETC.items():
            archive.file(path, text.encode(), 0o644)
        for script in GUEST_FILES.iterdir():
            archive.file(_place(script), script.read_bytes(), 0o644 if script.suffix else 0o755)
        for path, source in files.items():
            archive.file(path, source.read_bytes(), source.stat().st_mode & 0o777)
        archive.link(
            "etc/systemd/system/multi-user.target.wants/commands.service",
            "/etc/systemd/system/commands.service",
        )
        binaries = [*add_programs(archive, programs), *add_python(archive)]
        for package in packages:
            binaries += _add_package(archive, package)
        add_libraries(archive, binaries)
        _add_sources(archive)
        archive.end()


def _place(script: Path) -> str:
    if script.name == "init":
        return "init"
    return (
        f"etc/systemd/system/{script.name}"
        if script.suffix in {".service", ".target"}
        else f"usr/bin/{script.name}"
    )


def _add_package(archive: Archive, package: str) -> list[Path]:
    """The files of the package, less its manuals; returns the programs among them."""
    binaries = []
    for line in run_tool("dpkg", "-L", package).splitlines():
        path = Path(line)
        if line.startswith(LEFT_OUT) or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink():
            archive.link(merged(line), str(path.readlink()))
        elif path.is_file():
            archive.file(merged(line), path.read_bytes(), path.stat().st_mode & 0o777)
            binaries += [path] if _is_elf(path) else []
    return binaries


def _add_sources(archive: Archive) -> None:
    for directory in ("configs", "docs", "systemd"):
        for file in (ROOT / directory).rglob("*"):
            if file.is_file():
                archive.file(f"{SOURCE}/{file.relative_to(ROOT)}", file.read_bytes(), 0o644)


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"

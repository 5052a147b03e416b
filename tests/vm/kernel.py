"""Debian's kernel for virtual machines: fetched once by apt, kept in a cache directory, checked
before each use.

Needs neither root nor package lists on the machine: where apt has no lists (containers drop them)
or old ones (the package they name is gone from the archive), lists of our own are fetched into the
cache directory.
"""

from __future__ import annotations

import fcntl
import hashlib
import lzma
import os
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from tests.vm.tools import MachineError, run_tool, tool

META_PACKAGE = "linux-image-cloud-amd64"

# In the order in which they must be inserted. ext4 is built in.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_modern_dev",
    "virtio_pci_legacy_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "nbd",
    "loop",
    "dm_mod",
    "dm_flakey",
    "dm_log_writes",
)


class Kernel(NamedTuple):
    """What a machine boots from. `modules` are in the order of `MODULES`."""

    image: Path
    modules: list[Path]


def cache_directory() -> Path:
    """Where the package is kept from one run to the next."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "duplexd-vm"


def kernel(cache: Path, unpack_into: Path) -> Kernel:
    """The kernel and its modules, unpacked into `unpack_into`; the package comes from `cache`, or
    from apt the first time.
    """
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # others may fetch it at this moment
        package = _cached_package(cache) or _fetch_package(cache)
    return _unpack(package, unpack_into)


def _cached_package(cache: Path) -> Path | None:
    """The newest package whose content is still what was fetched; damaged ones are removed."""
    for package in sorted(cache.glob("*.deb"), key=lambda path: path.stat().st_mtime, reverse=True):
        checksum = package.with_suffix(".sha256")
        if checksum.exists() and checksum.read_text().strip() == _sha256(package):
            return package
        package.unlink(missing_ok=True)
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_package(cache: Path) -> Path:
    """Download by apt, which checks the archive's signature and the package's check-sum."""
    try:
        return _download(cache, [])
    except MachineError:
        own_lists = _update_own_lists(cache)
    return _download(cache, own_lists)


def _update_own_lists(cache: Path) -> list[str]:
    """Fetch package lists into the cache directory; returns the options that make apt use them."""
    lists, archives = cache / "apt" / "lists", cache / "apt" / "cache"
    for directory in (lists / "partial", archives / "archives" / "partial"):
        directory.mkdir(parents=True, exist_ok=True)
    options = [
        "-o",
        f"Dir::State::Lists={lists}",
        "-o",
        f"Dir::Cache={archives}",
        "-o",
        "APT::Sandbox::User=",
    ]
    run_tool("apt-get", *options, "-q", "update")
    return options


def _download(cache: Path, options: list[str]) -> Path:
    name = _package_name(options)
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        run_tool(
            "apt-get",
            *options,
            "-o",
            "APT::Sandbox::User=",
            "-q",
            "download",
            name,
            cwd=Path(scratch),
        )
        fetched = next(Path(scratch).glob("*.deb"), None)
        if fetched is None:
            raise MachineError(f"apt-get download {name} left no package behind")
        package = cache / fetched.name
        package.with_suffix(".sha256").write_text(_sha256(fetched) + "\n")
        return fetched.rename(package)


def _package_name(options: list[str]) -> str:
    """The package with the kernel itself: what the meta package depends on."""
    output = run_tool("apt-cache", *options, "depends", META_PACKAGE)
    for line in output.splitlines():
        kind, _, name = line.strip().partition(": ")
        if kind == "Depends" and name.startswith("linux-image-"):
            return name
    raise MachineError(
        f"apt does not say what {META_PACKAGE} depends on; is an amd64 Debian archive "
        f"configured?\n{output}"
    )


def _unpack(package: Path, directory: Path) -> Kernel:
    """Take the kernel image and `MODULES` out of the package, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    found: dict[str, Path] = {}
    with subprocess.Popen(
        [tool("dpkg-deb"), "--fsys-tarfile", str(package)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
            for member in archive:
                name = _wanted(member.name)
                content = archive.extractfile(member) if name and member.isfile() else None
                if name and content:
                    data = content.read()
                    found[name] = directory / name
                    found[name].write_bytes(
                        lzma.decompress(data) if member.name.endswith(".xz") else data
                    )
        # what follows the archive's end: closing the pipe early would be an error to dpkg-deb
        process.stdout.read()
    missing = [name for name in ("vmlinuz", *MODULES) if name not in found]
    if process.returncode or missing:
        raise MachineError(
            f"{package}: dpkg-deb ended with {process.returncode}; not found in it: "
            f"{', '.join(missing) or 'nothing'}"
        )
    return Kernel(found["vmlinuz"], [found[name] for name in MODULES])


def _wanted(path: str) -> str | None:
    """`vmlinuz`, the name of a module of `MODULES`, or None."""
    name = PurePosixPath(path).name
    if name.startswith("vmlinuz-"):
        return "vmlinuz"
    module = name.partition(".ko")[0].replace("-", "_")
    return module if ".ko" in name and module in MODULES else None

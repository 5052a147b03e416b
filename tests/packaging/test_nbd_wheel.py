"""docs/nbd-library.md: both examples, with real clients and servers, where the library's wheel is
installed alone.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import venv
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
import trustme

from tests.support.daemon import ROOT
from tests.support.sockets import wait_listening

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = ROOT / "docs" / "nbd-library.md"
SECONDS_MAX = 120
SIZE = 64 << 20


@dataclass
class Installed:
    """A virtual environment with the wheel in it, and the examples of the page as files."""

    wheel: Path
    python: Path
    ramdisk: Path
    copy: Path


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory: Path = tmp_path_factory.mktemp("library")
    build = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory"]
    library = ROOT / "configs" / "nbd-library"
    subprocess.run([*build, directory], cwd=library, timeout=SECONDS_MAX, check=True)
    (wheel,) = directory.glob("duplexd_nbd-*.whl")
    venv.create(directory / "venv")
    python = directory / "venv" / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-index", "--quiet"]
    subprocess.run([*pip, wheel], timeout=SECONDS_MAX, check=True)
    files = [directory / "ramdisk.py", directory / "copy_disk.py"]
    for path, code in zip(files, examples(), strict=True):
        path.write_text(code)
    return Installed(wheel, python, *files)


def examples() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def run(*command: str | Path, text: str = "", **more: str) -> str:
    result = subprocess.run(
        command,
        input=text,
        env=os.environ | more,
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@contextmanager
def ramdisk(installed: Installed, uri: str, *certificate_and_key: str) -> Iterator[str]:
    """The first example; where it is."""
    command = [str(installed.python), str(installed.ramdisk), uri, *certificate_and_key]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextmanager
def started(socket: Path, *command: str | Path) -> Iterator[str]:
    """A server of others at this socket; where it is."""
    with subprocess.Popen(command) as process:
        try:
            wait_listening(str(socket))
            yield f"nbd+unix:///?socket={socket}"
        finally:
            process.terminate()


@pytest.fixture
def disk(installed: Installed, tmp_path: Path) -> Iterator[str]:
    with ramdisk(installed, f"nbd+unix:///?socket={tmp_path}/ram") as uri:
        yield uri


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(os.urandom(SIZE // 2) + bytes(SIZE // 2))
    return path


def test_the_examples_have_thirty_lines() -> None:
    assert [len(code.splitlines()) for code in examples()] == [30, 30]


def test_the_wheel_has_no_dependencies_and_is_typed(installed: Installed) -> None:
    with ZipFile(installed.wheel) as opened:
        names = opened.namelist()
        (metadata,) = [name for name in names if name.endswith("/METADATA")]
        assert "Requires-Dist" not in opened.read(metadata).decode()
        sources = {name: opened.read(name).decode() for name in names if name.endswith(".py")}
    assert "duplexd_nbd/py.typed" in names
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"duplexd_nbd"}
    for name, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module is not None
                assert node.module.split(".")[0] in sys.stdlib_module_names, name


def test_the_examples_pass_a_strict_type_checker(installed: Installed, tmp_path: Path) -> None:
    checked = [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull]
    checked += ["--python-executable", str(installed.python), "--cache-dir", str(tmp_path)]
    run(*checked, str(installed.ramdisk))
    run(*checked, str(installed.copy))


def test_nbdinfo_sees_structured_replies_and_block_status(disk: str) -> None:
    (export,) = json.loads(run("nbdinfo", "--json", disk))["exports"]
    assert export["export-size"] == SIZE
    assert export["contexts"] == ["base:allocation"]
    assert (export["can_df"], export["can_multi_conn"], export["can_flush"]) == (True, True, False)
    assert "using structured packets" in run("nbdinfo", disk)
    assert "data" in run("nbdinfo", "--map", disk)


def test_nbdcopy_and_qemu_img_read_what_was_written(
    disk: str, content: Path, tmp_path: Path
) -> None:
    run("nbdcopy", content, disk)
    run("nbdcopy", "--connections=2", disk, tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content.read_bytes()
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", disk, content)


def test_qemu_io_and_fio_find_their_patterns(disk: str) -> None:
    commands = ["write -P 0x22 1M 64k", "write -z -u 3M 1M", "flush", "read -P 0x22 1M 64k"]
    text = "".join(f"{command}\n" for command in [*commands, "read -P 0 3M 1M"])
    assert "Pattern" not in run("qemu-io", "-f", "raw", disk, text=text)
    run("fio", "--name=v", "--ioengine=nbd", f"--uri={disk}", "--rw=randwrite", "--size=8m",
        "--bsrange=512-128k", "--iodepth=64", "--verify=crc32c", "--verify_fatal=1",
        "--serialize_overlap=1", "--numjobs=2", "--offset_increment=8m",
        "--verify_state_save=0")  # fmt: skip


def test_the_copy_tool_copies_from_nbdkit_and_to_qemu_nbd(
    installed: Installed, content: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"\xff" * SIZE)
    kit = ["nbdkit", "--foreground", "--unix", str(tmp_path / "kit"), "file", str(content)]
    qemu = ["qemu-nbd", "--format=raw", "--persistent", "--socket", str(tmp_path / "qemu")]
    qemu.append(str(target))
    with started(tmp_path / "kit", *kit) as source, started(tmp_path / "qemu", *qemu) as to:
        run(installed.python, installed.copy, source, to)
    assert target.read_bytes() == content.read_bytes()


def test_the_examples_speak_tls_with_each_other_and_with_others(
    installed: Installed, content: Path, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca-cert.pem"))
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(str(tmp_path / "server-cert.pem"))
    issued.private_key_pem.write_to_path(str(tmp_path / "server-key.pem"))
    files = [str(tmp_path / "server-cert.pem"), str(tmp_path / "server-key.pem")]
    verified_by = {"SSL_CERT_FILE": str(tmp_path / "ca-cert.pem")}
    kit = ["nbdkit", "--foreground", "--exit-with-parent", "--tls=require", "--unix"]
    kit += [str(tmp_path / "kit"), f"--tls-certificates={tmp_path}", "file", str(content)]
    with (
        ramdisk(installed, "nbds://localhost:0", *files) as disk,
        started(tmp_path / "kit", *kit) as plain,
    ):
        assert disk.startswith("nbds://localhost:")
        from_kit = plain.replace("nbd+unix", "nbds+unix")
        run(installed.python, installed.copy, from_kit, disk, **verified_by)
        shown = f"{disk}?tls-certificates={tmp_path}"
        assert "with TLS" in run("nbdinfo", shown)
        run("nbdcopy", shown, tmp_path / "back")
        assert (tmp_path / "back").read_bytes() == content.read_bytes()
        with pytest.raises(AssertionError, match="CERTIFICATE_VERIFY_FAILED"):
            run(installed.python, installed.copy, disk, disk)
        with pytest.raises(AssertionError, match="TLS is required"):
            run(installed.python, installed.copy, disk.replace("nbds", "nbd"), from_kit)

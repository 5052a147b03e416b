"""Programs of QEMU, as children that do not outlive the run.

A copy that went on after its run was killed would keep the export open, which is a reader, and
would write into what the next run removes. So each is started through `setpriv`, which has the
kernel kill it when its parent dies. They are in a session of their own: ctrl-C reaches the run,
which decides what becomes of them. They have a low priority: the application is at work.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from duplexd.errors import DuplexdError
from duplexd.known import known
from duplexd.printable import printable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence

PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-nbd": "qemu-utils",
    "setpriv": "util-linux",
    "nice": "coreutils",
}
_TIED = ("setpriv", "--pdeathsig", "KILL", "nice")
_PROGRESS = re.compile(r"\(\s*([0-9.]+)/100%\)")
_CHUNK_BYTES = 4096
_OUTPUT_BYTES_MAX = 1 << 20
_LOOK_SECONDS = 0.02  # whether a server listens
_LINES_MAX = 3  # of what a program says of its failure


class ProgramError(DuplexdError):
    """A program failed; `status` is its exit code."""

    status = 0


def check() -> None:
    """Raises DuplexdError if a program is missing."""
    missing = [name for name in PACKAGES if shutil.which(name) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[name] for name in missing))
        raise DuplexdError(
            f"{' and '.join(missing)} cannot be found; install what Debian calls {packages}"
        )


async def run(
    command: Sequence[str],
    progress: Callable[[float], None] | None = None,
    output_bytes_max: int = _OUTPUT_BYTES_MAX,
) -> bytes:
    """What it writes to stdout, or the beginning of it. `progress` gets percents, if the program
    shows them.

    Raises ProgramError with what it said. A cancellation kills it first.
    """
    process = await asyncio.create_subprocess_exec(
        *_TIED,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    stdout, stderr = known(process.stdout, "a pipe"), known(process.stderr, "a pipe")
    show = _shown(progress) if progress is not None else None
    try:
        output, complaint, _ = await asyncio.gather(
            _read(stdout, show, output_bytes_max), _read(stderr, None), process.wait()
        )
    except BaseException:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    status = known(process.returncode, "it has ended")
    if status:
        raise _failed(command, status, complaint or output)
    return output


@asynccontextmanager
async def serving(command: Sequence[str], socket_path: str) -> AsyncGenerator[None]:
    """Within, a program listens at that path. Raises ProgramError if it ends before it does."""
    process = await asyncio.create_subprocess_exec(
        *_TIED,
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "LC_ALL": "C"},
    )
    said = asyncio.ensure_future(_read(known(process.stderr, "a pipe"), None))
    try:
        while not _listens(socket_path):
            if said.done():
                raise _failed(command, await process.wait() or 1, said.result())
            await asyncio.wait((said,), timeout=_LOOK_SECONDS)
        yield
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        await said


def _listens(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


async def _read(
    stream: asyncio.StreamReader,
    show: Callable[[bytes], None] | None,
    bytes_max: int = _OUTPUT_BYTES_MAX,
) -> bytes:
    """All of it, or its beginning."""
    found = bytearray()
    while chunk := await stream.read(_CHUNK_BYTES):
        found += chunk[: bytes_max - len(found)]
        if show is not None:
            show(chunk)
    return bytes(found)


def _shown(progress: Callable[[float], None]) -> Callable[[bytes], None]:
    """What finds the progress in the output of a program."""

    def show(chunk: bytes) -> None:
        if percents := _PROGRESS.findall(chunk.decode(errors="replace")):
            progress(float(percents[-1]))

    return show


def _failed(command: Sequence[str], status: int, complaint: bytes) -> ProgramError:
    text = complaint.decode(errors="replace")
    lines = _PROGRESS.sub("", text).split("\n")
    lines = [line for each in lines if (line := each.strip())][-_LINES_MAX:]
    why = "; ".join(lines) or f"exit code {status}"
    error = ProgramError(printable(f"{' '.join(command[:2])}: {why}"))
    error.status = status
    return error

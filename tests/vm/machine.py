"""A virtual machine with Debian's kernel under software emulation, and commands that run in it.

The guest reaches the host's 127.0.0.1:PORT at `HOST_ADDRESS`:PORT. Everything is bounded: a command
by its time-out, the machine by its lifetime, which coreutils' `timeout` and the guest itself both
watch, so that it ends even if the test that started it was killed.
"""

from __future__ import annotations

import os
import select
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from tests.vm.initramfs import write_initramfs
from tests.vm.kernel import cache_directory, kernel
from tests.vm.tools import MachineError, tool

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST_ADDRESS = "10.0.2.2"
PROCESSORS = 2  # a second NBD connection is only used by a second processor
BOOT_TIMEOUT_S = 600.0
COMMAND_TIMEOUT_S = 300.0
LIFETIME_S = 3600  # emulated, with other work on the machine, a test takes minutes
STOP_TIMEOUT_S = 60.0
CONSOLE_TAIL_LINES = 25


class Outcome(NamedTuple):
    """What a command in the guest came to. `output` is its standard output and error together."""

    status: int
    output: str


class Root(NamedTuple):
    """What a guest runs: its file system is unpacked into its memory."""

    write: Callable[[Path, list[Path]], None]  # makes the archive; given the kernel's modules
    memory_mib: int
    boot_timeout_s: float


INITRAMFS = Root(write_initramfs, memory_mib=512, boot_timeout_s=BOOT_TIMEOUT_S)


class Machine:
    """A running guest.

    One caller at a time; a command that met its time-out goes on in the guest, and the next one
    waits for it.
    """

    def __init__(self, directory: Path, root: Root = INITRAMFS) -> None:
        """Boot with `root`; returns when the guest takes commands.

        `directory` gets the boot files and the kernel's console.
        """
        self._console = directory / "console.log"
        self._received = b""
        self._commands = 0
        image, modules = kernel(cache_directory(), directory / "kernel")
        root.write(directory / "initramfs", modules)
        command = _qemu_command(image, directory / "initramfs", root.memory_mib, self._console)
        with (directory / "qemu.log").open("wb") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._lines_until("#ready", time.monotonic() + root.boot_timeout_s, "booting")
        except BaseException:
            self.stop()
            raise

    def run(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run a shell command line to its end; returns its output.

        Raises MachineError if its status is not 0.
        """
        status, output = self.outcome(command, timeout_s)
        if status != 0:
            raise MachineError(
                f"in the guest: {command}: exit status {status}\n{output}\n{self.console_tail()}"
            )
        return output

    def outcome(self, command: str, timeout_s: float = COMMAND_TIMEOUT_S) -> Outcome:
        """Run a shell command line to its end, whatever its status.

        Raises MachineError at the time-out, or if the guest is gone.
        """
        if "\n" in command:
            raise ValueError("a command is one line")
        self._commands += 1
        deadline = time.monotonic() + timeout_s
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{self._commands} {command}\n".encode())
            self._process.stdin.flush()
        except OSError as error:
            raise MachineError(
                f"in the guest: {command}: the machine is gone ({error})\n{self.console_tail()}"
            ) from error
        end, lines = self._lines_until(f"#end {self._commands} ", deadline, command)
        return Outcome(
            int(end.split()[2]), "\n".join(line[1:] for line in lines if line.startswith("|"))
        )

    def console_tail(self) -> str:
        """The last lines of the guest's console, for error messages."""
        lines = (
            self._console.read_text(errors="replace").splitlines() if self._console.exists() else []
        )
        return "\n".join(["the guest's console ends with:", *lines[-CONSOLE_TAIL_LINES:]])

    def stop(self) -> None:
        """End the machine as by pulling its plug; returns when its processes are gone."""
        # `timeout` passes it on to qemu, and kills it if that did not help
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        finally:
            self._process.kill()
            for stream in (self._process.stdin, self._process.stdout):
                if stream is not None:
                    stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _lines_until(self, prefix: str, deadline: float, doing: str) -> tuple[str, list[str]]:
        """The line that starts with `prefix`, and those before it, less the output of commands
        whose time had run out.
        """
        lines: list[str] = []
        while True:
            line = self._next_line(deadline, doing)
            if line.startswith(prefix):
                return line, lines
            lines = [] if line.startswith("#end ") else [*lines, line]

    def _next_line(self, deadline: float, doing: str) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        waiting = select.poll()  # select.select takes none above 1023
        waiting.register(descriptor, select.POLLIN)
        while b"\n" not in self._received:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0 or not waiting.poll(remaining_s * 1000):
                raise MachineError(f"in the guest: {doing}: time-out\n{self.console_tail()}")
            data = os.read(descriptor, 1 << 16)
            if not data:
                raise MachineError(
                    f"in the guest: {doing}: the machine ended\n{self.console_tail()}"
                )
            self._received += data
        line, _, self._received = self._received.partition(b"\n")
        return line.decode(errors="replace").rstrip("\r")


def _qemu_command(image: Path, initramfs: Path, memory_mib: int, console: Path) -> list[str]:
    """First serial port: the kernel's console, to a file.

    Second: the commands, on qemu's standard input and output.
    """
    # no_timer_check: on a busy machine the emulated timer looks broken to Linux, which panics
    arguments = (
        f"console=ttyS0 panic=-1 mitigations=off nowatchdog no_timer_check lifetime_s={LIFETIME_S}"
    )
    return [
        *(tool("timeout"), "--kill-after=5", str(LIFETIME_S), tool("qemu-system-x86_64")),
        *(
            "-accel",
            "tcg",
            "-smp",
            str(PROCESSORS),
            "-m",
            str(memory_mib),
            "-no-user-config",
            "-nodefaults",
            "-no-reboot",
        ),
        *("-display", "none", "-serial", f"file:{console}", "-serial", "stdio"),
        *("-kernel", str(image), "-initrd", str(initramfs), "-append", arguments),
        # no boot ROM: nothing boots from the network
        *(
            "-netdev",
            "user,id=net",
            "-device",
            "virtio-net-pci,netdev=net,romfile=",
        ),
    ]

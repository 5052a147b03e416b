"""Files that the guest sends to the host, over its network."""

from __future__ import annotations

import shutil
import socket
import threading
from typing import TYPE_CHECKING

from tests.vm.machine import HOST_ADDRESS
from tests.vm.tools import MachineError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.vm.machine import Machine

SECONDS_MAX = 300.0


def fetch(machine: Machine, path: str, target: Path) -> None:
    """Copy a file of the guest that has no holes but at its end, without those."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS_MAX)

        def receive() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)

        receiver = threading.Thread(target=receive)
        receiver.start()
        port = listener.getsockname()[1]
        try:
            machine.run(
                f"dd if={path} bs=512 count=$(stat -c %b {path}) 2>/dev/null | "
                f"nc {HOST_ADDRESS} {port}",
                SECONDS_MAX,
            )
        finally:
            receiver.join(SECONDS_MAX)
    if not target.stat().st_size:
        raise MachineError(f"{path} did not arrive")

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

from duplexd.client.http import _unix_socket

if TYPE_CHECKING:
    from pathlib import Path


async def test_a_client_waits_while_the_kernel_has_no_room_for_it(tmp_path: Path) -> None:
    path = str(tmp_path / "control.sock")
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as first:
        listening.bind(path)
        listening.listen(0)
        first.connect(path)
        connecting = asyncio.ensure_future(_unix_socket(path))
        await asyncio.sleep(0.05)
        assert not connecting.done()
        accepted, _ = listening.accept()
        with accepted, await connecting as second:
            assert second.getpeername() == path

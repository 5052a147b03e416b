"""An upgrade as users do it: another wheel is installed over the one that runs, and the daemon is
restarted in place. Its clients go on, and so they do when the first wheel comes back.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from duplexd import __version__
from tests.support.installation import OTHER_VERSION, Upgrades
from tests.support.sockets import Talk

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.daemon import DaemonFiles


@pytest.mark.long
def test_clients_go_on_through_an_upgrade_and_back(
    make_files: Callable[..., DaemonFiles], tmp_path: Path
) -> None:
    files = make_files(directory=tmp_path)
    upgrades = Upgrades(files, tmp_path)
    daemon = upgrades.daemon
    daemon.start()
    try:
        assert daemon.version() == __version__
        with closing(Talk(files.nbd_socket, "data")) as talk:
            for version in (OTHER_VERSION, __version__):
                talk.write(0, version.encode().ljust(512))
                done = upgrades.go_to(version)
                assert (done["clients_kept"], done["clients_lost"]) == (1, 0)
                assert talk.read(0, 512) == version.encode().ljust(512)
        assert daemon.stop() == 0
    finally:
        daemon.kill()

"""Legs on block devices: writes, zeroes, trims, a cut, a resync, a kill. Uses loop devices, so it
needs root.
"""

from __future__ import annotations

import random
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.blocks import Blocks
from tests.support.commands import call, resync, suspend, volumes, wait_state
from tests.support.load import Load, grains_bytes, settle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.daemon import Daemon, DaemonFiles

SIZE = 16 << 20
WRITES = 50  # on each volume, at least


@pytest.fixture
def loop_device(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes loop devices of SIZE bytes; they are gone after the test."""
    made: list[str] = []

    def make(name: str) -> Path:
        image = tmp_path / f"{name}.backing"
        with image.open("wb") as file:
            file.truncate(SIZE)
        done = subprocess.run(
            ["losetup", "--find", "--show", str(image)], check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, (
            f"no loop device (this test needs root and loop devices): {done.stderr}"
        )
        made.append(done.stdout.strip())
        return Path(made[-1])

    yield make
    for device in made:
        subprocess.run(["losetup", "--detach", device], check=True)


@pytest.fixture
def files(
    make_files: Callable[..., DaemonFiles], loop_device: Callable[[str], Path]
) -> DaemonFiles:
    """One pair on two devices; another with a device beside a file."""
    files = make_files(volumes={}, journal_size="32MiB")
    one, two, three = (loop_device(name) for name in ("one", "two", "three"))
    files.extra = (
        f'[volumes.devices]\nsize = {SIZE}\nprimary = "{one}"\nsecondary = "{two}"\n'
        f'[volumes.mixed]\nsize = {SIZE}\nprimary = "{three}"\nsecondary = "b/mixed.img"\n'
        '[groups.all]\nvolumes = ["devices", "mixed"]\n'
    )
    files.write()
    return files


async def test_pairs_on_block_devices(
    files: DaemonFiles, start_daemon: Callable[..., Daemon]
) -> None:
    daemon = start_daemon(files)
    await wait_state(
        daemon, "DUPLEX"
    )  # existing devices are copied first: they are not known to be equal
    models, moments = {"devices": Blocks(SIZE), "mixed": Blocks(SIZE)}, random.Random(4)
    async with Load(files, models, moments, pause_s=0.005, trims_zero=False) as load:
        await load.wrote(WRITES)
        for model in models.values():
            model.forget_touched()
        cut = await suspend(daemon, "all")
        await load.wrote(WRITES)
        await load.stop()
    changed = {name: volume["changed_bytes"] for name, volume in (await volumes(daemon)).items()}
    for name, model in models.items():
        assert 0 < changed[name] <= grains_bytes(model.touched)
    assert cut["verdict"] == "consistent"
    done = await resync(daemon, "all")
    assert all(0 < done[name]["copied_bytes"] <= changed[name] for name in done)
    async with Load(
        files, models, moments, trims_zero=False
    ) as load:  # the devices' own files may be on a tmpfs
        await load.wrote(WRITES)
        daemon.kill()
        await load.lost()
    daemon.start()
    await settle(files, models, "after a kill")
    await wait_state(daemon, "DUPLEX")
    verified = await call(daemon, "POST", "/v1/verify", {"targets": ["all"]})
    assert verified["equal"], verified
    assert {volume["compared_bytes"] for volume in verified["volumes"]} == {SIZE}
    assert daemon.stop() == 0

"""One controller, 1,000 pairs in one group, cut in one step under load."""

from pathlib import Path

from duplexd.canary.record import Placement
from duplexd.demo.daemon import DaemonProcess
from duplexd.demo.scene import Scene
from duplexd.units import KIB, MIB

PAIRS = 1000
PLACEMENT = Placement(writers=4, volumes=16, slots=4)
CUTS = 3
RECORDS = 500  # between two cuts, at least


async def test_a_thousand_pairs_are_cut_at_one_sequence_number_under_load(tmp_path: Path) -> None:
    daemon = DaemonProcess(
        tmp_path / "d", [f"v{number:04}" for number in range(PAIRS)], 256 * KIB, 64 * MIB
    )
    try:
        await daemon.start()
        async with Scene(daemon, PLACEMENT) as scene:
            for _ in range(CUTS):
                wanted = scene.workload.history.acknowledged + RECORDS
                while scene.workload.history.acknowledged < wanted:
                    await scene.write_for(0.01)
                cut = await scene.cut_group()
                status = await daemon.call("GET", "/v1/status")
                sequence = cut.results[0]["controllers"][status["controller"]["name"]]
                print(
                    f"{PAIRS} pairs cut at {sequence}: pause {cut.pause_s * 1e3:.1f} ms by the "
                    f"client, {cut.held_s * 1e3:.1f} ms by the daemon; "
                    f"command {cut.command_s * 1e3:.0f} ms"
                )
                assert cut.findings.consistent, cut.findings
                assert {volume["state"] for volume in status["volumes"]} == {"SUSPENDED"}
                assert {volume["secondary"]["as_of_sequence"] for volume in status["volumes"]} == {
                    sequence
                }
                assert len(status["volumes"]) == PAIRS
                await scene.resync()
    finally:
        await daemon.stop()

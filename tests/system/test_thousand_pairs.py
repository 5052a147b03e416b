"""One controller, 1,000 pairs in one group, cut in one step under load."""

from pathlib import Path

from duplexd.canary.record import Placement
from duplexd.demo.daemon import DaemonProcess
from duplexd.demo.scene import Scene
from duplexd.units import KIB, MIB

PAIRS = 1000
PLACEMENT = Placement(writers=4, volumes=16, slots=4)
CUTS = 5
PAUSE_SECONDS_MAX = 1.0  # generous: other tests may run beside this one; the benchmark judges the speed


async def test_thousand_pairs_are_cut_at_one_sequence_number_under_load(tmp_path: Path) -> None:
    daemon = DaemonProcess(tmp_path / "d", [f"v{number:04}" for number in range(PAIRS)], 256 * KIB, 64 * MIB)
    try:
        await daemon.start()
        async with Scene(daemon, PLACEMENT) as scene:
            for _ in range(CUTS):
                await scene.write_for(0.3)
                cut = await scene.cut_group()
                status = await daemon.call("GET", "/v1/status")
                sequence = cut.results[0]["controllers"][status["controller"]["name"]]
                pause = f"pause {cut.pause_s * 1e3:.1f} ms by the client, {cut.held_s * 1e3:.1f} ms by the daemon"
                print(f"{PAIRS} pairs cut at {sequence}: {pause}; command {cut.command_s * 1e3:.0f} ms")
                assert cut.findings.consistent, cut.findings
                assert {volume["state"] for volume in status["volumes"]} == {"SUSPENDED"}
                assert {volume["secondary"]["as_of_sequence"] for volume in status["volumes"]} == {sequence}
                assert len(status["volumes"]) == PAIRS
                assert cut.pause_s < PAUSE_SECONDS_MAX
                await scene.resync()
    finally:
        await daemon.stop()

"""Memory that was freed goes back to the kernel where it is much."""

from __future__ import annotations

import subprocess
import sys

# The memory that is left, beyond what there was before, when threads have freed buffers of a size
# that an arena keeps, one thread after the other and all alive
_PROGRAM = """
import sys, threading
from duplexd.runtime.allocator import keep_little
if sys.argv[1] == "little":
    keep_little()
resident = lambda: int(open("/proc/self/statm").read().split()[1]) * 4096
done = threading.Barrier(9)
def work(before, after):
    before.wait()
    for _ in range(3):
        bytearray(20 << 20)  # from the second on malloc keeps what was freed
    after.set()
    done.wait()
gates = [threading.Event() for _ in range(9)]
gates[0].set()
before = resident()
for at in range(8):
    threading.Thread(target=work, args=gates[at : at + 2]).start()
gates[8].wait()
kept = resident() - before
done.wait()
print(kept >> 20)
"""


def kept_mib(how: str) -> int:
    out = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how], capture_output=True, check=True, timeout=120
    )
    return int(out.stdout)


def test_of_large_pieces_that_were_freed_nothing_is_kept() -> None:
    assert kept_mib("little") < 4


def test_without_it_threads_keep_some() -> None:
    assert kept_mib("as it comes") >= 20

"""Memory that threads have freed does not stay with each of them."""

from __future__ import annotations

import subprocess
import sys

# The memory that is left when threads have freed a buffer each, of a size that an arena keeps,
# one thread after the other and all alive
_PROGRAM = """
import sys, threading
from duplexd.runtime.allocator import few_arenas
if sys.argv[1] == "few":
    few_arenas()
done = threading.Barrier(9)
def work(before, after):
    before.wait()
    for _ in range(3):
        bytearray(20 << 20)  # from the second on malloc keeps what was freed
    after.set()
    done.wait()
gates = [threading.Event() for _ in range(9)]
gates[0].set()
for at in range(8):
    threading.Thread(target=work, args=gates[at : at + 2]).start()
gates[8].wait()
resident = int(open("/proc/self/statm").read().split()[1]) * 4096
done.wait()
print(resident >> 20)
"""


def resident_mib(how: str) -> int:
    out = subprocess.run(
        [sys.executable, "-c", _PROGRAM, how], capture_output=True, check=True, timeout=120
    )
    return int(out.stdout)


def test_threads_keep_no_memory_each() -> None:
    # eight threads keep 20 MiB each, or some of them do: which arena one gets is malloc's affair
    assert resident_mib("few") <= resident_mib("many") - 2 * 20

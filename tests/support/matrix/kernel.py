"""The Linux kernel's NBD driver with nbd-client: measured in a virtual machine by tests/vm, so its
column names those tests.
"""

from __future__ import annotations

from tests.support.matrix import features as f

NAME = "kernel driver, nbd-client"
MOUNTED = "tests/vm/test_mounted_by_linux.py"
CELLS = {
    f.TCP: MOUNTED,
    f.UNIX: "tests/vm/test_power_cuts.py",
    f.NAMES: MOUNTED,
    f.LIST: "tests/interop/test_nbd_tools.py",
    f.FLUSH: "tests/vm/test_power_cuts.py",
    f.FOUR: "tests/vm/test_failing_disks.py",
    f.HOLD: "tests/vm/test_failing_disks.py",
}

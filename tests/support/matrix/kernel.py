"""The Linux kernel's NBD driver with nbd-client: measured in a virtual machine by tests/vm, so its
column names those tests.
"""

from __future__ import annotations

from tests.support.matrix import features as f

NAME = "kernel driver, nbd-client"
MOUNTED = "tests/vm/test_mounted_by_linux.py"
POWER_CUTS = "tests/vm/test_power_cuts.py"
CELLS = {
    f.TCP: MOUNTED,
    f.UNIX: POWER_CUTS,
    f.NAMES: MOUNTED,
    f.LIST: "tests/interop/test_nbd_tools.py",
    f.READ_ONLY: MOUNTED,
    f.FLUSH: POWER_CUTS,
    f.TRIM: MOUNTED,
    f.TRIM_4G: MOUNTED,
    f.UNALIGNED: MOUNTED,
    f.MIB_32: MOUNTED,
    f.FOUR: MOUNTED,
    f.HOLD: MOUNTED,
    f.STOP: MOUNTED,
    f.KILL: MOUNTED,
}
LACKS = {
    "nbd-client has TLS by a process of its own, which is not tested": (f.TLS12, f.TLS13),
    "nbd-client uses it only with servers that know no `GO`": (f.EXPORT_NAME,),
    "the driver of Linux 6.1 has no such request": (f.ZEROES, f.STATUS),
    "the driver has no such replies": (f.STRUCTURED, f.EXTENDED),
    "the driver sends 32 MiB at most": (f.MIB_64,),
}

"""A volume as a block device of Linux, /dev/nbdN, that outlives restarts of the daemon.

nbd-client ends once it has connected the kernel's driver, so nobody is there when the daemon comes
back: the device is dead. What is here stays, and hands the driver a new connection.

    netlink.py      what is said to the driver, as bytes; pure
    driver.py       saying it
    device.py       what Linux knows of /dev/nbdN
    export.py       a connection to the volume, and whether it is the volume that it was
    watcher.py      replaces connections that are lost
    attaching.py    `duplexd attach` and `duplexd detach`: these together, signals, systemd

A client of the daemon like any other: it knows the NBD protocol and no part of the engine.
"""

"""Images: the files and block devices that hold a volume's bytes.

    leg, created = open_leg(disk, "/srv/a/data.img", size)  # locked, of this size, or an error
    leg.write(0, b"...")
    leg.zero(4096, 8192, allocate=False)                    # a hole, where that is possible
    leg.sync()
    if problem := misplaced(leg):                           # its path leads elsewhere now
        ...
    found = probe(leg, offsets)                             # what it says of itself, and samples
    leg.close()

There is one kind of leg today: an open file of `duplexd.runtime.disk`, which knows itself what a
block device cannot do. A class of our own around it would only forward, once for each write. What
comes next, a leg that is a remote NBD export, is another implementation of `Leg`, made here too.
"""

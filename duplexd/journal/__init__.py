"""The journal: one ordered log of every change, on disk, with its durability.

    ring = Ring(disk, f"{state_dir}/journal", identity, segment_size, segments_max)
    ring.open_existing()
    walk = Walk(ring, position)                     # recovery: every record after the checkpoint
    for buffer, record in walk: ...
    tail = walk.close()                             # END, TORN, or DamageError

    writer = Writer(ring, tail.sequence, tail.chain)
    number = writer.append(WRITE, volume, offset, length, data, 0, time_us)
    writer.write()                                  # one pwritev; it may be acknowledged now
    Flusher(...).wait(number, done)                 # group commit: durable

    buffer, records = Reader(ring, number).read(writer.written, chunk)      # followers

`format.py` has the bytes, `scan.py` the decision at the end of the log; both are pure. Nothing here
knows what a volume is called or what a marker means.
"""

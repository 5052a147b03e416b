"""What brings secondaries along the journal.

    follower = Follower(ring, pairs, position, SecondarySink(), ledger.advance)
    follower.step(until, size_bytes)              # blocking: some records, applied in order

    followers.begin(Job(COPY, pairs, number))     # a task: copy, catch up, DUPLEX
    await followers.until(lambda: pair.state == DUPLEX)
    await resyncs.resync(pairs)                   # by journal or by map, whichever copies less

`seams.py` has what these ask of the engine, which is above them.
"""

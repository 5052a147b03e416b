"""What brings secondaries forward along the journal: following, resyncs, copies.

    follower = Follower(ring, pairs, position, SecondarySink(), ledger.advance)
    follower.step(until, size_bytes)              # blocking: some records, applied in order

    followers.begin(Job(COPY, pairs, number))     # a task: copy, catch up, DUPLEX
    await followers.until(lambda: pair.state == DUPLEX)
    await resyncs.resync(pairs)                   # by journal or by map, whichever copies less

    trailing.add(pairs)                           # async pairs, and delayed ones, by their delay

`seams.py` has the protocols of what these use of the engine, which is the layer above.
"""

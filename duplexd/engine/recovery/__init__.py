"""Recovery: from what is on disk to a controller that serves. It may be interrupted anywhere and
run again.

    read.py       the journal after the checkpoint: fold the markers, judge the end (torn, damaged)
    recovered.py  `recover` has the images opened (`engine/opening.py`), judges them and calls read
                  and replay; returns everything found. Progress, as a value: progress.py
    identify.py   are the images the ones that the journal knows, as it left them?
    judging.py    put aside those that are not
    replay.py     apply a committed staging log, then the records: to each secondary as far as it
                  may go, and to the primaries (primary_replay.py, refusals.py)
    foresee.py    the same questions without a start, for `duplexd check`; foreseen_images.py judges
    room.py       room in the journal for the markers of the start
    last_calls.py  the calls on the state directory that end the start, each with its time-out
    left_behind.py  secondaries that are to stay behind, and those that are not any more
    reconcile.py  record in the journal what an unclean stop may have made unequal, what is new in
                  the configuration, and, by degraded.py, what follows from images with a fault
                  (image_faults.py): a pair is suspended or swapped, or its volume is not served

`engine/controller.py` shows them in use:

    recovered = await recover(config, disk, file, staging, boot_id, workers, limits, progress)
    writer = Writer(ring, tail.sequence, tail.chain)  # and the other parts, from `recovered`
    end = EndOfStart(recovered, config, workers, steps, journal_waits_s)
    await end.make_room(writer, file, limits)
    markers = timeline.at_rest(lambda: reconcile(recovered, config, boot_id, ...))
    interrupted = await end.written(markers)

Nothing here assigns into the controller: there is none yet, and `ensure_room` and `reconcile` get
the parts that they write with. The order of the steps, and why:

    read, open, judge    nothing is written: neither to an image that is another one, nor before
                         it is known which images are there
    replay               only the images are written, with changes that the journal has already
    ensure_room          the markers of the start need room, and nothing frees any before they are
                         written
    reconcile            one step at rest; its last marker makes it valid
    durable, checkpoint  before any client is served: a client must not rely on a state that a power
                         cut could still undo
"""

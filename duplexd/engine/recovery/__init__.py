"""Recovery: from what is on disk to a controller that serves. It may be interrupted anywhere and
run again.

    read.py       the journal after the checkpoint: fold the markers, judge the end (torn, damaged)
    identify.py   are the images the ones that the journal knows, as it left them?
    recovered.py  `recover` opens the images and calls read and replay; returns everything found
    progress.py   how far it is, as a value
    replay.py     apply a committed staging log; apply the records to the primaries, and to each
                  secondary as far as it may go
    room.py       room in the journal for the markers of the start
    reconcile.py  record in the journal what failed, what an unclean stop may have made unequal, and
                  what is new in the configuration

`engine/controller.py` shows them in use:

    recovered = await recover(config, disk, file, staging, boot_id, workers, limits, progress)
    writer = Writer(ring, tail.sequence, tail.chain)  # and the other parts, from `recovered`
    ensure_room(recovered, writer, file, limits)
    interrupted = await timeline.at_rest(lambda: reconcile(recovered, config, boot_id, ...))

Nothing here assigns into the controller: there is none yet, and `ensure_room` and `reconcile` get
the parts that they write with. The order of the steps, and why:

    read, open, replay   only the images are written, with changes that the journal has already
    ensure_room          the markers of the start need room, and nothing frees any before they are
                         written
    reconcile            one step at rest; its last marker makes it valid
    durable, checkpoint  before any client is served: a client must not rely on a state that a power
                         cut could still undo
"""

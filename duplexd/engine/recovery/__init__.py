"""From whatever is on disk to a controller that serves. Can be interrupted anywhere and done again.

    read.py       the journal after the checkpoint: fold the markers, judge the end (torn, damaged)
    recovered.py  `recover` opens the images and calls read and replay; its value is all there is
    replay.py     apply a committed staging log; apply the records to the primaries, and to each
                  secondary up to where it may go
    room.py       room in the journal for what comes next
    reconcile.py  say in the journal what failed, what a power cut may have made unequal, what is
                  new in the configuration, and which boot this is

`engine/controller.py` shows them in use:

    recovered = await recover(config, disk, file, staging, boot_id, workers, limits, progress)
    writer = Writer(ring, tail.sequence, tail.chain)  # and the other parts, from `recovered`
    ensure_room(recovered, writer, file, limits)
    interrupted = await timeline.at_rest(lambda: reconcile(recovered, config, boot_id, ...))

Nothing here writes to a part of the controller: until `ensure_room` and `reconcile`, which are
given the parts that they write with, there is none. The order of the whole, and why:

    read, open, replay   nothing is written but the images, with what the journal says already
    ensure_room          the markers of the start need room, and nothing frees any before they are
                         written
    reconcile            one step at rest; its last marker makes it count
    durable, checkpoint  before anybody is served: a client must not build on a state that a power
                         cut could still take back
"""

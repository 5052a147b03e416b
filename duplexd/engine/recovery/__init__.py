"""From whatever is on disk to a controller that serves. Can be interrupted anywhere and done again.

    read.py       the journal after the checkpoint: fold the markers, judge the end (torn, damaged)
    recovered.py  `recover` opens the images and calls read and replay; its value is all there is
    replay.py     apply a committed staging log; apply the records to the primaries, and to each
                  secondary up to where it may go
    room.py       room in the journal for what comes next
    reconcile.py  say in the journal what failed, what a power cut may have made unequal, what is
                  new in the configuration, and which boot this is

`engine/controller.py` shows them in use:

    recovered = await recover(config, disk, clock, workers, limits, progress)
    ...  # the writer and the other parts are made from it
    again = await timeline.at_rest(lambda: reconcile(recovered, ...))

Nothing here writes to a part of the controller: until `reconcile`, there is none.
"""

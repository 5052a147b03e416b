"""What one controller does: one journal, one sequence, many pairs.

A small tour of the parts, as `controller.py` connects them:

    controller = await start(config, Machine(disk, clock, workers, journal_workers), Events(clock))

    controller.submit([change, ...])              # write_path -> timeline -> apply -> answers
    number = await timeline.at_rest(              # between two batches, one turn of the loop:
        lambda: timeline.append(MakeCut(...))     #   a marker, written and folded
    )
    await timeline.durable(number)                # group commit
    admission.hold("a reason"); admission.lift("a reason")   # let batches wait; let them go on
    timeline.on_written.append(listener)          # instead of polling

Each part is given what it uses by name; none is given the controller.
"""

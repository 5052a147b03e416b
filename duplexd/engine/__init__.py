"""What one controller does: one journal, one sequence, many volumes.

Every part gets what it uses by name in its constructor. `controller` makes all parts and connects
the signals of one to the reactions of another; none of them imports it:

    >>> import asyncio, tempfile
    >>> from duplexd.backend import WRITE, Change
    >>> from duplexd.config.load import parse
    >>> from duplexd.engine.controller import Machine, start
    >>> from duplexd.engine.events import Events
    >>> from duplexd.runtime.clock import RealClock
    >>> from duplexd.runtime.disk import RealDisk
    >>> from duplexd.runtime.threads import ThreadWorkers
    >>> class Connection:
    ...     def finished(self, changes):
    ...         for change in changes:
    ...             print("answered:", change.length, "bytes, error", change.error)
    >>> async def one_write_one_cut(directory):
    ...     config = parse(f'''
    ...         [controller]
    ...         name = "alpha"
    ...         state_dir = "{directory}/state"
    ...         journal_size = "16MiB"
    ...         [nbd]
    ...         listen = ["unix:{directory}/nbd.sock"]
    ...         [volumes.data]
    ...         size = "1MiB"
    ...         primary = "{directory}/a.img"
    ...         secondary = "{directory}/b.img"
    ...     ''', f"{directory}/alpha.toml")
    ...     workers = ThreadWorkers(asyncio.get_running_loop(), "disk", 2)
    ...     events = Events(RealClock())
    ...     events.listeners.append(lambda event: print("event:", event["event"]))
    ...     machine = Machine(RealDisk(), RealClock(), workers, workers, workers)
    ...     controller = await start(config, machine, events)
    ...     volume = controller.volume("data")
    ...     controller.submit([Change(Connection(), 0, volume, WRITE, 0, 5, b"hello")])
    ...     cut = await controller.suspend(["data"], tag="nightly")
    ...     await controller.stop()
    ...     workers.close()
    ...     return cut["verdict"]
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     asyncio.run(one_write_one_cut(directory))
    answered: 5 bytes, error 0
    event: suspended
    'consistent'

Inside, one turn of the loop between two batches is one point of the sequence:

    number = await timeline.at_rest(lambda: timeline.append(MakeCut(...)))  # written and folded
    await timeline.durable(number)                          # group commit
    admission.hold("a reason"); admission.lift("a reason")  # batches wait; they continue
    timeline.on_written.append(listener)                    # instead of polling

`timeline` is the one way to write to the journal: batches of changes, and markers between two of
them. `write_path` makes each `batch` and `apply` executes it; where a change fails on one leg,
`repair` reads the other. `reads` serves what is not cached, `splices` what need not be copied,
`allocation` says where images have holes, and `question_line` whose turn it is. `suspend` cuts
pairs of this controller alone, and `suspend_at` at a point that has passed, which `past_places`
finds; with `walk_on` secondaries go on to one from their cut. `leases` hold writes, and `group_cut`
cuts under them together with other controllers; `marks` are points that suspend nobody, which
`mark_every` makes by itself;
`settling` makes a cut durable, `cut_archive` knows what may be said of it, and `cuts` shows and
grades it; `points` are cuts as exports that clients read, and `cut_readers` who does;
`dirty_bitmaps` say what changed up to a point. `clones` are cuts that can be written to, by
`clone_requests` to an `overlay`; `drills` records what an application found on them.
`client_reads` and `cut_exports` put together what reads.
`failures` is what a failing leg does to states; `failed_legs` are those that fail outside of
batches, `hung` those that do not answer any more, `hung_disks` those that hang together, and
`bad_ranges` are written anew.
`image_places` finds out which of them are not at their paths any more.

`auto_resync` brings pairs back after their secondary failed.
`checkpoint` makes both legs durable and says so, in its `checkpoint_on_disk` and the `change_files`
that this names; `changes` answers from these what changed between cuts. It has `leg_syncs`, and
`samples` of the images, of `sampled_blocks`, each as its `image_snapshot`; `journal_space` keeps
room in the journal, `sync_claim` has the last records claimed to be durable, and `mark_numbers`
has images say up to which number they are. `recovery` finds out after a start what is true.
`volumes` are served; `opening` opens their images, each for
itself, `reopen` those that were absent, and `adopt` takes them as they are. `growing` makes
volumes larger. `live_changes` says what a `reload` may change of them: it opens `new_images`,
states what `left_images` hold, and takes `live_settings`. `image_changes` puts these together.
`swapping` exchanges the images of a pair, on command. `verify` compares legs, each piece by
`compare`, and `difference_record` records what it finds; `scrubbing` does so in the background, and
`repairing` makes them equal again. `rolling_back` gives volumes the content of their cut back: what
has to hold is in `rollback_check`, one of them is a `rollback_job`, and what it writes is
`rollback_content`. `restoring` lets a client do so from a backup. `comparisons` are these parts
together. A `periodic` task looks now and then. `own_writes` are changes
that the engine makes itself. `commands` is what
clients can ask for, of several volumes with `each_of`; with `answering` they end although the
journal hangs. `status`, `counters` and `events` are what they see.
"""

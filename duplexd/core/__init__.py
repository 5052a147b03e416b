"""What a controller decides, without doing it. Pure: no disk, clock, log, thread or task.

The engine asks the parts here and carries out what they say; tests run them alone. Everything that
outlives the process is a marker in the journal, folded by one ledger, so the same code runs when a
marker is written and when it is read again:

    >>> from duplexd.core import markers
    >>> from duplexd.core.ledger import Ledger, Place
    >>> from duplexd.limits import EngineLimits
    >>> ledger = Ledger(EngineLimits())
    >>> for number, marker in enumerate((
    ...     markers.NewVolume(1, "data", 1 << 30),
    ...     markers.Attach([1]),
    ...     markers.MakeCut("c1", "nightly", [1]),
    ...     markers.Stood("c1"),
    ... ), start=1):
    ...     ledger.check(marker)
    ...     ledger.apply(Place(number, time_us=0), marker)
    >>> pair = ledger.pairs[1]
    >>> pair.state, pair.reason, pair.cut.id, pair.cut.verdict
    ('SUSPENDED', 'by command', 'c1', 'consistent')
    >>> ledger.track(pair, kind=1, offset=0, length=4096)
    >>> pair.changed.changed_bytes
    65536

`markers` are the typed tuples and their JSON (`marker_fields`; `synced` has none), those of cuts in
`cut_markers`, of comparisons in `difference_markers`, of readers in `reader_markers`, of rollbacks
in `rollback_markers`; `marker_check` asks before one is written. `ledger` folds them, with a
`cut_book` of the cuts and a `mark_book` of points that suspend nobody, and `mark_reach` says which
of all these a secondary can be brought to; `pair` and `cut` hold what is known then, `snapshot` is
what a checkpoint keeps of it. `delayed` is what `delay_markers` do to pairs: up to its
`horizon` a secondary may go, a `past_point` is where it is stopped, and `steady_time` says how
old a change is.
The tables say what is possible: `pair_states`, `cut_states` (two-phase commit) and `lease`;
`transitions` says which event of them a marker is, and `invariants` what is true after every
marker. `leg_differences` is where legs are known to differ, and what that forbids; `scrub_state` is
how far a comparison in the background has come. `growth` makes a volume
larger. `change_map` and `regions` are the bitmaps, and
`change_history` has those between cuts. `unmarked` is what the ledger notes without a marker, and
`lineage` after what no client may go on with what it remembers of a volume.
`readers` says who keeps a secondary at its cut, `leaving` how a command gets past them, and `point`
is that cut as an NBD export; `clone` one that can be written to, `overlay_map` which of its blocks
were. `rollback` is what is not done while volumes go back to it, `rollback_state` what is recorded,
`differing` which blocks are to be written for it; `drill_record` is whether an application was
recovered from it.
`image_record` is what is recorded of an image, `since` what the journal says of it since, and
`identity` judges with both what a start finds; `older_state` is what a state directory lacks that
was found to be an older copy. `participant` is a controller's part in a group cut;
`cuttable` and `freeze` decide what a suspend and a failure do to a group, `rebuilding` says which
secondaries the journal makes usable again after one:

    >>> from duplexd.core.lease import Lease
    >>> from duplexd.core.participant import Participant
    >>> participant = Participant(ledger.state_of, mark=print)
    >>> participant.abort("c2")
    Void(cut='c2')
    'void'

`attempts` says when what failed is tried again, `patience` how long a call on a leg may take.
`findings` says what is not well.
`fair_queue` says whose changes are next, `long_change` makes pieces of those that are long.
`admission` says whether batches may begin, and `waits` counts how long writes waited:

    >>> from duplexd.core.admission import Admission
    >>> admission = Admission()
    >>> admission.hold("lag")
    >>> admission.clear, admission.reasons
    (False, frozenset({'lag'}))
"""

"""Who keeps a secondary at its cut: what is refused while there is a reader, and until when."""

from __future__ import annotations

import pytest

from duplexd.core import markers, pair_states
from duplexd.core.ledger import Ledger, Place
from duplexd.core.readers import Who
from duplexd.core.transitions import PAIR_EVENTS
from duplexd.errors import WrongStateError
from duplexd.limits import EngineLimits
from tests.unit.core.ledgers import changed


class Client:
    """A connection that reads a point."""

    def end_reading(self, why: str) -> None:
        """Nobody looks at it here."""


def place(number: int) -> Place:
    return Place(number, time_us=number)


def suspended() -> Ledger:
    """Two pairs at cut c1."""
    ledger = Ledger(EngineLimits())
    story: list[markers.Marker] = [
        markers.NewVolume(1, "data", 1 << 20),
        markers.NewVolume(2, "wal", 1 << 20),
        markers.Attach([1, 2]),
        markers.MakeCut("c1", "nightly", [1, 2]),
        markers.Stood("c1"),
    ]
    for number, marker in enumerate(story, start=1):
        ledger.apply(place(number), marker)
    return ledger


LEAVING: list[markers.Marker] = [
    markers.Resync("j1", markers.JOURNAL, [1, 2]),
    markers.Copy({2: changed(0)}, pair_states.RESYNCING),
    markers.Detach([2]),
    markers.Swap([2]),
]


@pytest.mark.parametrize("marker", LEAVING, ids=lambda marker: type(marker).__name__)
def test_nothing_takes_a_secondary_from_a_named_reader(marker: markers.Marker) -> None:
    ledger = suspended()
    ledger.check(marker)
    ledger.apply(place(6), markers.Reader("nightly", [1, 2]))
    with pytest.raises(WrongStateError, match="wal is read at cut c1 by nightly"):
        ledger.check(marker)


def test_nothing_takes_a_secondary_from_a_connection_that_reads_it() -> None:
    ledger, client = suspended(), Client()
    ledger.readers.join(1, client, Who("user 7"))
    with pytest.raises(WrongStateError, match="data is read at cut c1 by user 7"):
        ledger.check(LEAVING[0])
    ledger.readers.leave(1, client)
    ledger.check(LEAVING[0])


def test_every_event_that_moves_a_secondary_from_a_cut_asks_for_readers_but_a_failure() -> None:
    possible = {
        event
        for (state, event), after in pair_states.TRANSITIONS.items()
        if state == pair_states.SUSPENDED and event in PAIR_EVENTS.values() and after
    }
    assert possible - set(pair_states.LEAVING) == {pair_states.FAIL}


def test_a_reader_of_one_volume_leaves_the_others_free() -> None:
    ledger = suspended()
    ledger.apply(place(6), markers.Reader("nightly", [1]))
    ledger.check(markers.Resync("j1", markers.JOURNAL, [2]))


def test_the_last_of_two_readers_frees_the_secondary() -> None:
    ledger = suspended()
    ledger.apply(place(6), markers.Reader("a", [1, 2]))
    ledger.apply(place(7), markers.Reader("b", [1, 2]))
    ledger.apply(place(8), markers.Unread(["a"], [1, 2]))
    assert ledger.readers.names(1) == ["b"]
    ledger.apply(place(9), markers.Unread(["b"], [1, 2]))
    ledger.check(LEAVING[0])


def test_a_failed_secondary_has_no_readers_and_those_of_its_group_keep_theirs() -> None:
    ledger = suspended()
    ledger.apply(place(6), markers.Reader("nightly", [1, 2]))
    ledger.apply(place(7), markers.Fail("c2", 3, [1], [1], [1], "EIO", {1: changed(0)}))
    assert (ledger.readers.names(1), ledger.readers.names(2)) == ([], ["nightly"])


def test_a_checkpoint_keeps_readers() -> None:
    ledger, restored = suspended(), Ledger(EngineLimits())
    ledger.apply(place(6), markers.Reader("nightly", [1, 2]))
    restored.restore(Ledger.pack_snapshot(ledger.snapshot(6, {})) | {"sequence": 6})
    (shown,) = restored.readers.show(2)
    assert (shown["name"], shown["kind"]) == ("nightly", "named")
    with pytest.raises(WrongStateError):
        restored.check(LEAVING[0])

"""Invariants of a controller and its disk, checked whenever nothing is in flight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from duplexd.core import pair_states as state
from duplexd.core.cut_states import CONSISTENT
from duplexd.core.ledger import UNCOMMITTED
from duplexd.images.absent import AbsentLeg
from tests.sim.small import GRAIN_BYTES

if TYPE_CHECKING:
    from collections.abc import Container

    from duplexd.core.pair import Pair
    from tests.sim.history import History
    from tests.sim.machine import Machine


class Cuts:
    """Cuts that were reported as consistent and must stay so until a resync; and void ones.

    `verdicts` are all that were shown, of any life: none may ever change.
    """

    def __init__(self) -> None:
        self.promised: dict[str, tuple[str, int]] = {}  # by volume: id and number of the cut
        self.void: set[str] = set()
        self.verdicts: dict[str, str] = {}  # by id

    def shown(self, cuts: list[dict[str, Any]]) -> None:
        """These are shown now."""
        for cut in cuts:
            verdict = cut["verdict"]
            if verdict is not None:
                before = self.verdicts.setdefault(cut["id"], verdict)
                assert before == verdict, f"cut {cut['id']} was {before}, now it is {cut}"

    def returned(self, result: dict[str, Any]) -> None:
        """A suspend returned its verdict."""
        self.shown([{"id": result["cut"], "verdict": result["verdict"]}])
        if result["verdict"] != CONSISTENT:
            self.void.add(result["cut"])
            return
        assert result["cut"] not in self.void, "a void cut was called consistent later"
        for name in result["volumes"]:
            self.promised[name] = (result["cut"], next(iter(result["controllers"].values())))

    def forget(self, names: list[str]) -> None:
        """The promise for these volumes ends."""
        for name in names:
            self.promised.pop(name, None)


def primary_path(name: str) -> str:
    return f"/a/{name}"


def secondary_path(name: str) -> str:
    return f"/b/{name}"


def check_tail(machine: Machine, power: bool) -> None:
    """No acknowledged change is lost; after a power cut, or a loss of the journal's disk, no
    flushed one.
    """
    tail, promises = machine.history.tail, machine.promises
    assert tail >= promises.flushed, (
        f"flushed up to {promises.flushed}, but the journal ends at {tail} after a crash"
    )
    if power:
        promises.acknowledged = min(promises.acknowledged, tail)
    assert tail >= promises.acknowledged, (
        f"acknowledged up to {promises.acknowledged}, but the journal ends at {tail} after a kill"
    )


def check_primaries(machine: Machine) -> None:
    """After a recovery, every primary is what the journal says, or holds part of what a power cut
    took from the journal. That of a volume that is not served is nothing.
    """
    history = machine.history
    for name, pair in machine.controller.volumes.by_name.items():
        if pair.failed:
            continue
        actual = machine.disk.content(pair.primary.path)
        history.seen(pair.id, actual, pair.record.primary_image is not None)
        problem = history.found(pair.id, actual)
        assert not problem, f"primary of {name} after recovery: {problem}"


def check_quiet(machine: Machine, cuts: Cuts, unsure: Container[str] = ()) -> None:
    """With idle workers, primaries hold every change, and usable secondaries exactly what status
    reports. `unsure`: volumes whose primaries have refused changes that they could not give back.
    """
    for name, pair in machine.controller.volumes.by_name.items():
        if pair.id in machine.history.bases and not pair.failed and name not in unsure:
            _same(
                machine.history,
                pair.id,
                1 << 60,
                machine.disk.content(pair.primary.path),
                f"primary of {name}",
            )
    check_secondaries(machine, cuts)


def check_secondaries(machine: Machine, cuts: Cuts) -> None:
    """Promise 4: a usable secondary is the prefix of the history that status reports; cuts are
    where they were promised.
    """
    controller = machine.controller
    by_cut: dict[str, set[int]] = {}
    cuts.shown(controller.cuts.all()["cuts"])
    for status in controller.status()["volumes"]:
        name, secondary, pair = (
            status["name"],
            status["secondary"],
            controller.volumes.by_name[status["name"]],
        )
        if secondary is None:
            assert status["state"] == state.SIMPLEX
            continue
        assert secondary["usable"] == (pair.usable and not _is_lost(pair)), f"{name}: {secondary}"
        cut = secondary["cut"]
        if cut is not None and cut["verdict"] == CONSISTENT:
            assert cut["id"] not in cuts.void, (
                f"{name}: void cut {cut['id']} is reported as consistent"
            )
        there = not isinstance(pair.secondary, AbsentLeg) and pair.id in machine.history.bases
        if secondary["usable"] and there and pair.record.staging in {"", UNCOMMITTED}:
            as_of = secondary["as_of_sequence"]
            what = (
                f"secondary of {name} ({status['state']}, {status['reason']}, {pair.mode}) "
                f"as of {as_of}"
            )
            _same(
                machine.history,
                pair.id,
                _exactly(as_of, controller.timeline.written),
                machine.disk.content(pair.copy_of.path),
                what,
            )
            if cut is not None and _arrived(pair):
                by_cut.setdefault(cut["id"], set()).add(as_of)
        if name in cuts.promised:
            _check_promise(name, status, cuts.promised[name])
    for cut_id, numbers in by_cut.items():
        assert len(numbers) == 1, f"volumes of cut {cut_id} are at {sorted(numbers)}"


def _is_lost(pair: Pair) -> bool:
    """Whether it is the absent secondary of a volume that is not served: nothing is recorded of
    that, and status does not call it usable.
    """
    lost = isinstance(pair.secondary, AbsentLeg) and pair.state == state.DUPLEX
    assert not lost or pair.failed, f"{pair.name} is DUPLEX without a secondary"
    return lost


def _arrived(pair: Pair) -> bool:
    return pair.cut is not None and pair.applied >= pair.cut.sequence


def _exactly(as_of: int, tail: int) -> float:
    """Changes that a power cut left behind the last number of a life count as the present."""
    return 1 << 60 if as_of == tail else as_of


def _check_promise(name: str, status: dict[str, Any], promised: tuple[str, int]) -> None:
    secondary = status["secondary"]
    where = (
        f"{name} was suspended, consistent, at {promised}; "
        f"now {status['state']} ({status['reason']}) {secondary}"
    )
    assert status["state"] == state.SUSPENDED, where
    assert secondary["usable"], where
    assert secondary["as_of_sequence"] == promised[1], where
    assert secondary["cut"]["verdict"] == CONSISTENT, where
    assert (secondary["cut"]["id"], secondary["cut"]["sequence"]) == promised, where


def check_failures(machine: Machine, faults: bool) -> None:
    """No pair is suspended for a failure that nobody caused. A follower or a start that misses
    records in the journal suspends its pairs, and a resync copies them: no byte would be wrong. For
    a volume that is not served, the journal is kept until it is full only.
    """
    for event in machine.failures:
        assert faults, f"no disk failed, and this was suspended: {event}"
        by_journal = event["reason"] == state.BY_JOURNAL
        assert not (by_journal and event["served"]), f"the journal can be read, but: {event}"
    machine.failures.clear()


def check_equal(machine: Machine) -> None:
    """At rest, both legs of DUPLEX pairs are the same."""
    for name, pair in machine.controller.volumes.by_name.items():
        if pair.state == state.DUPLEX:
            assert machine.disk.content(pair.primary.path) == machine.disk.content(
                pair.copy_of.path
            ), f"the legs of {name} differ"


def states(machine: Machine) -> dict[str, tuple[str, bool]]:
    """State, and whether the secondary is usable, of every pair that has one."""
    return {
        name: (pair.state, pair.usable)
        for name, pair in machine.controller.volumes.by_name.items()
        if pair.state != state.SIMPLEX
    }


def check_kept(before: dict[str, tuple[str, bool]], after: dict[str, tuple[str, bool]]) -> None:
    """A kill takes no secondary away from its cut, and nothing else out of its state but for the
    comparison that follows.
    """
    for name, (was, usable) in before.items():
        if not usable:
            continue
        now, still = after[name]
        assert still or now == state.PENDING, f"{name} was {was}; it is {now} and not usable"
        if was == state.DUPLEX:
            assert now in {was, state.PENDING}, f"{name} was {was}, a kill made it {now}"
        else:
            assert was in {now, state.PENDING}, f"{name} was {was}, a kill made it {now}"


def grains_bytes(machine: Machine, name: str, after: int, until: int) -> int:
    """Bytes of a volume that changed in (after, until], rounded to grains."""
    pair = machine.controller.volumes.by_name[name]
    grains = {
        grain
        for entry in machine.history.changed_between(pair.id, after, until)
        for grain in range(
            entry.offset // GRAIN_BYTES, -(-(entry.offset + len(entry.data)) // GRAIN_BYTES)
        )
    }
    return len(grains) * GRAIN_BYTES


def describe(machine: Machine) -> str:
    """Every pair in a line, for the report of a failure."""
    controller = machine.last
    if controller is None:
        return "no controller"
    lines = [
        f"{pair.name}: {pair.state} {pair.reason} {pair.mode} {pair.failed} "
        f"{pair.primary.path}{' swapped' if pair.record.swapped else ''} "
        f"usable={pair.usable} applied={pair.applied} "
        f"cut={pair.cut and (pair.cut.id, pair.cut.sequence, pair.cut.verdict)} "
        f"staging={pair.record.staging!r}"
        for pair in controller.volumes.by_name.values()
    ]
    timeline = controller.timeline
    return "\n  ".join(
        [
            f"tail {timeline.written} synced {timeline.writer.synced} {controller.failed}",
            *lines,
        ]
    )


def _same(history: History, volume: int, sequence: float, actual: bytes, what: str) -> None:
    expected = history.content(volume, sequence)
    if actual != expected:
        place = next(at for at in range(len(expected)) if actual[at] != expected[at])
        touched = [
            f"{entry.sequence:g}"
            for entry in history.entries
            if entry.volume == volume and entry.offset <= place < entry.offset + len(entry.data)
        ]
        raise AssertionError(
            f"{what}: byte {place} is {actual[place]}, not {expected[place]}; "
            f"changes there: {' '.join(touched[-8:])}"
        )

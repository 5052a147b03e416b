"""One member, as a value: what its journal says, which leases it has. `Running` makes a real
`Participant` of it, runs one input, and reads it back.

The composition is that of the engine's `leases.py`, `group_cut.py` and `settling.py`: what they do
in one step of the loop is one input here, what they do in two is two.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from duplexd.core import cut_states
from duplexd.core import lease as ends
from duplexd.core.lease import Lease
from duplexd.core.markers import Agreed, MakeCut, Mark, Marker, Ready, Void
from duplexd.core.pair import Pair, PairRecord
from duplexd.core.transitions import CUT_EVENTS
from duplexd.errors import DuplexdError
from duplexd.limits import EngineLimits
from tests.model.explorer import ViolationError
from tests.model.mistakes import AsksTheWallClock
from tests.support.memory_leg import MemoryLeg

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from duplexd.core.participant import Participant

OURS, OTHER = "a", "b"  # the cut that is looked at; one that others want of the same pairs
AGAIN = "+"  # the lease that a copy of the same CLOSE was given
_PAIRS = [Pair(PairRecord(1, "data", 4096, EngineLimits()), MemoryLeg(4096), None, "sync")]
# each lease has its own; one that is renewed gets a newer one
_FENCES = {
    OURS: 0,
    OTHER: 1,
    OURS + AGAIN: 2,
    OTHER + AGAIN: 3,
}
_RENEWED = 10


class Held(NamedTuple):
    """A lease that is held."""

    id: str
    cut: str
    fence: int
    drained: bool


class Local(NamedTuple):
    """All that decides what a member does next. `durable` is what a power cut leaves of `votes`.
    `marks`: which of the two cuts are marks, from the beginning.
    """

    votes: tuple[str, ...]
    durable: tuple[str, ...]
    leases: tuple[Held, ...] = ()
    ended: tuple[str, ...] = ()
    opened: tuple[str, ...] = ()
    losing: tuple[
        str, ...
    ] = ()  # a lease with a cut has ended, the step that says so in the journal is yet to come
    stepped: bool = False  # its wall clock was set back
    marks: tuple[str, ...] = ()

    @property
    def vote(self) -> str:
        """What it says of the cut that is looked at."""
        return self.votes[0]

    @property
    def closed(self) -> bool:
        """Whether writes wait."""
        return bool(self.leases)


class Running:
    """A real `Participant` in the state of a `Local`.

    Every input returns what it answers, "" if nothing; a refusal raises DuplexdError.
    """

    def __init__(self, local: Local, kind: type[Participant[Lease]]) -> None:
        self.votes = dict(zip((OURS, OTHER), local.votes, strict=False))
        self.durable = dict(zip((OURS, OTHER), local.durable, strict=False))
        self.losing = set(local.losing)
        self.stepped = local.stepped
        self.marks = local.marks
        self.member = kind(self._state_of, self._mark)
        self.member.opened.update(local.opened)
        self.member.ended.update(dict.fromkeys(local.ended, ends.DEADLINE))
        if isinstance(self.member, AsksTheWallClock):
            self.member.stepped = local.stepped
        for held in local.leases:
            lease = self._lease(held.id, held.cut)
            lease.fence, lease.drained = held.fence, 1.0 if held.drained else None
            self.member.leases[held.id] = lease

    def _lease(self, lease_id: str, cut: str) -> Lease:
        return Lease(lease_id, _PAIRS, "", 2.0, 0.0, cut, cut in self.marks)

    def _state_of(self, cut: str) -> str:
        return self.votes[cut]

    def _mark(self, marker: Marker) -> None:
        assert isinstance(marker, MakeCut | Mark | Ready | Agreed | Void)
        cut = marker.id if isinstance(marker, MakeCut | Mark) else marker.cut
        after = cut_states.after(self.votes[cut], CUT_EVENTS[type(marker)])
        assert after is not None, f"{marker} does not fit: the cut is {self.votes[cut]}"
        self.votes[cut] = after

    @property
    def local(self) -> Local:
        """As a value again."""
        held = sorted(
            Held(each.id, each.cut_id, each.fence, each.drained is not None)
            for each in self.member.leases.values()
        )
        return Local(
            tuple(self.votes.values()),
            tuple(self.durable.values()),
            tuple(held),
            tuple(sorted(self.member.ended)),
            tuple(sorted(self.member.opened)),
            tuple(sorted(self.losing)),
            self.stepped,
            self.marks,
        )

    # requests

    def close(self, cut: str, lease_id: str = "") -> str:
        """The gate closes; answered by `drained`."""
        lease = self._lease(lease_id or cut, cut)
        self.member._fence = _FENCES[lease.id]
        self.member.close(lease)
        return ""

    def close_again(self, cut: str) -> str:
        """A second copy of the same request."""
        return self.close(cut, cut + AGAIN)

    def cut(self, cut: str) -> str:
        """The marker, under the lease and the fence that CLOSE was answered with."""
        kind = Mark if cut in self.marks else MakeCut
        self.member.cut(cut, _FENCES[cut] + 1, kind(cut, "", [1]))
        return "ok"

    def open(self, cut: str) -> str:
        """The gate opens; answered by `stood`."""
        lease = self.member.may_open(cut, cut, _FENCES[cut] + 1)
        self._end(lease, ends.BY_SUSPEND)
        return ""

    def open_of_another(self, cut: str) -> str:
        """The right lease, the wrong cut."""
        self.member.may_open("another", cut, _FENCES[cut] + 1)
        return ""

    def release(self, cut: str) -> str:
        """Of the lease that is held for this cut."""
        self._release(cut, ends.BY_OWNER)
        return "ok"

    def abort(self, cut: str) -> str:
        """The answers to these three are votes."""
        self._release(cut, ends.ABORTED)
        return self.member.abort(cut)

    def agree(self, cut: str) -> str:
        return self.member.agree(cut)

    def refuse(self, cut: str) -> str:
        self._release(cut, ends.ABORTED)
        return self.member.refuse(cut)

    def _release(self, cut: str, reason: str) -> None:
        for lease in list(self.member.leases.values()):
            if lease.cut_id == cut:
                return self._end(lease, reason)
        return None

    def _end(self, lease: Lease, reason: str) -> None:
        self.member.end(lease, reason)
        if self.votes[lease.cut_id] == cut_states.CUT:
            self.losing.add(lease.cut_id)

    # what happens by itself

    def drained(self, cut: str) -> str:
        """Nothing is in flight."""
        self.member.leases[cut].drained = 1.0
        return "ok"

    def stood(self, cut: str) -> str:
        """The secondaries are at the cut, durably."""
        self.member.stood(cut, whole=True)
        return self.votes[cut]

    def fell_short(self, cut: str) -> str:
        """One of them does not."""
        self.member.stood(cut, whole=False)
        return self.votes[cut]

    def deadline(self, lease_id: str) -> str:
        """Or its owner is gone."""
        self._end(self.member.leases[lease_id], ends.DEADLINE)
        return ""

    def lost(self, cut: str) -> str:
        """The step after a lease has ended."""
        self.losing.discard(cut)
        self.member.lost(cut)
        return ""

    def renewed(self, lease_id: str) -> str:
        """By another, who has a newer fencing number now."""
        self.member._fence = _RENEWED
        self.member.renew(lease_id, None)
        return ""

    def killed(self, _cut: str) -> str:
        """By kill -9, and started again: leases and all that is not in the journal are gone."""
        self.member.leases, self.member.ended, self.member.opened, self.losing = (
            {},
            {},
            set(),
            set(),
        )
        self.member.restarted(
            [cut for cut, state in self.votes.items() if state != cut_states.NONE]
        )
        return ""

    def power_cut(self, cut: str) -> str:
        """What was not synced is gone, too."""
        self.votes = dict(self.durable)
        return self.killed(cut)

    def secondary_lost(self, cut: str) -> str:
        """The image fails after the promise: `_lose` of the ledger."""
        self.votes[cut] = cut_states.after(self.votes[cut], cut_states.LOSE) or cut_states.VOID
        return ""

    def clock_stepped(self, _cut: str) -> str:
        """Someone sets the wall clock of the machine."""
        self.stepped = not self.stepped
        return ""

    def synced(self, _cut: str) -> str:
        """The journal reaches the disk: always before an answer that is a vote."""
        self.durable = dict(self.votes)
        return ""


REQUESTS: dict[str, Callable[[Running, str], str]] = {
    "close": Running.close,
    "cut": Running.cut,
    "open": Running.open,
    "release": Running.release,
    "abort": Running.abort,
    "agree": Running.agree,
    "refuse": Running.refuse,
}
NAMES = tuple(REQUESTS)
BIT = {name: 1 << at for at, name in enumerate(NAMES)}


class World(NamedTuple):
    """What may happen to members, beside what always may: late and lost messages, leases that end,
    kills.
    """

    # other coordinators, who send anything at any time, want another cut of the same pairs
    others: bool = False
    power: bool = False  # power cuts: what was not synced is lost
    secondaries: bool = False  # fail after the promise
    clocks: bool = False  # are set
    marks: tuple[str, ...] = ()  # which of OURS and OTHER is a mark, not a cut


def by_itself(
    local: Local, world: World
) -> Iterator[tuple[str, Callable[[Running, str], str], str]]:
    """(name, input, argument): what can happen without a request of the coordinators looked at."""
    for held in local.leases:
        yield "deadline", Running.deadline, held.id
        if held.fence < _RENEWED:
            yield "renewed", Running.renewed, held.id
        if held.id == OURS and not held.drained:
            yield "drained", Running.drained, OURS
    for cut in local.losing:
        yield "lost", Running.lost, cut
    for cut in local.opened:
        ours = cut == OURS
        yield "stood" if ours else "other stood", Running.stood, cut
        yield "stood" if ours else "other stood", Running.fell_short, cut
    yield "killed", Running.killed, OURS
    yield "second copy of close", Running.close_again, OURS
    yield "open of another cut", Running.open_of_another, OURS
    if world.power:
        yield "power cut", Running.power_cut, OURS
        yield "synced", Running.synced, OURS
    if world.secondaries and local.vote in {cut_states.READY, cut_states.CONSISTENT}:
        yield "secondary lost", Running.secondary_lost, OURS
    if world.clocks:
        yield "clock stepped", Running.clock_stepped, OURS
    if world.others:
        for name, request in REQUESTS.items():
            yield f"other {name}", request, OTHER
        yield "other close", Running.close_again, OTHER


def run(
    local: Local, kind: type[Participant[Lease]], call: Callable[[Running, str], str], argument: str
) -> tuple[str, Local] | None:
    """(answer, the member afterwards), or None if it refused. A refusal changes nothing."""
    running = Running(local, kind)
    try:
        answer = call(running, argument)
    except DuplexdError:
        if running.local != local:
            raise ViolationError(
                f"{call.__name__} was refused, and changed {local} into {running.local}"
            ) from None
        return None
    return answer, _forget_others(running.local)


def _forget_others(local: Local) -> Local:
    """Once the other cut has no lease here, another one may be wanted: nothing of the old one bears
    on the cut that is looked at.
    """
    if len(local.votes) == 1 or OTHER in {
        *(held.cut for held in local.leases),
        *local.opened,
        *local.losing,
    }:
        return local
    ours = tuple(lease for lease in local.ended if not lease.startswith(OTHER))
    return local._replace(
        votes=(local.vote, cut_states.NONE), durable=(local.durable[0], cut_states.NONE), ended=ours
    )

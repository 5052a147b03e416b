"""Members, coordinators, messages and writes together: what may happen next in each state, and what
must never be seen.

A request that was sent may arrive at any later time, more than once, or never; an answer, too.
Coordinators may never take another step: that is their crash. So loss and crashes need no steps of
their own. Members differ only in their states: `Whole` keeps them in order of these.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from duplexd.client.protocol import Round
from duplexd.core import cut_states
from duplexd.core.participant import Participant
from tests.model import coordinators
from tests.model.explorer import explore
from tests.model.graph import behaviour
from tests.model.local import BIT, NAMES, Local, World
from tests.model.properties import ALONE, Properties

if TYPE_CHECKING:
    from collections.abc import Iterator

    from duplexd.core.lease import Lease
    from tests.model.coordinators import View

# The two writes of the application: `b` is issued once `a` is acknowledged
NOTHING, A_WAITS, A_AFTER, B_WAITS, B_BEFORE = range(5)
_WRITES = (
    "",
    "a is under way",
    "a is acknowledged, after the cut",
    "b is under way",
    "b, which depends on a, is before the cut",
)
_PLACES = ("{0}", "{1}", "{2}")
_NAMES = ("alpha", "beta", "gamma")


class Channel(NamedTuple):
    """Between a coordinator and a member."""

    sent: int  # requests that may arrive, as `BIT`s
    view: View


class Seat(NamedTuple):
    """One member and what coordinators have to do with it."""

    member: int  # its class
    writing: bool  # a write is under way here
    channels: tuple[Channel, ...]


class Whole(NamedTuple):
    """A state of everything. Seats by number, see `Model`."""

    writes: int
    phases: tuple[str, ...]
    seats: tuple[int, ...]


class Scenario(NamedTuple):
    """What is explored."""

    members: int = 3
    settlers: int = 1  # beside the coordinator of the cut
    world: World = World()
    kind: type[Participant[Lease]] = Participant
    rounds: type[Round] = Round
    settler_rounds: type[Round] = Round
    answers_before_sync: bool = False
    answers_before_drained: bool = False
    merge: bool = True  # equivalent members; False: to see that this loses nothing
    only: str = ""  # the one property of `properties.py` to look at


class Model:
    """A scenario that is explored.

    Everything that is computed is kept: the real code runs once for each input in each state of its
    own.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        alone = scenario.only in {"", ALONE}
        self.behaviour = behaviour(
            scenario.kind, scenario.world, scenario.answers_before_sync, alone, scenario.merge
        )
        self.properties = Properties(
            self.behaviour, scenario.settler_rounds, scenario.world, scenario.only
        )
        self._kinds = [scenario.rounds] + [scenario.settler_rounds] * scenario.settlers
        self._seats: list[Seat] = []
        self._numbers: dict[Seat, int] = {}
        self._moves: dict[int, list[tuple[str, int]]] = {}
        self._steps: dict[tuple[int, str, tuple[int, ...]], list[tuple[str, str, list[int]]]] = {}
        self._rounds: dict[tuple[int, str, tuple[View, ...]], list[coordinators.Step]] = {}
        self._after_steps: dict[tuple[int, int, int, View], int] = {}

    def run(self) -> int:
        """How many states there are. Raises ViolationError."""
        return len(explore(self.first(), self.after, self.wrong, self.story))

    def first(self) -> Whole:
        """The coordinator has sent CLOSE to all."""
        count = self.scenario.members
        begun = [coordinators.begin(kind, at > 0, count) for at, kind in enumerate(self._kinds)]
        seats = []
        for member in range(count):
            channels = (Channel(step.sends[member], step.views[member]) for step in begun)
            seats.append(self._number(Seat(0, False, tuple(channels))))
        return Whole(NOTHING, tuple(step.phase for step in begun), tuple(seats))

    # what may happen

    def after(self, whole: Whole) -> list[Whole]:
        """Every next state."""
        return [self._in_order(*then) for _, _, then in self._next(whole)]

    def _next(
        self, whole: Whole
    ) -> Iterator[tuple[str, str, tuple[int, tuple[str, ...], list[int]]]]:
        """(who, what happens there, the state afterwards); members are named by their place: {0},
        {1}, {2}.
        """
        writes, phases, seats = whole
        for at, seat in enumerate(seats):
            if at and seat == seats[at - 1]:
                continue  # they are alike
            for text, after in self._moves_of(seat):
                yield _PLACES[at], text, (writes, phases, [*seats[:at], after, *seats[at + 1 :]])
            for text, then, after in self._written(writes, seat):
                yield _PLACES[at], text, (then, phases, [*seats[:at], after, *seats[at + 1 :]])
        for which in range(len(phases)):
            for text, phase, after_it in self._inputs_of_all(which, phases[which], seats):
                yield (
                    f"coordinator {which}",
                    text,
                    (writes, (*phases[:which], phase, *phases[which + 1 :]), after_it),
                )

    def _in_order(self, writes: int, phases: tuple[str, ...], seats: list[int]) -> Whole:
        """As a state: without the writes where the cut is void, for it stays so, and need not be
        consistent.
        """
        if (
            writes
            and not self.scenario.world.power
            and any(self._local(seat).vote == cut_states.VOID for seat in seats)
        ):
            writes = NOTHING
            seats = [self._number(self._seats[seat]._replace(writing=False)) for seat in seats]
        return Whole(writes, phases, tuple(sorted(seats)))

    def _written(self, writes: int, number: int) -> Iterator[tuple[str, int, int]]:
        """The application: only what can still show that the cut is not consistent.

        Writes meet closed gates and wait; then they are not under way.
        """
        seat, local = self._seats[number], self._local(number)
        before = local.vote in {
            cut_states.NONE,
            cut_states.VOID,
        }  # a void one may be one that was never made
        if seat.writing:
            done = self._number(seat._replace(writing=False))
            if writes == A_WAITS:
                yield "a is done", NOTHING if before else A_AFTER, done
            else:
                yield "b is done", B_BEFORE if before else A_AFTER, done
        elif not local.closed and writes == NOTHING:
            if before:
                yield "a comes", A_WAITS, self._number(seat._replace(writing=True))
            else:
                yield "a comes and is done", A_AFTER, number
        elif not local.closed and writes == A_AFTER and before:
            yield "b comes", B_WAITS, self._number(seat._replace(writing=True))

    def _moves_of(self, number: int) -> list[tuple[str, int]]:
        """What may happen at a member, whatever the others do."""
        if number not in self._moves:
            moves = self._member_moves(self._seats[number])
            self._moves[number] = [
                (text, after)
                for text, after in ((text, self._number(seat)) for text, seat in moves)
                if after != number
            ]
        return self._moves[number]

    def _member_moves(self, seat: Seat) -> Iterator[tuple[str, Seat]]:
        for name, answer, after in self.behaviour.edges[seat.member]:
            moved = seat._replace(member=after)
            if name in BIT:
                for who, channel in enumerate(seat.channels):
                    if channel.sent & BIT[name]:
                        yield (
                            f"takes {name} of coordinator {who}",
                            _answered(moved, who, name, answer),
                        )
            elif name == "drained":
                if not seat.writing or self.scenario.answers_before_drained:
                    yield "is drained", _answered(moved, 0, "close", answer)
            elif name == "stood":
                yield f"is at the cut: {answer}", _answered(moved, 0, "open", answer)
            else:
                yield name, moved

    def _inputs_of_all(
        self, which: int, phase: str, seats: tuple[int, ...]
    ) -> list[tuple[str, str, list[int]]]:
        """(what, the phase then, the seats then): what a coordinator may do."""
        key = (which, phase, seats)
        if key not in self._steps:
            self._steps[key] = list(self._steps_of(*key))
        return self._steps[key]

    def _steps_of(
        self, which: int, phase: str, numbers: tuple[int, ...]
    ) -> Iterator[tuple[str, str, list[int]]]:
        seats = [self._seats[number] for number in numbers]
        views = tuple(seat.channels[which].view for seat in seats)
        known = (which, phase, views)
        if known not in self._rounds:
            self._rounds[known] = coordinators.steps(self._kinds[which], phase, views)
        for step in self._rounds[known]:
            after = [
                self._told(number, which, bits, view)
                for number, bits, view in zip(numbers, step.sends, step.views, strict=True)
            ]
            yield step.text, step.phase, after

    def _told(self, number: int, which: int, bits: int, view: View) -> int:
        """A seat after a step of a coordinator."""
        key = (number, which, bits, view)
        if key not in self._after_steps:
            seat = self._seats[number]
            self._after_steps[key] = self._number(
                _with_channel(seat, which, Channel(seat.channels[which].sent | bits, view))
            )
        return self._after_steps[key]

    def _number(self, seat: Seat) -> int:
        """Its number. A message that can't change anything need not arrive."""
        number = self._numbers.get(seat)
        if number is None:
            alive = self.behaviour.alive[seat.member]
            channels = []
            for channel in seat.channels:
                wanted = {
                    name
                    for name in NAMES
                    if channel.sent & BIT[name] and (name in alive or name == channel.view.awaited)
                }
                channels.append(Channel(sum(BIT[name] for name in wanted), channel.view))
            plain = seat._replace(channels=tuple(channels))
            if plain not in self._numbers:
                self._numbers[plain] = len(self._seats)
                self._seats.append(plain)
            number = self._numbers[seat] = self._numbers[plain]
        return number

    def _local(self, number: int) -> Local:
        return self.behaviour.locals[self._seats[number].member]

    def wrong(self, whole: Whole) -> str:
        """What must never be, and is; "" if all is well."""
        seats = [self._seats[number] for number in whole.seats]
        known = [
            tuple(seat.channels[who].view.known for seat in seats)
            for who in range(len(whole.phases))
        ]
        return self.properties.wrong(
            tuple(seat.member for seat in seats), known, whole.writes == B_BEFORE
        )

    # telling

    def story(self, way: list[Whole]) -> list[str]:
        """The steps of `way`, a line each: what happened, and what the members show then."""
        names = list(_NAMES)[: self.scenario.members]
        lines = [f"  {'coordinator 0: asks all to close':72} {self._shown(way[0], names)}"]
        for before, after in pairwise(way):
            who, text, then = next(
                each for each in self._next(before) if self._in_order(*each[2]) == after
            )
            what = f"{who}: {text}".format(*names)
            names = [
                names[at]
                for at in sorted(
                    range(len(names)), key=lambda at: self._as_kept(after, then[2][at])
                )
            ]
            lines.append(f"  {what:72} {self._shown(after, names)}")
        return lines

    def _as_kept(self, whole: Whole, seat: int) -> int:
        return (
            seat if seat in whole.seats else self._number(self._seats[seat]._replace(writing=False))
        )

    def _shown(self, whole: Whole, names: list[str]) -> str:
        shown = []
        for name, number in sorted(zip(names, whole.seats, strict=True)):
            local = self._local(number)
            shown.append(f"{name} {local.vote or 'none'}{' (closed)' if local.closed else ''}")
        return ", ".join(shown) + (f"; {_WRITES[whole.writes]}" if whole.writes else "")


def _answered(seat: Seat, who: int, name: str, answer: str) -> Seat:
    """`seat` after a request has arrived and, perhaps, was answered: only the first answer to what
    is awaited counts.
    """
    channel = seat.channels[who]
    # a second lease would have another id
    sent = channel.sent & ~BIT["close"] if name == "close" else channel.sent
    view = channel.view
    if answer and view.awaited == name and view.answer is None:
        view = view._replace(answer=answer)
    return _with_channel(seat, who, Channel(sent, view))


def _with_channel(seat: Seat, who: int, channel: Channel) -> Seat:
    return seat._replace(channels=(*seat.channels[:who], channel, *seat.channels[who + 1 :]))

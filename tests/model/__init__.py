"""The protocol of a cut over several controllers, in every order in which it can go.

The model is the real code: `duplexd/core/participant.py` with `lease.py` and `cut_states.py`, and
`duplexd/client/protocol.py`. Each is made from a value, given one input, and read back as a value.
Only what is between them is modelled: messages, the application, crashes.

    explorer.py       breadth first, and the shortest way to a forbidden state
    local.py          a member as a value; every input it can get, composed as the engine does it
    graph.py          all that one member can do; its own promises; which states are equivalent
    coordinators.py   a `Round` as a value; what it may do next
    whole.py          all together: messages, writes
    properties.py     what must hold in every state
    mistakes.py       members, coordinators and tables with a mistake, which must be found

**What may happen, at any time and in any order.** A request that was sent arrives: soon, late,
after its sender gave up, several times, or never. An answer is received, or not. A coordinator
waits for any time, gives up, or takes no further step (it crashed, or is stopped and goes on
later). Another one settles the same cut, any number of times. A lease ends at its deadline or
because its owner is gone; it is renewed by another. A member is killed and started again, any
number of times. A second copy of CLOSE gets a lease of its own. Scenarios add: other coordinators
that send anything for other cuts of the same pairs (so every pair of coordinators of two cuts is
covered, for either cut); power cuts, after which a journal has what was synced; secondaries that
fail after the promise; wall clocks that are set; marks, in the place of either cut or both.

**What must hold in each state.**

    alone                 an undecided cut is held, is being settled, or was promised; a lost hold
                          never becomes ready; void stays void; every closed gate is opened by its
                          deadline alone, without a message; a command with an older fencing number
                          is refused; a refusal changes nothing; an abandoned cut holds no writes
    one outcome           no member shows consistent while another is neither ready nor consistent
    sequence-consistent   a cut that a member calls consistent has no write without those that it
                          depends on
    known                 no member contradicts what a coordinator knows as the outcome
    settled               if all answer from here on, settling ends with one outcome on all members

No clock is part of it: a deadline may pass at any moment, which is worse than any clock.

**Bounds, and why they are enough.**

- *Three members.* Each property speaks of at most two of them; a third is there for what a
  coordinator learns from one and does to another.
- *Two dependent writes*, a and then b, on different members. A cut that is not closed under
  dependence has, on some chain of writes, one that is missing directly before one that is there;
  without all other writes, every member and coordinator can still do what it did. On one member the
  journal orders them. Only a write that can still end up missing is followed: one that is before
  the cut of its member proves nothing, and neither do writes once a member is void.
- *One coordinator that cuts, one that settles* (two, with two members). What a coordinator knows
  are votes, which only go forward; any number of those that settle ask the same and conclude the
  same.
- *One lease of an id.* Lease ids are random; what a coordinator says later names the one that it
  was given.

**What makes it small, and loses nothing.** Members are interchangeable, so states are kept in
order. Members that cannot be distinguished from outside, now or ever, are one (weak bisimulation; a
test compares with and without). What a coordinator learns between two of its actions is one step. A
request that can no longer change anything is dropped.

**What it found out**, besides that the protocol holds: either of its two barriers (all closed
before one is cut; all cut before one is opened) is enough for cuts to be consistent if each
member cuts under its own lease and answers CLOSE only when nothing is in flight. So opening each
gate upon its own cut would be safe, and so would be losing a lease after its cut. Both barriers are
kept: with the first, even an answer before all is drained does no harm; a lost hold makes void
because that is promised, not because it must. What is not safe is in `mistakes.py`: no barrier at
all, the second one alone with answers before all is drained, and cuts under leases that are no
longer held.
"""

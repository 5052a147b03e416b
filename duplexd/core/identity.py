"""Whether an image is the one that the journal wrote to, as it left it.

The journal and the images lie in different places, so any of them can be exchanged, restored or
lost without the others. Calling a wrong image current would destroy the good one at the next
resync; copying a right one again, or refusing it, costs hours. So the decision is made from
everything that is known, in an order in which the more certain evidence comes first:

    mark        an extended attribute with a random id (`images/identity.py`)
    generation  in the mark: the start of the controller that used the image last
    samples     checksums of blocks, among them the ones written last: an older copy differs there
    time        of the last modification, recorded with each checkpoint: nobody else may write

Where an image lies (path, device, inode) decides nothing: a set that was moved is the same set.

What the journal has a record of is not held against an image: `Facts`, see `core/since.py`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from duplexd.images.identity import Found, Piece

ZERO_CRC = 0x98F94189  # CRC-32C of 4096 zero bytes
NEAR_US = 20_000  # from a record to its change on an image that nothing delays
FAR_US = 120_000_000  # the same for a disk that hangs; and what a journal can lose of its end
_MARK_NAMED = "its mark says that"

Kind = Literal[
    "same", "moved", "new", "exchanged", "changed", "emptied", "foreign", "older", "newer"
]
CURRENT: frozenset[Kind] = frozenset({"same", "moved", "new", "exchanged"})
Writing = Literal["nothing", "records", "anything"]


class Image(NamedTuple):
    """What a checkpoint records of an image. `samples`: `(offset, CRC-32C)` of blocks of 4 KiB, as
    they are at the checkpoint's number. `marked`: it carries its id itself.

    `loose`: it was not open at the checkpoint, so its time is only the earliest possible one.
    """

    id: str
    path: str
    place: str
    mtime_ns: int
    marked: bool
    generation: int
    samples: tuple[tuple[int, int], ...] = ()
    loose: bool = False

    @property
    def offsets(self) -> list[int]:
        """Where it was sampled."""
        return [offset for offset, _ in self.samples]


class Facts(NamedTuple):
    """What may have been written to an image since the checkpoint. `touched`: sampled offsets that
    have a record since then. `complete`: no record can be missing; else the legs may differ in the
    open regions, whose sampled offsets are `uncertain`.
    """

    writing: Writing = "nothing"
    touched: Container[int] = ()
    uncertain: Container[int] = ()
    complete: bool = True
    last_us: int = 0  # time of the volume's last record, microseconds since 1970
    last: Piece | None = None  # what that change left, if it is known


class Known(NamedTuple):
    """What this state directory is: controller, how often it was started, and by id which role in
    which volume an image has (`("data", "primary")`).
    """

    controller: str
    starts: int
    images: Mapping[str, tuple[str, str]]


class Judgement(NamedTuple):
    """`kind`, and one sentence that names what is known; "" for an image as it should be."""

    kind: Kind
    why: str = ""

    @property
    def current(self) -> bool:
        """Whether the image may be called what the journal says it is."""
        return self.kind in CURRENT


class Leg(NamedTuple):
    """One role of a pair at a start: what is recorded, what is there (None: nothing usable), and
    what was written since.
    """

    recorded: Image | None
    found: Found | None
    facts: Facts = Facts()


def judge_pair(
    volume: str, known: Known, primary: Leg, secondary: Leg
) -> tuple[Judgement | None, Judgement | None]:
    """Judge the image found at the primary's path and the one found at the secondary's; None where
    nothing was found. If each is the other one, both are "exchanged": the roles follow the images.
    """
    straight = (_of(volume, known, primary), _of(volume, known, secondary))
    if all(judgement is None or judgement.current for judgement in straight):
        return straight
    crossed = (
        _of(volume, known, Leg(secondary.recorded, primary.found, secondary.facts), other=True),
        _of(volume, known, Leg(primary.recorded, secondary.found, primary.facts), other=True),
    )
    if all(
        judgement is None or (judgement.current and leg.recorded is not None)
        for judgement, leg in zip(crossed, (secondary, primary), strict=True)
    ):
        why = f"{volume}: the images of the primary and the secondary lie at each other's path"
        exchanged = Judgement("exchanged", why)
        return (exchanged if crossed[0] else None, exchanged if crossed[1] else None)
    return straight


def _of(volume: str, known: Known, leg: Leg, other: bool = False) -> Judgement | None:
    if leg.found is None:
        return None
    del other
    return judge(volume, known, leg.recorded, leg.found, leg.facts)


def judge(
    volume: str, known: Known, recorded: Image | None, found: Found, facts: Facts
) -> Judgement:
    """Judge one image for one role of `volume`. `recorded` None: the role had no image yet."""
    raise NotImplementedError

"""Whether an image is the one that the journal wrote to, as it left it.

The journal and the images lie in different places, so each of them can be exchanged, restored or
lost without the others. Calling a wrong image current would destroy the good one at the next
resync; copying a right one again, or refusing it, costs hours. So the decision uses everything that
is known, the more certain evidence first:

    mark        an extended attribute with a random id (`images/probe.py`)
    generation  in the mark: the start of the controller that last used the image
    number      in the mark: how far the journal was durable by then
    samples     checksums of blocks, among them the ones written last: an older copy differs there
    time        of the last modification, recorded with each checkpoint: nobody else may write

Where an image lies (path, device, inode) decides nothing: a set that was moved is the same set.
What the journal has a record of is not held against an image: `Facts`, see `core/since.py`.

A time that differs is enough, although all samples match: what a file system check or a mount has
written is on one leg only. `touch` is the price: it costs a comparison, or an `adopt`.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, NamedTuple

from duplexd.core.image_record import AHEAD
from duplexd.core.older_state import OlderState
from duplexd.core.pair_states import SUSPENDED

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from duplexd.core.image_record import Image
    from duplexd.core.pair import PairRecord
    from duplexd.images.probe import Found, Mark, Piece

ZERO_CRC = 0x98F94189  # CRC-32C of 4096 zero bytes
# From a record to its change on an image: where nothing delays it (the kernel's clock for files
# ticks every 4 or 10 ms), and on a disk that hangs. The latter is also longer than the kernel keeps
# changes of the journal from the disk, so what a power cut takes from its end is not older.
NEAR_NS = 20_000_000
FAR_NS = 120_000_000_000
# Copying may cut the time off to these units: file systems and archives of less precision.
_UNITS_NS = (100, 1_000, 1_000_000, 1_000_000_000, 2_000_000_000)

Kind = Literal[
    "same", "moved", "new", "exchanged", "changed", "emptied", "foreign", "older", "newer"
]
CURRENT: frozenset[Kind] = frozenset({"same", "moved", "new", "exchanged"})
Writing = Literal["nothing", "records", "anything"]
ANY_NUMBER = 1 << 62


class Facts(NamedTuple):
    """What may have been written to an image since the checkpoint. `touched`: sampled offsets that
    have a record since then. `complete`: no record can be missing; else the legs may differ in the
    open regions, whose sampled offsets are `uncertain`.
    """

    writing: Writing = "nothing"
    touched: Container[int] = ()
    uncertain: Container[int] = ()
    complete: bool = True
    last_ns: int = 0  # time of the volume's last record
    end_ns: int = 0  # time of the last record of all, or of the checkpoint
    least_ns: int = 0  # the earliest time of a record since; before the checkpoint's if the clock
    # was set back
    last: Piece | None = None  # what that change left, if it is known
    # If the journal is known to end too early: what has a later time is of the part it lacks
    until_ns: int = 0
    # Sampled blocks as changes since the checkpoint left them, but for those of the last batch
    before_last: Mapping[int, int] = {}


class Known(NamedTuple):
    """What this state directory is: whose (the identity of its controller), how often that was
    started, and which volume and role each image has, by id: `("data", "primary")`.

    `ahead`: what it lacks, if a start found that it is an older copy than the images. `end`: the
    last number of its journal.
    """

    owner: str
    starts: int
    images: Mapping[str, tuple[str, str]]
    ahead: OlderState = OlderState()
    end: int = ANY_NUMBER

    def lacks(self, mark: Mark, recorded: Image | None) -> bool:
        """Whether an earlier start did not know what the image was used for."""
        adopted = recorded is not None and recorded.generation > self.ahead.copied
        return self.ahead.lacks(mark.generation, mark.number) and not adopted

    def is_before(self, mark: Mark) -> bool:
        """Whether an image of this controller was used after all that this state knows of."""
        later = mark.generation > self.starts or mark.number > self.end
        return mark.owner == self.owner and later


class Judgement(NamedTuple):
    """`kind`, and a sentence that names what is known; "" for an image that was not moved.

    `proven`: the mark, the time or a sample shows it. Without one nothing speaks against the image,
    nor for it: a block device of which no sample is known may be any.
    """

    kind: Kind
    why: str = ""
    proven: bool = True

    @property
    def current(self) -> bool:
        """Whether the image may be called what the journal says it is."""
        return self.kind in CURRENT


SAME, NEW = Judgement("same"), Judgement("new")


class Side(NamedTuple):
    """One role of a pair: the image recorded for it, what was found at its path (None: nothing that
    can be opened), and what was written to the recorded one since.
    """

    recorded: Image | None
    found: Found | None
    facts: Facts = Facts()


def judge_pair(
    volume: str, known: Known, primary: Side, secondary: Side
) -> tuple[Judgement | None, Judgement | None]:
    """Judge what was found at the primary's path, and at the secondary's; None where nothing was.

    If each image is the one of the other role, both are "exchanged": the roles follow the images.
    """
    straight = _judge(known, primary), _judge(known, secondary)
    for judgement in straight:
        if judgement is not None and judgement.kind == "newer":  # of the other, it knows as little
            return primary.found and judgement, secondary.found and judgement
    if all(judgement is None or judgement.current for judgement in straight):
        return straight
    if primary.recorded is None or secondary.recorded is None:
        return straight
    crossed = (
        _judge(known, Side(secondary.recorded, primary.found, secondary.facts)),
        _judge(known, Side(primary.recorded, secondary.found, primary.facts)),
    )
    if not all(
        judgement is None or (judgement.current and judgement.proven) for judgement in crossed
    ):
        return straight
    why = f"{volume}: the images of the primary and the secondary lie at each other's path"
    exchanged = Judgement("exchanged", why)
    return crossed[0] and exchanged, crossed[1] and exchanged


def _judge(known: Known, side: Side) -> Judgement | None:
    return None if side.found is None else judge(known, side.recorded, side.found, side.facts)


def judge(known: Known, recorded: Image | None, found: Found, facts: Facts) -> Judgement:
    """Judge one image for one role; `recorded` is None if the role has none yet."""
    if recorded is not None and recorded.generation == AHEAD:
        return _found_before(found.path)
    if found.mark is not None:
        wrong = judge_mark(known, recorded, found.path, found.mark)
        if wrong is not None:
            return wrong
    if recorded is None:
        return NEW
    wrong = _judge_content(recorded, found, facts) or _judge_time(recorded, found, facts)
    if wrong is not None:
        return wrong
    if found.mark is None and recorded.marked and not _is_dated(recorded, found, facts):
        return Judgement("changed", f"{found.path}: the image lost its mark: it was replaced")
    proven = _is_proven(recorded, found, facts)
    if (found.path, found.place) != (recorded.path, recorded.place):
        why = f"{found.path}: the image was moved here from {recorded.path}"
        return Judgement("moved", why, proven)
    return SAME._replace(proven=proven)


def doubted(judgement: Judgement, pair: PairRecord, found: Found, facts: Facts) -> Judgement:
    """The same of the secondary of a pair. At a cut it cannot be compared with its primary, so one
    that nothing shows to be the right image is not called current.
    """
    at_cut = pair.state == SUSPENDED and pair.usable
    if not judgement.current or not at_cut:
        return judgement
    if judgement.proven and not _is_sampled_before(pair, found, facts):
        return judgement
    return Judgement(
        "changed",
        f"{found.path}: nothing shows that this is the image that was used last: it carries no"
        " mark, and no checkpoint has samples of its content at the cut",
    )


def _is_sampled_before(pair: PairRecord, found: Found, facts: Facts) -> bool:
    """Whether nothing but samples speaks for an image, and those are of a number before the one
    that it is durable at. The journal is not applied to it again from there, so a copy of that time
    would stay what it is; and what was written since is not in the samples that count.
    """
    image = pair.secondary_image
    if image is None or facts.writing == "nothing" or pair.applied <= image.sampled_at:
        return False
    is_marked = found.mark is not None and found.mark.id == image.id
    return not is_marked and not _is_dated(image, found, facts)


def _is_proven(recorded: Image, found: Found, facts: Facts) -> bool:
    if found.mark is not None and found.mark.id == recorded.id:
        return True
    return _is_dated(recorded, found, facts) or any(
        _counts(facts, offset) and offset in found.samples for offset in recorded.offsets
    )


def _counts(facts: Facts, offset: int) -> bool:
    """Whether a sample has to be as it is recorded."""
    return offset not in facts.touched and (facts.complete or offset not in facts.uncertain)


def _found_before(path: str) -> Judgement:
    return Judgement(
        "newer",
        f"{path}: an earlier start found that the state directory is an older copy than the"
        " images: stop, and restore the one that belongs to them",
    )


def latest_start(known: Known, found: Found | None) -> int:
    """The start that an image was last used at, if this state directory does not know all of it;
    else 0. For `Known.ahead`.
    """
    mark = None if found is None else found.mark
    return mark.generation if mark is not None and known.is_before(mark) else 0


def newer(pairs: Iterable[PairRecord]) -> set[str]:
    """The ids of those that were used when this state did not know of it."""
    images = (image for pair in pairs for image in (pair.primary_image, pair.secondary_image))
    return {image.id for image in images if image is not None and image.generation == AHEAD}


def older(facts: Facts) -> Facts:
    """The same, where other images show that the journal does not have all that was written."""
    return facts._replace(until_ns=facts.end_ns + NEAR_NS)


def is_of_others(known: Known, volume: str, found: Found) -> bool:
    """Whether its mark says that an image is in use, by another controller or another volume."""
    mark = found.mark
    if mark is None:
        return False
    used_by, _ = known.images.get(mark.id, (volume, ""))
    return mark.owner != known.owner or used_by != volume


# ---------------------------------------------------------------------------------------- evidence


def judge_mark(known: Known, recorded: Image | None, path: str, mark: Mark) -> Judgement | None:
    """What an image is by its mark alone; None if that says nothing against it."""
    if not mark.owner:
        return Judgement(
            "foreign",
            f"{path}: the extended attribute user.duplexd.image is not one that duplexd writes: it"
            " is not known whose image this is",
        )
    if mark.owner != known.owner:
        return Judgement(
            "foreign",
            f"{path}: the image belongs to volume {mark.volume} of a controller {mark.name!r} whose"
            " state is not in this state directory; is its file system mounted?",
        )
    if mark.generation > known.starts:
        return Judgement(
            "newer",
            f"{path}: the image was in use at start {mark.generation} of this controller, but the"
            f" state directory ends at start {known.starts}: the state directory is an older copy,"
            " restore the one that belongs to the images",
        )
    if known.is_before(mark):
        return Judgement(
            "newer",
            f"{path}: the image was in use when the journal was at number {mark.number}, but the"
            f" journal ends at number {known.end}: the state directory is an older copy, restore"
            " the one that belongs to the images",
        )
    if known.lacks(mark, recorded):
        return _found_before(path)
    if recorded is not None and mark.id == recorded.id:
        if mark.generation < recorded.generation:
            return Judgement(
                "older",
                f"{path}: an older copy of the image: last used at start {mark.generation} of this"
                f" controller, not at start {recorded.generation}",
            )
        return None
    if mark.id in known.images:
        owner, role = known.images[mark.id]
        return Judgement("foreign", f"{path}: this image is the {role} of volume {owner}")
    if recorded is None:
        return None  # marked by a start that did not reach its end, or removed from the volumes
    return Judgement(
        "foreign", f"{path}: this image was part of volume {mark.volume} once, and was replaced"
    )


def _judge_content(recorded: Image, found: Found, facts: Facts) -> Judgement | None:
    differ = [
        offset
        for offset, crc in recorded.samples
        if found.samples.get(offset, crc) != crc and _counts(facts, offset)
    ]
    if not differ:
        return None
    where = (
        f"{len(differ)} of {len(found.samples)} sampled blocks differ, first at byte {differ[0]}"
    )
    if all(crc == ZERO_CRC for crc in found.samples.values()):
        return Judgement("emptied", f"{found.path}: the image was emptied: {where}")
    if 0 < found.mtime_ns < recorded.mtime_ns:
        times = _times(found.mtime_ns, recorded.mtime_ns)
        return Judgement("older", f"{found.path}: an older copy of the image: {where}; {times}")
    return Judgement(
        "changed", f"{found.path}: the image was changed or replaced by an older copy: {where}"
    )


def _judge_time(recorded: Image, found: Found, facts: Facts) -> Judgement | None:
    at, expected = found.mtime_ns, recorded.mtime_ns
    if not at or not expected or _same_time(at, expected):
        return None
    written_back = facts.writing != "nothing" and 0 < facts.least_ns <= at
    if at < expected and written_back:
        return None
    if at < expected:
        times = _times(at, expected)
        return Judgement("older", f"{found.path}: an older copy of the image: {times}")
    limit = _latest(recorded, _is_there(recorded, found, facts), facts)
    if limit is None or at <= limit:
        return None
    if facts.until_ns:
        return Judgement(
            "newer",
            f"{found.path}: other images show that the state directory is an older copy, and this"
            f" one was written to since: {_times(at, max(expected, 0))}",
        )
    return Judgement(
        "changed",
        f"{found.path}: the image was changed by another program: {_times(at, max(expected, 0))}",
    )


def _latest(recorded: Image, last_there: bool, facts: Facts) -> int | None:
    """The latest time at which the daemon can have written to the image; None: any time.

    A killed daemon leaves at most its last batch unapplied. If that was not applied, nothing was
    written after its record; else the image may have been slow to take it, or hung (`_is_there`).
    """
    if facts.writing == "anything" or recorded.loose:
        return None
    before_ns = max(recorded.mtime_ns, recorded.until_ns)
    last_ns = max(before_ns, facts.last_ns)
    if facts.until_ns:
        return max(last_ns, facts.until_ns)
    if not facts.complete:
        return max(last_ns, facts.end_ns) + FAR_NS
    if facts.writing == "nothing":
        return before_ns
    return last_ns + (FAR_NS if last_there else NEAR_NS)


def _is_there(recorded: Image, found: Found, facts: Facts) -> bool:
    """Whether the last change is there, or one before its batch, where the checkpoint had something
    else: then it is no copy of an earlier time, and a replay makes it whole. A write that hung when
    the daemon was killed may leave nothing but its time.
    """
    return found.last_there or any(
        facts.before_last.get(offset, ZERO_CRC) not in {crc, ZERO_CRC}
        and found.samples.get(offset) == facts.before_last[offset]
        for offset, crc in recorded.samples
    )


def away(recorded: Image, facts: Facts, last_there: bool = True, newer: bool = False) -> Image:
    """What is known of an image that is not used now, once the next checkpoint is taken: what the
    journal has since the last one may be on it, or not. `newer` than this state, it stays that,
    though this controller is started more often from now on than the one that used it.
    """
    if newer:
        return recorded._replace(generation=AHEAD)
    samples = tuple((offset, crc) for offset, crc in recorded.samples if _counts(facts, offset))
    until_ns = _latest(recorded, last_there, facts)
    if until_ns is None:
        return recorded._replace(samples=samples, loose=True)
    return recorded._replace(samples=samples, until_ns=until_ns)


def _is_dated(recorded: Image, found: Found, facts: Facts) -> bool:
    """Whether its time, which fits, says that nobody else wrote to it.

    A new, empty image may have got a time that fits, if it was made at once after the daemon died.
    So where the time is not the very one that was recorded, content has to speak for it, too.
    """
    if not found.mtime_ns or not recorded.mtime_ns:
        return False
    if _latest(recorded, _is_there(recorded, found, facts), facts) is None:
        return False
    return _same_time(found.mtime_ns, recorded.mtime_ns) or any(
        crc != ZERO_CRC and offset in found.samples and offset not in facts.touched
        for offset, crc in recorded.samples
    )


def _same_time(at: int, expected: int) -> bool:
    return at == expected or any(at == expected // unit * unit for unit in _UNITS_NS)


def _times(at: int, expected: int) -> str:
    return f"modified at {_shown(at)}, by the daemon last at {_shown(expected)}"


def _shown(time_ns: int) -> str:
    """UTC, with microseconds."""
    whole, rest = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(whole, UTC).replace(microsecond=rest // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

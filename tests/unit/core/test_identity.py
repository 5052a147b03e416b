"""The table of image identity: what is recorded, what is found, what the journal says."""

from __future__ import annotations

from typing import Any

import pytest

from duplexd.core.identity import (
    CURRENT,
    FAR_NS,
    NEAR_NS,
    ZERO_CRC,
    Facts,
    Judgement,
    Known,
    Side,
    away,
    is_of_others,
    judge,
    judge_pair,
    latest_start,
)
from duplexd.core.image_record import Image
from duplexd.core.older_state import OlderState
from duplexd.images.probe import UNREADABLE, Found, Mark

NOTHING = Facts()
S = 1_000_000_000
T = 1_700_000_000 * S + 123_456_789  # when the daemon wrote to the image last
KNOWN = Known(
    "ours", 7, {"p": ("data", "primary"), "s": ("data", "secondary"), "w": ("wal", "primary")}
)
SAMPLES = ((0, 11), (4096, 12), (8192, 13))
IMAGE = Image("p", "/a", "file 1:1", T, True, 6, SAMPLES)
SECONDARY = Image("s", "/b", "file 1:2", T + 5, True, 6, ((0, 21), (4096, 12), (8192, 13)))


def mark(number: str = "p", controller: str = "ours", generation: int = 7) -> Mark:
    return Mark(number, controller, "alpha", "data", generation)


def found(**fields: Any) -> Found:
    as_it_was = Found("/a", "file 1:1", 1 << 20, T, mark(), dict(SAMPLES))
    return as_it_was._replace(**fields)


def kind(found: Found, facts: Facts = NOTHING, recorded: Image | None = IMAGE) -> str:
    return judge(KNOWN, recorded, found, facts).kind


# ------------------------------------------------------------------------------ an innocent image


def test_an_image_as_it_was_left_is_the_same() -> None:
    assert judge(KNOWN, IMAGE, found(), Facts()) == Judgement("same")


@pytest.mark.parametrize("fields", [{"path": "/c"}, {"place": "file 9:9"}])
def test_an_image_at_another_place_was_moved(fields: dict[str, object]) -> None:
    judgement = judge(KNOWN, IMAGE, found(**fields), Facts())
    assert (judgement.kind, judgement.current) == ("moved", True)


def test_a_copy_without_its_mark_is_recognised_by_time_and_content() -> None:
    assert kind(found(mark=None, place="file 9:9")) == "moved"


@pytest.mark.parametrize("unit", [100, 1000, 1_000_000, S, 2 * S])
def test_a_time_that_copying_has_cut_off_is_the_same_time(unit: int) -> None:
    assert kind(found(mtime_ns=T // unit * unit)) in CURRENT


def test_a_device_has_neither_mark_nor_time() -> None:
    device = IMAGE._replace(marked=False, mtime_ns=0)
    assert kind(found(mark=None, mtime_ns=0), recorded=device) == "same"
    assert kind(found(mark=None, mtime_ns=0, samples={0: 99}), recorded=device) == "changed"


def test_an_image_of_a_role_that_had_none_is_new() -> None:
    assert kind(found(mark=None), recorded=None) == "new"


def test_an_image_that_a_start_marked_before_it_died_is_new() -> None:
    assert kind(found(mark=mark("x")), recorded=None) == "new"


def test_a_sample_that_cannot_be_read_says_nothing() -> None:
    assert kind(found(samples={0: 11})) == "same"


# ------------------------------------------------------------------------------------ its content


def test_an_image_of_zeroes_was_emptied() -> None:
    judgement = judge(
        KNOWN, IMAGE, found(samples=dict.fromkeys((0, 4096, 8192), ZERO_CRC)), Facts()
    )
    assert judgement.kind == "emptied"
    assert judgement.why == (
        "/a: the image was emptied: 3 of 3 sampled blocks differ, first at byte 0"
    )


def test_one_sample_that_differs_is_enough() -> None:
    judgement = judge(KNOWN, IMAGE, found(samples={**dict(SAMPLES), 4096: 99}), Facts())
    assert judgement.kind == "changed"
    assert "1 of 3 sampled blocks differ, first at byte 4096" in judgement.why


def test_an_older_copy_is_named_so_if_its_time_says_it() -> None:
    judgement = judge(KNOWN, IMAGE, found(samples={0: 99}, mtime_ns=T - S), Facts())
    assert judgement.kind == "older"
    assert "modified at 2023-11-14T22:13:19.123456Z" in judgement.why


def test_what_the_journal_has_a_record_of_may_differ() -> None:
    changed = found(samples={**dict(SAMPLES), 4096: 99}, mtime_ns=T + S)
    facts = Facts("records", touched={4096}, last_ns=T + S)
    assert kind(changed, facts) == "same"
    assert kind(changed, facts._replace(touched={0})) == "changed"


def test_open_regions_are_uncertain_only_if_records_may_be_missing() -> None:
    changed = found(samples={**dict(SAMPLES), 4096: 99})
    assert kind(changed, Facts(uncertain={4096}, complete=False)) == "same"
    assert kind(changed, Facts(uncertain={4096}, complete=True)) == "changed"
    assert kind(changed, Facts(uncertain={0}, complete=False)) == "changed"


# --------------------------------------------------------------------------------------- its time


@pytest.mark.parametrize("later", [1, FAR_NS, -1, -FAR_NS])
def test_nobody_else_may_write_although_all_samples_match(later: int) -> None:
    assert kind(found(mtime_ns=T + later)) == ("changed" if later > 0 else "older")


@pytest.mark.parametrize(
    ("later", "last_there", "expected"),
    [
        (NEAR_NS, False, "same"),
        (NEAR_NS + 1, False, "changed"),  # the last batch was not applied: so who wrote?
        (FAR_NS, True, "same"),
        (FAR_NS + 1, True, "changed"),
    ],
)
def test_after_a_kill_the_last_record_bounds_the_time(
    later: int, last_there: bool, expected: str
) -> None:
    facts = Facts("records", last_ns=T + S)
    assert kind(found(mtime_ns=T + S + later, last_there=last_there), facts) == expected


@pytest.mark.parametrize(
    ("there", "before_last", "expected"),
    [
        (77, {4096: 77}, "same"),  # a write that hung at the kill left nothing but its time
        (12, {4096: 77}, "changed"),  # as at the checkpoint: it may be a copy from before
        (55, {4096: 77}, "changed"),
        (12, {4096: 12}, "changed"),  # it was the same before, and says nothing
        (ZERO_CRC, {4096: ZERO_CRC}, "changed"),  # a new, empty image has that, too
        (77, {1 << 20: 77}, "changed"),  # not sampled of this image
    ],
)
def test_a_change_before_the_last_batch_shows_that_an_image_is_no_older_copy(
    there: int, before_last: dict[int, int], expected: str
) -> None:
    facts = Facts("records", touched={4096}, last_ns=T + S, before_last=before_last)
    samples = {**dict(SAMPLES), 4096: there}
    late = found(mtime_ns=T + 20 * S, last_there=False, samples=samples)
    assert kind(late, facts) == expected


def test_a_clock_that_was_set_back_makes_no_older_copy() -> None:
    facts = Facts("records", last_ns=T - 50 * S, least_ns=T - 60 * S)
    assert kind(found(mtime_ns=T - 50 * S), facts) == "same"
    assert kind(found(mtime_ns=T - 61 * S), facts) == "older"
    assert kind(found(mtime_ns=T - 50 * S), facts._replace(writing="nothing")) == "older"


def test_if_records_may_be_missing_the_end_of_the_journal_bounds_the_time() -> None:
    facts = Facts("nothing", complete=False, end_ns=T + 50 * S)
    assert kind(found(mtime_ns=T + 50 * S + FAR_NS), facts) == "same"
    assert kind(found(mtime_ns=T + 50 * S + FAR_NS + 1), facts) == "changed"
    assert kind(found(mtime_ns=T - S), facts) == "older"


def test_a_copy_or_a_follower_may_have_written_at_any_later_time() -> None:
    assert kind(found(mtime_ns=T + 10 * FAR_NS), Facts("anything")) == "same"
    assert kind(found(mtime_ns=T - S), Facts("anything")) == "older"
    assert kind(found(mtime_ns=T + 10 * FAR_NS), recorded=IMAGE._replace(loose=True)) == "same"


def test_without_its_mark_an_image_needs_a_time_that_is_known() -> None:
    assert kind(found(mark=None), Facts("anything")) == "changed"
    assert kind(found(mark=None), recorded=IMAGE._replace(loose=True)) == "changed"
    assert kind(found(mark=None, mtime_ns=0)) == "changed"


def test_an_empty_image_made_at_once_after_the_daemon_died_is_not_the_one_that_was_there() -> None:
    """Its time may fit, and where the old one held zeroes its content does, too."""
    facts, empty = Facts("records", last_ns=T + S), ((0, ZERO_CRC), (4096, ZERO_CRC))
    new = found(mark=None, mtime_ns=T + S + 1, samples=dict(empty))
    assert kind(new, facts, IMAGE._replace(samples=empty)) == "changed"
    other = found(mark=None, mtime_ns=T + S + 1)
    assert kind(other, facts) == "same", "content that is not zeroes speaks for it"
    assert kind(other, facts._replace(touched=frozenset({0, 4096, 8192}))) == "changed"


# --------------------------------------------------------------------------------------- its mark


@pytest.mark.parametrize("recorded", [IMAGE, None])
def test_an_image_of_another_controller_is_foreign(recorded: Image | None) -> None:
    judgement = judge(KNOWN, recorded, found(mark=mark("x", "other")), Facts())
    assert judgement.kind == "foreign"
    assert "volume data of a controller 'alpha' whose state is not in this state directory" in (
        judgement.why
    )


@pytest.mark.parametrize("recorded", [IMAGE, None])
def test_an_image_of_a_later_start_shows_that_the_state_directory_is_older(
    recorded: Image | None,
) -> None:
    judgement = judge(KNOWN, recorded, found(mark=mark(generation=8)), Facts())
    assert judgement.kind == "newer"
    assert "start 8 of this controller, but the state directory ends at start 7" in judgement.why


def test_an_image_that_was_found_to_be_newer_stays_so_however_often_the_daemon_starts() -> None:
    left = away(IMAGE, Facts(), newer=True)
    judgement = judge(KNOWN._replace(starts=99), left, found(mark=mark(generation=8)), Facts())
    assert judgement.kind == "newer"
    assert judge(KNOWN, left, found(mark=None), Facts()).kind == "newer"


@pytest.mark.parametrize("recorded", [None, IMAGE])
def test_an_image_of_a_start_that_an_older_state_directory_lacked_is_newer(
    recorded: Image | None,
) -> None:
    """It has counted two starts of its own since, so the number alone says nothing any more."""
    known = KNOWN._replace(starts=9, ahead=OlderState(7, 8))
    unknown = mark("p" if recorded else "unknown", generation=8)
    assert judge(known, recorded, found(mark=unknown), Facts()).kind == "newer"
    later = IMAGE._replace(generation=8)
    assert judge(known, later, found(mark=mark(generation=8)), Facts()).current, "adopted since"
    assert judge(known, None, found(mark=mark("new", generation=9)), Facts()).kind == "new"


def test_the_latest_start_that_a_state_directory_lacks_is_that_of_an_image_of_its_own() -> None:
    assert latest_start(KNOWN, found(mark=mark(generation=8))) == 8
    assert latest_start(KNOWN, found(mark=mark(generation=7))) == 0
    assert latest_start(KNOWN, found(mark=mark(controller="theirs", generation=8))) == 0
    assert latest_start(KNOWN, None) == 0


def test_where_one_image_is_newer_than_the_state_the_other_is_not_called_current() -> None:
    primary, secondary = found(mark=mark(generation=8)), found(path=SECONDARY.path, mark=None)
    both = judge_pair("data", KNOWN, Side(IMAGE, primary), Side(SECONDARY, secondary))
    assert [judgement and judgement.kind for judgement in both] == ["newer", "newer"]


def test_an_image_of_an_earlier_start_is_an_older_copy() -> None:
    assert kind(found(mark=mark(generation=5))) == "older"
    assert kind(found(mark=mark(generation=6))) == "same"


@pytest.mark.parametrize("recorded", [IMAGE, None])
def test_an_image_that_has_another_role_is_foreign(recorded: Image | None) -> None:
    judgement = judge(KNOWN, recorded, found(mark=mark("w")), Facts())
    assert (judgement.kind, judgement.why) == (
        "foreign",
        "/a: this image is the primary of volume wal",
    )


@pytest.mark.parametrize("recorded", [IMAGE, None])
def test_an_image_whose_mark_cannot_be_read_is_foreign(recorded: Image | None) -> None:
    image = found(mark=UNREADABLE)
    judgement = judge(KNOWN, recorded, image, Facts())
    assert judgement.kind == "foreign"
    assert "not known whose image this is" in judgement.why
    assert is_of_others(KNOWN, "data", image)
    assert latest_start(KNOWN, image) == 0


def test_an_image_that_was_replaced_once_is_foreign() -> None:
    assert kind(found(mark=mark("x"))) == "foreign"


# --------------------------------------------------------------------------------------- of a pair


def of_secondary(**fields: Any) -> Found:
    as_it_was = Found("/b", "file 1:2", 1 << 20, T + 5, mark("s"), dict(SECONDARY.samples))
    return as_it_was._replace(**fields)


def pair(primary: Found | None, secondary: Found | None) -> list[str | None]:
    both = judge_pair("data", KNOWN, Side(IMAGE, primary), Side(SECONDARY, secondary))
    return [judgement and judgement.kind for judgement in both]


def test_each_image_is_judged_for_its_role() -> None:
    assert pair(found(), of_secondary()) == ["same", "same"]
    assert pair(found(samples={0: 99}), of_secondary()) == ["changed", "same"]
    assert pair(None, of_secondary()) == [None, "same"]


@pytest.mark.parametrize("marked", [True, False])
def test_images_at_each_others_path_are_exchanged(marked: bool) -> None:
    drop: dict[str, Any] = {} if marked else {"mark": None}
    assert pair(of_secondary(path="/a", **drop), found(path="/b", **drop)) == [
        "exchanged",
        "exchanged",
    ]


def test_an_image_at_the_others_path_is_exchanged_if_the_other_is_gone() -> None:
    assert pair(None, found(path="/b")) == [None, "exchanged"]


def test_images_that_are_exchanged_and_changed_are_not_taken() -> None:
    assert pair(of_secondary(path="/a"), found(path="/b", samples={0: 99})) == [
        "foreign",
        "foreign",
    ]


def test_a_copy_of_the_primary_is_not_its_secondary() -> None:
    assert pair(found(), found(path="/b", place="file 1:3")) == ["same", "foreign"]


# -------------------------------------------------------------------------------- an image is away


def test_an_image_that_is_away_may_have_what_was_written_until_then() -> None:
    facts = Facts("records", touched={4096}, last_ns=T + S)
    kept = away(IMAGE, facts)
    assert kept.offsets == [0, 8192]
    assert kind(found(mtime_ns=T + S), recorded=kept) == "same"
    assert kind(found(mtime_ns=T + S + FAR_NS + 1), recorded=kept) == "changed"


def test_an_image_that_is_away_was_written_at_any_time_if_that_is_not_known() -> None:
    assert away(IMAGE, Facts("anything")).loose


def test_a_device_of_which_no_sample_is_known_is_not_proven() -> None:
    device = IMAGE._replace(marked=False, mtime_ns=0)
    seen = found(mark=None, mtime_ns=0)
    assert judge(KNOWN, device, seen, Facts()).proven
    assert not judge(KNOWN, device._replace(samples=()), seen, Facts()).proven
    assert not judge(KNOWN, device, seen, Facts("records", touched=dict(SAMPLES))).proven


def test_a_device_that_nothing_is_known_of_changes_no_roles() -> None:
    """Else whatever lies at the path of the primary would become the secondary."""
    ours = IMAGE._replace(marked=False, mtime_ns=0)
    theirs = SECONDARY._replace(marked=False, mtime_ns=0, samples=())
    other = Found("/a", "device 7:9", 1 << 20, 0, None, {0: 99})
    primary = Found("/b", "device 7:1", 1 << 20, 0, None, dict(SAMPLES))
    judged = judge_pair("data", KNOWN, Side(ours, other), Side(theirs, primary))
    assert judged[0] is not None
    assert judged[0].kind == "changed"

"""Each kind of finding: what status has to say for it, and what does not make one."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from duplexd.core.findings import (
    ERROR,
    KINDS,
    NO_SERVICE_LOST,
    Around,
    Expected,
    ImageRoom,
    find,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from duplexd.json_object import Json

NOW = 1_000_000.0
GIB = 1 << 30
WELL: Json = {
    "controller": {"name": "alpha", "failed": None, "refused": None, "journal": {"waiting_s": 0.0}},
    "volumes": [
        {
            "name": "data",
            "state": "DUPLEX",
            "served": True,
            "error": "",
            "failing": {},
            "primary": {"path": "/a/data.img", "error": "", "repaired_bytes": 0},
            "secondary": {"path": "/b/data.img", "error": "", "usable": True, "cut": None},
            "copy": None,
            "consistent_cut_time": NOW - 3600,
            "last_drill": {
                "outcome": "passed",
                "exit_code": 0,
                "cut": "c6",
                "time": NOW - 3600,
                "passed_time": NOW - 3600,
            },
        }
    ],
    "cuts": [],
}
ROOMY = {"/a/data.img": ImageRoom(1, GIB, 2 * GIB), "/b/data.img": ImageRoom(2, GIB, 2 * GIB)}
AROUND = Around(ROOMY)
EXPECTED = Expected(
    suspended_s_max=8 * 3600, cut_age_s_max=26 * 3600, scrub_every_s=100, drill_age_s_max=3600
)


FAILED_DRILL = {
    "outcome": "failed",
    "exit_code": 3,
    "cut": "c7",
    "time": NOW - 5,
    "passed_time": NOW - 3600,
}


def data(status: Json) -> Json:
    volume: Json = status["volumes"][0]
    return volume


def kinds(status: Json, around: Around = AROUND, expected: Expected = EXPECTED) -> list[str]:
    return [finding.kind for finding in find(status, around, expected, NOW)]


def suspended(status: Json, age_s: float) -> None:
    data(status)["state"] = "SUSPENDED"
    data(status)["secondary"]["suspended_time"] = NOW - age_s


def copying(status: Json, usable: bool) -> None:
    data(status)["state"] = "PENDING"
    data(status)["secondary"]["usable"] = usable
    data(status)["copy"] = {"done_bytes": 25, "total_bytes": 100}


def in_doubt(status: Json, age_s: float) -> None:
    status["cuts"] = [{"id": "c8", "time": NOW - age_s, "group": "db"}]


def marked(status: Json, last: float | None) -> None:
    group = {"name": "db", "volumes": ["data"], "mark_every_s": 60.0, "last_mark_time": last}
    status["groups"] = [group, {"name": "plain", "volumes": ["data"]}]


# How a status becomes one with a finding of that kind
UNWELL: dict[str, Callable[[Json], Any]] = {
    "controller-failed": lambda it: it["controller"].update(failed="no sync"),
    "changes-refused": lambda it: it["controller"].update(refused="No space left on device"),
    "journal-silent": lambda it: it["controller"]["journal"].update(waiting_s=3.0),
    "changes-wait": lambda it: it["controller"]["journal"].update(no_room_s=3.0),
    "volume-not-served": lambda it: data(it).update(served=False, error="no good image"),
    "volume-not-grown": lambda it: data(it).update(not_grown="no room"),
    "requests-fail": lambda it: data(it).update(failing={"read": "Input/output error"}),
    "primary-error": lambda it: data(it)["primary"].update(error="moved"),
    "secondary-error": lambda it: data(it)["secondary"].update(error="Input/output error"),
    "legs-differ": lambda it: data(it).update(differs={"text": "the legs differ", "time": NOW}),
    "scrub-error": lambda it: data(it).update(scrub={"error": "a block cannot be read"}),
    "scrub-overdue": lambda it: data(it).update(scrub={"done_time": NOW - 201}),
    "primary-repaired": lambda it: data(it)["primary"].update(repaired_bytes=4096),
    "secondary-unusable": lambda it: copying(it, usable=False),
    "suspended-too-long": lambda it: suspended(it, 8 * 3600 + 1),
    "drill-failed": lambda it: data(it).update(last_drill=FAILED_DRILL),
    "drill-overdue": lambda it: data(it)["last_drill"].update(passed_time=NOW - 3601),
    "cut-too-old": lambda it: data(it).update(consistent_cut_time=NOW - 26 * 3600 - 1),
    "cut-in-doubt": lambda it: in_doubt(it, 61),
    "delay-shortened": lambda it: data(it)["secondary"].update(
        delay={"wanted_s": 1800.0, "back_s": 720.0, "shortened": True}
    ),
    "mark-too-old": lambda it: marked(it, NOW - 191),
}


def test_a_pair_that_mirrors_is_well() -> None:
    assert kinds(WELL) == []


@pytest.mark.parametrize("kind", UNWELL)
def test_each_fault_of_a_status_is_one_finding(kind: str) -> None:
    status = copy.deepcopy(WELL)
    UNWELL[kind](status)
    assert kinds(status) == [kind]


@pytest.mark.parametrize(
    ("kind", "around"),
    [
        (
            "one-file-system",
            Around(dict.fromkeys(ROOMY, ImageRoom(1, 0, GIB))),
        ),
        ("no-room", Around({**ROOMY, "/b/data.img": ImageRoom(2, 2 * GIB + 1, 2 * GIB)})),
        ("no-room", Around(ROOMY, state_free_bytes=4096)),
        ("disk-silent", Around(ROOMY, {"/b/data.img": "no answer"})),
        ("disk-silent", Around(ROOMY, state_silent="no answer")),
        ("state-misplaced", Around(ROOMY, state_misplaced=True)),
        ("socket-removed", Around(ROOMY, removed=["unix:/run/nbd.sock"])),
        ("not-compared", Around(ROOMY, differing={"data": "/b/data.img cannot be read"})),
    ],
)
def test_each_fault_of_the_disks_is_one_finding(kind: str, around: Around) -> None:
    assert kinds(WELL, around) == [kind]


def test_a_misplaced_state_is_an_error_that_no_restart_is_a_remedy_for() -> None:
    (found,) = find(WELL, Around(ROOMY, state_misplaced=True), Expected(), NOW)
    assert found.severity == ERROR
    assert found.kind in NO_SERVICE_LOST


def test_every_kind_is_tested_here() -> None:
    of_disks = {"one-file-system", "no-room", "disk-silent", "state-misplaced", "not-compared"}
    assert {*UNWELL, *of_disks, "socket-removed"} == set(KINDS)


@pytest.mark.parametrize(
    "change",
    [
        lambda it: suspended(it, 8 * 3600),
        lambda it: copying(it, usable=True),
        lambda it: in_doubt(it, 60),
        lambda it: it["controller"]["journal"].update(waiting_s=2.9),
        lambda it: data(it).update(state="SIMPLEX", secondary=None, consistent_cut_time=None),
        lambda it: data(it).update(state="SIMPLEX", secondary=None, last_drill=FAILED_DRILL),
        lambda it: data(it).update(scrub={"done_time": NOW - 200}),
        lambda it: data(it).update(scrub={"done_time": None, "began_time": None}),
        lambda it: data(it).update(scrub={"done_time": NOW - 9999, "wanted_time": NOW - 200}),
        lambda it: data(it).update(scrub={"done_time": NOW - 200, "wanted_time": NOW - 9999}),
        lambda it: it["controller"]["journal"].update(no_room_s=2.9),
    ],
    ids=[
        "suspended",
        "resync",
        "voting",
        "slow journal",
        "simplex",
        "simplex since a drill failed",
        "scrub in time",
        "never scrubbed",
        "scrubs were just turned on",
        "the pair was made later",
        "the journal is short of room for a moment",
    ],
)
def test_what_passes_or_is_wanted_is_no_finding(change: Callable[[Json], Any]) -> None:
    status = copy.deepcopy(WELL)
    change(status)
    assert kinds(status) == []


@pytest.mark.parametrize("last", [None, FAILED_DRILL | {"passed_time": None}])
def test_a_pair_of_which_no_drill_has_passed_is_overdue(last: Json | None) -> None:
    status = copy.deepcopy(WELL)
    data(status)["last_drill"] = last
    assert "drill-overdue" in kinds(status)
    assert "drill-overdue" not in kinds(status, expected=Expected())


def test_a_drill_that_failed_is_said_although_no_age_is_expected() -> None:
    status = copy.deepcopy(WELL)
    data(status)["last_drill"] = FAILED_DRILL
    (finding,) = find(status, AROUND, Expected(), NOW)
    assert finding.kind == "drill-failed"
    assert finding.text == "the last drill failed: exit code 3, at cut c7"


def test_a_pair_that_was_never_scrubbed_becomes_overdue() -> None:
    status = copy.deepcopy(WELL)
    data(status)["scrub"] = {"done_time": None, "began_time": None, "wanted_time": NOW - 201}
    assert kinds(status) == ["scrub-overdue"]


def test_a_pair_that_is_being_copied_for_the_first_time_is_not_overdue() -> None:
    """Scrubs were wanted long before it was added."""
    status = copy.deepcopy(WELL)
    copying(status, usable=False)
    data(status)["scrub"] = {"done_time": None, "began_time": None, "wanted_time": NOW - 9999}
    assert kinds(status) == ["secondary-unusable"]


def test_changes_that_wait_for_journal_room_name_the_volumes_that_need_it() -> None:
    status = copy.deepcopy(WELL)
    status["controller"]["journal"].update(no_room_s=7.2, needed_by=["data"])
    (finding,) = find(status, AROUND, EXPECTED, NOW)
    assert finding.text == (
        "waits: changes have waited 7 s for journal room that the secondary of data needs"
    )


def test_a_volume_that_was_never_cut_is_not_within_the_age() -> None:
    status = copy.deepcopy(WELL)
    data(status)["consistent_cut_time"] = None
    assert kinds(status) == ["cut-too-old"]
    assert kinds(status, expected=Expected()) == []


def test_images_of_one_file_system_share_its_room() -> None:
    images = {f"/a/{name}.img": ImageRoom(1, GIB, 3 * GIB // 2) for name in ("x", "y")}
    (finding,) = find(WELL, Around(images), EXPECTED, NOW)
    assert finding.text == (
        "/a/x.img and 1 more image may grow by 2.0 GiB, but their file system has 1.5 GiB free"
    )


def test_a_file_system_that_does_not_say_what_is_free_is_not_full() -> None:
    silent = ImageRoom(2, 3 * GIB, None)
    assert kinds(WELL, Around({**ROOMY, "/b/data.img": silent})) == []


def test_block_devices_have_their_room_and_are_not_one_file_system() -> None:
    assert kinds(WELL, Around(dict.fromkeys(ROOMY, ImageRoom(0, 0, 0)))) == []


def test_errors_come_first_and_a_reason_is_said_once() -> None:
    status = copy.deepcopy(WELL)
    data(status)["primary"]["error"] = "/a/data.img: gone"
    data(status)["secondary"]["error"] = "/b/data.img: full"
    data(status).update(served=False, error="/a/data.img: gone")
    assert kinds(status) == ["volume-not-served", "secondary-error"]


@pytest.mark.parametrize(("last", "expected"), [(NOW, 0), (NOW - 190, 0), (None, 1)])
def test_a_group_is_marked_in_time_or_not_yet(last: float | None, expected: int) -> None:
    status = copy.deepcopy(WELL)
    marked(status, last)
    assert kinds(status) == ["mark-too-old"] * expected

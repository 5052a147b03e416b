"""What the journals and checkpoints of the members say of the cut itself: void, ready, of which
group.
"""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from duplexd.verify_cut.report import ABSENT, CONFIRMED, DROPPED, FOUND, REFUTED, UNCHECKED
from duplexd.verify_cut.segments import RecycledError
from duplexd.verify_cut.walk import Walk
from tests.unit.verify_cut.world import BLOCK, CUT, World, fill, only, poke, remembered, verify

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.verify_cut.report import Report


VOID, AGREED = {"m": "void", "cut": CUT}, {"m": "agreed", "cut": CUT}
FAIL = {
    "m": "fail",
    "id": "e" * 16,
    "at": 3,
    "volumes": [1],
    "unusable": [1],
    "failed": [1],
    "error": "",
    "missed": {},
}
RESYNC = {"m": "resync", "job": "1", "how": "journal", "volumes": [1]}


# Void


def test_a_void_marker_anywhere_after_the_cut(tmp_path: Path, world: World) -> None:
    world.mark({"m": "void", "cut": "f" * 16})
    assert verify(tmp_path, world).outcome == CONFIRMED, "another cut's"
    world.mark({"m": "void", "cut": CUT})
    report = verify(tmp_path, world)
    assert (report.outcome, report.is_void) == (REFUTED, True)


def test_a_secondary_that_failed_before_it_was_durable_at_the_cut_makes_it_void(
    tmp_path: Path, world: World
) -> None:
    world.mark(FAIL)
    assert verify(tmp_path, world).is_void


def test_images_that_were_found_to_differ_at_the_cut_make_it_void(
    tmp_path: Path, world: World
) -> None:
    world.mark({"m": "stood", "cut": CUT})
    world.mark({"m": "differ", "id": 1, "runs": [[0, 4096]]})
    assert verify(tmp_path, world).is_void


def test_a_difference_found_after_a_resync_says_nothing_of_the_cut(
    tmp_path: Path, world: World
) -> None:
    world.mark({"m": "stood", "cut": CUT})
    world.mark(RESYNC)
    world.mark({"m": "differ", "id": 1, "runs": [[0, 4096]]})
    assert not verify(tmp_path, world).is_void


def test_a_secondary_that_failed_later_has_left_a_cut_that_is_not_void(
    tmp_path: Path, world: World
) -> None:
    world.mark({"m": "stood", "cut": CUT})
    world.mark(FAIL)
    assert not verify(tmp_path, world).is_void


@pytest.fixture
def pair_of_worlds(tmp_path: Path) -> tuple[World, World]:
    """Two controllers that were cut together; then the first one needs the space: its journal will
    drop the cut.
    """
    alpha, beta = World(tmp_path, "alpha"), World(tmp_path, "beta")
    for each in (alpha, beta):
        each.cut(["alpha", "beta"])
    for number in range(40):
        alpha.write(number * BLOCK, fill(number + 1))
    return alpha, beta


def records_and_void(report: Report) -> list[tuple[str, bool]]:
    return [(member.record, bool(member.void)) for member in report.controllers]


def test_a_void_marker_counts_where_the_cut_itself_was_dropped(
    tmp_path: Path, pair_of_worlds: tuple[World, World]
) -> None:
    alpha, beta = pair_of_worlds
    alpha.mark(VOID)
    alpha.drop_oldest()
    report = verify(tmp_path, alpha, beta)
    assert (report.outcome, report.is_void) == (REFUTED, True)
    assert records_and_void(report) == [(DROPPED, True), (FOUND, False)]


@pytest.mark.parametrize("version", [1, 2])
def test_a_void_marker_that_was_dropped_itself_is_in_the_checkpoint(
    tmp_path: Path, pair_of_worlds: tuple[World, World], version: int
) -> None:
    alpha, beta = pair_of_worlds
    alpha.drop_oldest()
    for markers, void in ((AGREED, {**VOID, "cut": "f" * 16}), False), ((VOID,), True):
        ledger = remembered(*markers)
        if version == 1:
            del ledger["cuts"]  # it had those that secondaries were at
        alpha.save_checkpoint(ledger=ledger)
        report = verify(tmp_path, alpha, beta)
        assert (report.outcome, report.is_void) == (REFUTED if void else CONFIRMED, void)
        assert records_and_void(report) == [(DROPPED, void), (FOUND, False)]


@pytest.mark.parametrize("since", [(AGREED,), (AGREED, RESYNC)])
def test_a_secondary_that_failed_later_at_a_cut_that_was_dropped_makes_it_not_void(
    tmp_path: Path,
    pair_of_worlds: tuple[World, World],
    since: tuple[dict[str, object], ...],
) -> None:
    alpha, beta = pair_of_worlds
    alpha.drop_oldest()
    alpha.save_checkpoint(ledger=remembered(*since))
    assert verify(tmp_path, alpha, beta).outcome == CONFIRMED
    alpha.mark(FAIL)
    assert records_and_void(verify(tmp_path, alpha, beta)) == [(DROPPED, False), (FOUND, False)]


def test_a_void_marker_counts_where_nothing_else_can_be_read(
    tmp_path: Path, pair_of_worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = pair_of_worlds
    alpha.mark(VOID)
    for trouble in (OSError(errno.EIO, "Input/output error"), RecycledError()):
        with monkeypatch.context() as patch:
            patch.setattr(
                Walk,
                "durable_beyond",
                lambda walk, trouble=trouble: raise_for(walk, alpha, trouble),
            )
            report = verify(tmp_path, alpha, beta)
        assert (report.outcome, records_and_void(report)) == (
            REFUTED,
            [(ABSENT, True), (FOUND, False)],
        )
        assert report.controllers[0].unchecked


def raise_for(walk: Walk, world: World, trouble: Exception) -> None:
    if walk.directory == world.state_dir / "journal":
        raise trouble


def test_a_certificate_that_says_void(tmp_path: Path, world: World) -> None:
    assert verify(tmp_path, world, verdict="void").is_void


def test_a_cut_that_a_failing_secondary_made_is_confirmed_at_its_place(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.sequence = world.write(0, fill(1))
    world.mirrors["data"] = False
    world.write(0, fill(2))
    world.mark(
        {
            "m": "fail",
            "id": CUT,
            "at": world.sequence,
            "volumes": [1],
            "unusable": [],
            "failed": [1],
            "error": "",
            "missed": {},
        }
    )
    member = world.member()
    member["journal"] |= {"crc": None, "chain": None}
    report = verify(tmp_path, world, controllers=[member], tag="")
    assert (report.outcome, only(report).volumes[0].unchecked_bytes) == (CONFIRMED, 0)
    assert not report.complete, "nothing pins the record"
    poke(world.secondary, 0, fill(2))
    assert verify(tmp_path, world, controllers=[member], tag="").outcome == REFUTED


# Groups


def test_a_groups_cut_on_two_controllers(tmp_path: Path) -> None:
    worlds = [World(tmp_path, name) for name in ("alpha", "beta")]
    for world in worlds:
        world.cut(["alpha", "beta"])
    report = verify(tmp_path, *worlds)
    assert (
        report.outcome,
        report.complete,
        [(member.ready, member.agreed) for member in report.controllers],
    ) == (
        CONFIRMED,
        True,
        [(True, False), (True, False)],
    )
    worlds[0].mark({"m": "agreed", "cut": CUT})
    assert verify(tmp_path, *worlds).controllers[0].agreed


def test_one_controller_of_two_that_is_not_here(tmp_path: Path) -> None:
    worlds = [World(tmp_path, name) for name in ("alpha", "beta")]
    for world in worlds:
        world.cut(["alpha", "beta"])
    shutil.rmtree(worlds[1].directory)
    report = verify(tmp_path, *worlds)
    assert (report.outcome, report.complete, report.controllers[1].record) == (
        CONFIRMED,
        False,
        "absent",
    )
    assert "no journal found" in report.controllers[1].unchecked[0]
    shutil.rmtree(worlds[0].directory)
    assert verify(tmp_path, *worlds).outcome == UNCHECKED


@pytest.mark.parametrize(
    ("members", "group", "says"),
    [
        (["alpha", "gamma"], "db", "cuts alpha, gamma together"),
        (None, "", "cuts this controller alone"),
        (["alpha", "beta"], "erp", "cuts group 'erp'"),
    ],
)
def test_members_or_group_other_than_the_certificates(
    tmp_path: Path, members: list[str] | None, group: str, says: str
) -> None:
    worlds = [World(tmp_path, name) for name in ("alpha", "beta")]
    worlds[0].cut(members, group)
    worlds[1].cut(["alpha", "beta"])
    report = verify(tmp_path, *worlds)
    assert (report.outcome, says in report.controllers[0].contradictions[0]) == (REFUTED, True)


def test_a_member_that_never_was_ready(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cut(["alpha"], ready=False)
    assert "no READY marker" in only(verify(tmp_path, world)).contradictions[0]

"""A cut whose journal and images are as its certificate says; and each way in which they can be otherwise."""

from __future__ import annotations

import errno
import shutil
from typing import TYPE_CHECKING

import pytest

from duplexd.journal.format import SEGMENT_HEADER_BYTES, crc32c, pack_record, unpack_record
from duplexd.limits import PROOF_PLACES_MAX
from duplexd.proof import document, past
from duplexd.proof.check import check
from duplexd.proof.image import Image
from duplexd.proof.report import ABSENT, CONFIRMED, CONTRADICTED, DROPPED, FOUND, REFUTED, UNCHECKED
from duplexd.proof.segments import RecycledError
from duplexd.proof.walk import Walk
from tests.unit.proof.world import BLOCK, CUT, SIZE, World, certificate, fill, flip, only, poke, remembered, save, verify

if TYPE_CHECKING:
    from pathlib import Path

    from duplexd.proof.report import Report


VOID, AGREED = {"m": "void", "cut": CUT}, {"m": "agreed", "cut": CUT}
FAIL = {"m": "fail", "id": "e" * 16, "at": 3, "volumes": [1], "unusable": [1], "failed": [1], "error": "", "missed": {}}
RESYNC = {"m": "resync", "job": "1", "how": "journal", "volumes": [1]}


@pytest.fixture
def world(tmp_path: Path) -> World:
    """Content from before the journal begins, changes before the cut, the cut, changes after it."""
    world = World(tmp_path)
    for leg in (world.primary, world.secondary):
        poke(leg, 40 * BLOCK, fill(9))  # as old as that
        poke(leg, 50 * BLOCK, fill(9))
    world.write(0, fill(1))
    world.write(BLOCK, fill(2, 3 * BLOCK))
    world.write(2 * BLOCK + 100, fill(3, 200))
    world.zero(3 * BLOCK, BLOCK)
    world.write(8 * BLOCK, fill(4))
    world.zero(8 * BLOCK, BLOCK, trim=True)
    world.cut()
    world.write(0, fill(5))
    world.write(50 * BLOCK, fill(5))
    return world


def test_a_cut_as_certified_is_confirmed(tmp_path: Path, world: World) -> None:
    report = verify(tmp_path, world)
    member, (row,) = only(report), only(report).volumes
    assert (report.outcome, member.record, member.contradictions, row.unchecked_bytes) == (CONFIRMED, FOUND, [], BLOCK)
    assert row.by_journal_bytes == 4 * BLOCK
    assert row.by_primary_bytes == SIZE - 2 * BLOCK
    assert row.checked_bytes == SIZE - BLOCK, "block 0 is known from the journal, block 50 from nothing"
    assert row.stands
    assert "changed since" in row.unchecked[0]
    assert not report.complete


def test_without_later_changes_every_byte_is_checked(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.write(0, fill(1))
    world.cut()
    report = verify(tmp_path, world)
    assert (report.outcome, report.complete, only(report).volumes[0].unchecked) == (CONFIRMED, True, [])


@pytest.mark.parametrize(
    "place", [0, BLOCK - 1, 2 * BLOCK + 100, 2 * BLOCK + 300, 3 * BLOCK + 5, 8 * BLOCK, 40 * BLOCK, 41 * BLOCK, SIZE - 1]
)
def test_a_byte_that_changed_on_the_secondary_is_found(tmp_path: Path, world: World, place: int) -> None:
    flip(world.secondary, place)
    report = verify(tmp_path, world)
    assert (report.outcome, report.is_void, only(report).record) == (REFUTED, False, FOUND)
    assert f"{world.secondary}: byte {place} " in only(report).contradictions[0]


def test_a_change_from_after_the_cut_on_the_secondary_is_found_where_the_journal_has_older_ones(tmp_path: Path, world: World) -> None:
    poke(world.secondary, 0, fill(5))
    assert "record 2 wrote something else" in only(verify(tmp_path, world)).contradictions[0]


def test_a_change_from_after_the_cut_on_a_secondary_that_was_blank_is_found(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.attach()
    world.cut()
    world.write(7 * BLOCK, fill(5))
    assert verify(tmp_path, world).complete, "what was never written is known to be zero"
    poke(world.secondary, 7 * BLOCK, fill(5))
    assert "nothing was ever written there" in only(verify(tmp_path, world)).contradictions[0]


def test_a_change_that_went_to_the_secondary_only_is_found(tmp_path: Path, world: World) -> None:
    poke(world.secondary, 100 * BLOCK, fill(6))
    assert "the primary holds something else" in only(verify(tmp_path, world)).contradictions[0]


def test_all_places_that_are_wrong_are_told_and_the_rest_is_checked_all_the_same(tmp_path: Path, world: World) -> None:
    poke(world.secondary, BLOCK + 10, bytes([255]) * 90)  # by the journal
    poke(world.secondary, 3 * BLOCK + 7, b"\1")
    poke(world.secondary, 7 * BLOCK + 100, b"\1" * 2 * BLOCK)  # by the primary; over a range that was trimmed
    report = verify(tmp_path, world)
    (row,) = only(report).volumes
    assert [text.removeprefix(f"{world.secondary}: ").partition(" not as ")[0] for text in only(report).contradictions] == [
        f"bytes {BLOCK + 10} to {BLOCK + 99} are", f"byte {3 * BLOCK + 7} is", f"bytes {7 * BLOCK + 100} to {9 * BLOCK + 99} are",
    ]  # fmt: skip
    assert ["record 3 wrote" in only(report).contradictions[0], "record 5 made it zero" in only(report).contradictions[1]] == [True, True]
    assert (row.wrong_bytes, row.by_journal_bytes, row.unchecked_bytes) == (91 + 2 * BLOCK, 4 * BLOCK - 91, BLOCK)
    assert row.checked_bytes == SIZE - BLOCK - row.wrong_bytes


def test_of_many_wrong_places_the_first_are_told_and_the_rest_is_counted(tmp_path: Path, world: World) -> None:
    for number in range(100):
        flip(world.secondary, (100 + number) * BLOCK)
    contradictions = only(verify(tmp_path, world)).contradictions
    assert len(contradictions) == PROOF_PLACES_MAX + 1
    assert [f"byte {(100 + number) * BLOCK} " in contradictions[number] for number in range(PROOF_PLACES_MAX)] == [True] * PROOF_PLACES_MAX
    assert contradictions[-1] == f"{world.secondary}: the same in {100 - PROOF_PLACES_MAX} more places; 100 bytes in all"


def test_a_volume_that_is_wrong_everywhere_is_one_place(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duplexd.proof.contents.PROOF_CHUNK_BYTES", 3 * BLOCK)
    poke(world.secondary, 60 * BLOCK, fill(1, SIZE - 60 * BLOCK))
    (text,) = only(verify(tmp_path, world)).contradictions
    assert f"bytes {60 * BLOCK} to {SIZE - 1} are not as they were at the cut" in text


def test_a_volume_that_is_wrong_in_more_places_than_the_limit_is_not_looked_at_to_its_end(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(SIZE // BLOCK):
        flip(world.secondary, number * BLOCK)
    monkeypatch.setattr("duplexd.proof.volumes.PROOF_RANGES_MAX", 20)
    monkeypatch.setattr("duplexd.proof.contents.PROOF_CHUNK_BYTES", 8 * BLOCK)
    report = verify(tmp_path, world)
    (row,) = only(report).volumes
    assert (report.outcome, 20 < row.wrong_bytes < 40, row.unchecked) == (
        REFUTED, True, ["this volume is wrong in so many places that its check stopped"],
    )  # fmt: skip
    assert row.checked_bytes < SIZE // 2


def test_what_is_wrong_counts_where_the_rest_of_the_secondary_cannot_be_read(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Image.read

    def read(image: Image, start: int, end: int) -> bytes:
        if image.path == str(world.secondary) and start < BLOCK:
            raise OSError(errno.EIO, "Input/output error", image.path)
        return whole(image, start, end)

    monkeypatch.setattr(Image, "read", read)
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].unchecked) == (CONFIRMED, [f"{world.secondary}: Input/output error"])
    flip(world.secondary, 2 * BLOCK + 100)
    assert verify(tmp_path, world).outcome == REFUTED


def test_a_secondary_of_another_size(tmp_path: Path, world: World) -> None:
    with world.secondary.open("r+b") as file:
        file.truncate(SIZE - BLOCK)
    assert f"has {SIZE - BLOCK} bytes" in only(verify(tmp_path, world)).contradictions[0]


# The journal


@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_a_byte_that_changed_in_the_journal_is_found_before_and_after_the_cut(tmp_path: Path, world: World, part: float) -> None:
    segment = world.ring.live[0]
    end = segment.end
    world.write(0, fill(6))
    flip(tmp_path / segment.file.path, 4096 + int((end - 4096) * part))
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).record) == (REFUTED, CONTRADICTED)
    assert "missing or damaged" in only(report).contradictions[0]


def test_a_record_that_was_put_in_the_place_of_another_breaks_the_chain(tmp_path: Path, world: World) -> None:
    path = tmp_path / world.ring.live[0].file.path
    data = path.read_bytes()
    first = unpack_record(data, SEGMENT_HEADER_BYTES)
    assert first is not None
    old = unpack_record(data, first.end)
    assert old is not None
    payload = fill(8)
    header, _ = pack_record(
        old.chain, crc32c(payload), old.sequence, old.synced, old.offset, old.length, old.time_us, old.volume, len(payload), old.kind, old.flags,
        old.journal,
    )  # fmt: skip
    poke(path, old.start, header + payload)
    for leg in (world.primary, world.secondary):
        poke(leg, old.offset, payload)  # all else would agree
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0]


def test_a_lost_end_that_was_known_to_be_durable_is_found(tmp_path: Path, world: World) -> None:
    world.save_checkpoint(past.boot_id())
    flip(tmp_path / world.ring.live[0].file.path, world.ring.live[0].end - 1)
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0]


def test_a_journal_that_ends_before_the_cut(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cut()
    flip(tmp_path / world.ring.live[0].file.path, world.ring.live[0].end - 1)
    assert "ends at record 1, before the cut (2)" in only(verify(tmp_path, world)).contradictions[0]


def test_a_torn_tail_from_before_the_machine_was_started_is_no_damage(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.mark({"m": "open", "boot": "another", "version": 1})
    world.cut()
    torn = world.ring.live[0].end
    world.write(0, fill(1))
    world.write(0, fill(2))
    flip(tmp_path / world.ring.live[0].file.path, torn + 200)
    assert verify(tmp_path, world).outcome == CONFIRMED
    world.writer.synced = world.writer.sequence
    world.write(0, fill(3))
    assert "missing or damaged" in only(verify(tmp_path, world)).contradictions[0], "a later record says that it was durable"


def test_a_segment_that_is_missing_in_between(tmp_path: Path, world: World) -> None:
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    (tmp_path / world.ring.live[1].file.path).unlink()
    assert "segment 2, with the records after number" in only(verify(tmp_path, world)).contradictions[0]


def test_a_damaged_segment_header(tmp_path: Path, world: World) -> None:
    flip(tmp_path / world.ring.live[0].file.path, 20)
    assert "header is damaged" in only(verify(tmp_path, world)).contradictions[0]


@pytest.mark.parametrize("damage", ["header", "record", "all"])
def test_a_cut_that_the_checkpoint_knows_to_be_void_is_void_where_the_journal_is_damaged(tmp_path: Path, damage: str) -> None:
    world = World(tmp_path)
    world.cut(["alpha", "beta"])
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    world.save_checkpoint(past.boot_id(), ledger=remembered(VOID))
    path = tmp_path / world.ring.live[0].file.path
    if damage == "all":
        poke(path, 0, b"x" * SEGMENT_HEADER_BYTES * 2)
    else:
        flip(path, 20 if damage == "header" else SEGMENT_HEADER_BYTES + 100)
    report = verify(tmp_path, world)
    assert (report.outcome, report.is_void, only(report).record) == (REFUTED, True, CONTRADICTED)
    assert only(report).contradictions, "the damage is told, too"


def test_the_checkpoint_of_another_controller_makes_nothing_void(tmp_path: Path, world: World) -> None:
    world.save_checkpoint(past.boot_id(), ledger={**remembered(VOID), "controller": "ab" * 16})
    assert verify(tmp_path, world).outcome == CONFIRMED


def test_a_journal_that_dropped_the_cut_says_nothing(tmp_path: Path, world: World) -> None:
    for number in range(40):
        world.write(number * BLOCK, fill(number))
    world.drop_oldest()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).record, only(report).volumes) == (UNCHECKED, DROPPED, [])
    assert "was dropped" in only(report).unchecked[0]


def test_a_cut_in_the_middle_of_many_segments(tmp_path: Path) -> None:
    world = World(tmp_path, segments=20)
    for number in range(200):
        world.write(number % 60 * BLOCK, fill(number))
        if number == 100:
            world.cut()
    world.drop_oldest()
    world.save_checkpoint(past.boot_id())
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].unchecked_bytes) == (CONFIRMED, 0)
    flip(world.secondary, 59 * BLOCK)
    assert verify(tmp_path, world).outcome == REFUTED


def test_the_journal_of_another_controller(tmp_path: Path, world: World) -> None:
    other = World(tmp_path, "beta")
    other.cut()
    good = document.read(save(tmp_path, certificate(world.member())))
    report = check(good, {"alpha": str(other.state_dir)}, {})
    assert (report.outcome, "journal of another controller" in only(report).contradictions[0]) == (REFUTED, True)
    member = world.member()
    member["journal"] |= {"directory": str(other.state_dir)}  # as of two machines on which they have the same path
    report = verify(tmp_path, world, controllers=[member])
    assert (report.outcome, "say with --state-dir" in only(report).unchecked[0]) == (UNCHECKED, True)


def test_with_a_journal_from_elsewhere_the_paths_of_this_machine_say_nothing(tmp_path: Path, world: World) -> None:
    good, moved, backup = document.read(save(tmp_path, certificate(world.member()))), tmp_path / "moved", tmp_path / "backup.img"
    shutil.move(world.state_dir, moved)
    shutil.copyfile(world.secondary, backup)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(77, SIZE))  # another controller's
    report = check(good, {"alpha": str(moved)}, {})
    row = only(report).volumes[0]
    assert (report.outcome, row.checked_bytes, "--image" in row.unchecked[0]) == (CONFIRMED, 0, True)
    images = {("alpha", "data"): str(backup)}
    report = check(good, {"alpha": str(moved)}, images)
    assert (report.outcome, only(report).volumes[0].checked_bytes) == (CONFIRMED, 4 * BLOCK)
    flip(backup, 0)
    assert check(good, {"alpha": str(moved)}, images).outcome == REFUTED


@pytest.mark.parametrize("field", ["crc", "chain"])
def test_another_check_sum_than_the_certificate_has(tmp_path: Path, world: World, field: str) -> None:
    member = world.member()
    member["journal"][field] ^= 1
    assert "check-sum" in only(verify(tmp_path, world, controllers=[member])).contradictions[0]


def test_another_record_than_the_cut(tmp_path: Path, world: World) -> None:
    assert "does not make cut" in only(verify(tmp_path, world, cut="f" * 16)).contradictions[0]
    moved = world.member(sequence=world.sequence - 1)
    assert only(verify(tmp_path, world, controllers=[moved])).record == CONTRADICTED


def test_a_volume_that_the_cut_does_not_have(tmp_path: Path, world: World) -> None:
    member = world.member()
    member["volumes"].append(member["volumes"][0] | {"id": 2, "name": "wal"})
    assert "does not cut wal" in only(verify(tmp_path, world, controllers=[member])).contradictions[0]


# Void


def test_a_void_marker_anywhere_after_the_cut(tmp_path: Path, world: World) -> None:
    world.mark({"m": "void", "cut": "f" * 16})
    assert verify(tmp_path, world).outcome == CONFIRMED, "another cut's"
    world.mark({"m": "void", "cut": CUT})
    report = verify(tmp_path, world)
    assert (report.outcome, report.is_void) == (REFUTED, True)


def test_a_secondary_that_failed_at_the_cut_makes_it_void(tmp_path: Path, world: World) -> None:
    world.mark(FAIL)
    assert verify(tmp_path, world).is_void


@pytest.fixture
def pair_of_worlds(tmp_path: Path) -> tuple[World, World]:
    """Two controllers that were cut together; then the first one needs the space: its journal will drop the cut."""
    alpha, beta = World(tmp_path, "alpha"), World(tmp_path, "beta")
    for each in (alpha, beta):
        each.cut(["alpha", "beta"])
    for number in range(40):
        alpha.write(number * BLOCK, fill(number + 1))
    return alpha, beta


def records_and_void(report: Report) -> list[tuple[str, bool]]:
    return [(member.record, bool(member.void)) for member in report.controllers]


def test_a_void_marker_counts_where_the_cut_itself_was_dropped(tmp_path: Path, pair_of_worlds: tuple[World, World]) -> None:
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
            del ledger["cuts"]  # it had those that secondaries stood at
        alpha.save_checkpoint(past.boot_id(), ledger=ledger)
        report = verify(tmp_path, alpha, beta)
        assert (report.outcome, report.is_void) == (REFUTED if void else CONFIRMED, void)
        assert records_and_void(report) == [(DROPPED, void), (FOUND, False)]


@pytest.mark.parametrize(("since", "void"), [((AGREED,), True), ((AGREED, RESYNC), False)])
def test_a_secondary_that_failed_at_a_cut_that_was_dropped(
    tmp_path: Path, pair_of_worlds: tuple[World, World], since: tuple[dict[str, object], ...], void: bool
) -> None:
    alpha, beta = pair_of_worlds
    alpha.drop_oldest()
    alpha.save_checkpoint(past.boot_id(), ledger=remembered(*since))
    assert verify(tmp_path, alpha, beta).outcome == CONFIRMED
    alpha.mark(FAIL)
    assert records_and_void(verify(tmp_path, alpha, beta)) == [(DROPPED, void), (FOUND, False)]


def test_a_void_marker_counts_where_nothing_else_can_be_read(
    tmp_path: Path, pair_of_worlds: tuple[World, World], monkeypatch: pytest.MonkeyPatch
) -> None:
    alpha, beta = pair_of_worlds
    alpha.mark(VOID)
    for trouble in (OSError(errno.EIO, "Input/output error"), RecycledError()):
        with monkeypatch.context() as patch:
            patch.setattr(Walk, "durable_beyond", lambda walk, trouble=trouble: raise_for(walk, alpha, trouble))
            report = verify(tmp_path, alpha, beta)
        assert (report.outcome, records_and_void(report)) == (REFUTED, [(ABSENT, True), (FOUND, False)])
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
    world.mark({"m": "fail", "id": CUT, "at": world.sequence, "volumes": [1], "unusable": [], "failed": [1], "error": "", "missed": {}})
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
    assert (report.outcome, report.complete, [(member.ready, member.agreed) for member in report.controllers]) == (
        CONFIRMED, True, [(True, False), (True, False)],
    )  # fmt: skip
    worlds[0].mark({"m": "agreed", "cut": CUT})
    assert verify(tmp_path, *worlds).controllers[0].agreed


def test_one_controller_of_two_that_is_not_here(tmp_path: Path) -> None:
    worlds = [World(tmp_path, name) for name in ("alpha", "beta")]
    for world in worlds:
        world.cut(["alpha", "beta"])
    shutil.rmtree(worlds[1].directory)
    report = verify(tmp_path, *worlds)
    assert (report.outcome, report.complete, report.controllers[1].record) == (CONFIRMED, False, "absent")
    assert "no journal is there" in report.controllers[1].unchecked[0]
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
def test_members_or_group_other_than_the_certificates(tmp_path: Path, members: list[str] | None, group: str, says: str) -> None:
    worlds = [World(tmp_path, name) for name in ("alpha", "beta")]
    worlds[0].cut(members, group)
    worlds[1].cut(["alpha", "beta"])
    report = verify(tmp_path, *worlds)
    assert (report.outcome, says in report.controllers[0].contradictions[0]) == (REFUTED, True)


def test_a_member_that_never_was_ready(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cut(["alpha"], ready=False)
    assert "ever stood at the cut" in only(verify(tmp_path, world)).contradictions[0]


# What can't be checked


@pytest.mark.parametrize(
    "marker", [{"m": "resync", "job": "j", "how": "journal", "volumes": [1]}, {"m": "detach", "volumes": [1]}, {"m": "remove", "id": 1}]
)
def test_a_secondary_that_moved_on_is_not_looked_at(tmp_path: Path, world: World, marker: dict[str, object]) -> None:
    world.mark(marker)
    poke(world.secondary, 0, fill(5))
    report = verify(tmp_path, world)
    row = only(report).volumes[0]
    assert (report.outcome, row.stands, row.checked_bytes, len(row.unchecked)) == (CONFIRMED, False, 0, 1)
    assert not report.complete


def test_a_resync_by_map_leaves_the_secondary_alone_until_its_commit(tmp_path: Path, world: World) -> None:
    world.mark({"m": "resync", "job": "j", "how": "map", "volumes": [1]})
    assert only(verify(tmp_path, world)).volumes[0].stands
    world.mark({"m": "abandon", "job": "j", "volumes": [1]})
    assert only(verify(tmp_path, world)).volumes[0].stands
    world.mark({"m": "resync", "job": "j", "how": "map", "volumes": [1]})
    world.mark({"m": "commit", "job": "j", "at": 3, "count": 1, "volumes": [1]})
    assert not only(verify(tmp_path, world)).volumes[0].stands


def test_a_copy_of_the_secondary_can_be_checked_after_a_resync(tmp_path: Path, world: World) -> None:
    backup = tmp_path / "backup.img"
    shutil.copyfile(world.secondary, backup)
    world.mark({"m": "resync", "job": "j", "how": "journal", "volumes": [1]})
    poke(world.secondary, 0, fill(5))
    images = {("alpha", "data"): str(backup)}
    assert only(verify(tmp_path, world, images=images)).volumes[0].unchecked_bytes == BLOCK
    flip(backup, 40 * BLOCK)
    assert verify(tmp_path, world, images=images).outcome == REFUTED


def test_images_that_are_not_here(tmp_path: Path, world: World) -> None:
    world.primary.unlink()
    row = only(verify(tmp_path, world)).volumes[0]
    assert (row.checked_bytes, "the primary can't be read" in row.unchecked[0]) == (4 * BLOCK, True)
    world.secondary.unlink()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].checked_bytes) == (CONFIRMED, 0)
    assert "the secondary can't be read" in only(report).volumes[0].unchecked[0]


def test_a_primary_that_is_the_secondary_proves_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.cut()
    assert only(verify(tmp_path, world)).volumes[0].by_primary_bytes == SIZE
    row = only(verify(tmp_path, world, images={("alpha", "data"): str(world.primary)})).volumes[0]
    assert (row.checked_bytes, "the same image" in row.unchecked[0]) == (0, True)


def test_after_a_power_cut_only_the_journal_speaks(tmp_path: Path, world: World) -> None:
    flip(world.primary, 40 * BLOCK)  # a change that the journal lost
    world.mark({"m": "missed", "volumes": {"1": ""}})
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].by_primary_bytes, only(report).volumes[0].checked_bytes) == (CONFIRMED, 0, 4 * BLOCK)


def test_a_machine_that_was_started_since_says_nothing_of_its_primaries(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.mark({"m": "open", "boot": "another", "version": 1})
    world.write(0, fill(1))
    world.cut()
    flip(world.primary, 40 * BLOCK)
    assert only(verify(tmp_path, world)).volumes[0].checked_bytes == BLOCK
    world.mark({"m": "close"})
    assert verify(tmp_path, world).outcome == REFUTED, "it stopped in order: the primary is as the journal says"


def test_the_boot_is_taken_from_the_checkpoint_if_the_journal_does_not_reach_back_to_it(tmp_path: Path) -> None:
    world = World(tmp_path)
    for number in range(40):
        world.write(number * BLOCK, fill(1))
    world.drop_oldest()
    world.cut()
    world.save_checkpoint("another")
    assert only(verify(tmp_path, world)).volumes[0].by_primary_bytes == 0
    world.save_checkpoint(past.boot_id())
    assert only(verify(tmp_path, world)).volumes[0].by_primary_bytes == SIZE


@pytest.mark.parametrize("marker", [{"m": "copy", "volumes": {"1": ""}, "reason": "power cut"}, {"m": "missed", "volumes": {"1": ""}}])
def test_records_from_before_a_power_cut_do_not_speak_for_content(tmp_path: Path, marker: dict[str, object]) -> None:
    world = World(tmp_path)
    world.write(0, fill(1))
    world.mark(marker)
    for leg in (world.primary, world.secondary):
        poke(leg, 0, fill(2))  # a change that the journal lost, and a copy took over
    world.write(BLOCK, fill(3))
    world.cut()
    report = verify(tmp_path, world)
    assert (report.outcome, only(report).volumes[0].by_journal_bytes) == (CONFIRMED, BLOCK)

"""The checker finds each fault that is planted, and nothing in a state that existed."""

from collections.abc import Iterable

import pytest

from duplexd.canary.checker import EXAMPLES_MAX, Findings, check
from duplexd.canary.history import History
from duplexd.canary.record import RECORD_BYTES, Placement, Record, pack

PLACEMENT = Placement(writers=2, volumes=3, slots=2)


class Run:
    """Two writers taking turns, one record at a time; the images hold what was put into them."""

    def __init__(self) -> None:
        self.history = History(PLACEMENT.writers)
        self.records: list[Record] = []
        self.images = [bytearray(PLACEMENT.volume_bytes) for _ in range(PLACEMENT.volumes)]

    def write(self, count: int, skip: Iterable[int] = ()) -> None:
        for step in range(count):
            writer = len(self.records) % PLACEMENT.writers
            record = Record(writer, self.history.issue(writer), *self.history.newest)
            self.records.append(record)
            if step not in skip:
                self.put(record)
            self.history.acknowledge(writer)

    def put(self, record: Record) -> None:
        volume, offset = PLACEMENT.place(record.writer, record.number)
        self.images[volume][offset : offset + RECORD_BYTES] = pack(record)

    def check(self, asked: int, done: int) -> Findings:
        return check(PLACEMENT, [bytes(image) for image in self.images], self.history, asked, done)


@pytest.fixture
def run() -> Run:
    return Run()


@pytest.mark.parametrize("records", [0, 1, 2, 5, 12, 13, 40])
def test_state_that_existed_passes(run: Run, records: int) -> None:
    run.write(records)
    moment = run.history.tick()
    findings = run.check(moment, moment)
    assert findings.consistent
    assert findings.records == min(records, PLACEMENT.writers * PLACEMENT.period)


@pytest.mark.parametrize("present", [True, False])
def test_write_in_flight_at_the_cut_may_be_there_or_not(run: Run, present: bool) -> None:
    run.write(6)
    record = Record(0, run.history.issue(0), *run.history.newest)
    if present:
        run.put(record)
    asked = run.history.tick()
    assert run.check(asked, run.history.tick()).consistent


def test_acknowledged_record_that_is_absent_is_missing(run: Run) -> None:
    run.write(6, skip=[5])
    moment = run.history.tick()
    findings = run.check(moment, moment)
    assert (findings.missing, findings.too_new, findings.broken) == (1, 0, 0)
    assert findings.examples == [
        "missing: record 3 of writer 1 on volume 0 at 8192 was acknowledged before the cut"
    ]


def test_older_record_in_the_slot_is_missing_too(run: Run) -> None:
    run.write(30, skip=[29])
    moment = run.history.tick()
    assert run.check(moment, moment).missing == 1


def test_record_issued_after_the_return_is_too_new(run: Run) -> None:
    run.write(6)
    moment = run.history.tick()
    run.write(1)
    findings = run.check(moment, moment)
    assert (findings.missing, findings.too_new, findings.broken) == (0, 1, 0)


def test_record_without_the_one_acknowledged_before_it_is_broken(run: Run) -> None:
    run.write(4)
    asked = run.history.tick()
    run.write(2, skip=[0])
    findings = run.check(asked, run.history.tick())
    assert findings.missing == findings.too_new == 0
    assert findings.broken == 1
    assert "record 3 of writer 1 is there, record 3 of writer 0" in findings.examples[0]


def test_record_without_its_predecessor_is_broken_even_if_the_client_forgot(run: Run) -> None:
    run.write(1)
    run.put(Record(0, 3, 0, 0))
    moment = run.history.tick()
    findings = check(PLACEMENT, [bytes(image) for image in run.images], run.history, moment, moment)
    assert findings.broken == 1


def test_named_record_that_is_absent_is_broken(run: Run) -> None:
    run.put(Record(0, 1, 1, 2))
    moment = run.history.tick()
    assert run.check(moment, moment).broken == 1


def test_volumes_cut_at_different_moments_are_broken(run: Run) -> None:
    run.write(20)
    asked = run.history.tick()
    frozen = bytes(run.images[0])
    run.write(20)
    run.images[0][:] = frozen
    findings = run.check(asked, run.history.tick())
    assert findings.broken > EXAMPLES_MAX
    assert len(findings.examples) == EXAMPLES_MAX
    assert findings.missing == findings.too_new == 0


def test_torn_block_is_found(run: Run) -> None:
    run.write(40)
    run.images[1][2000:2512] = bytes(512)
    moment = run.history.tick()
    findings = run.check(moment, moment)
    assert findings.torn == 1
    assert findings.missing == 1


def test_record_in_the_slot_of_another_is_torn(run: Run) -> None:
    run.write(4)
    volume, offset = PLACEMENT.place(0, 1)
    run.images[volume][offset : offset + RECORD_BYTES] = pack(run.records[1])
    moment = run.history.tick()
    assert run.check(moment, moment).torn == 1


def test_each_volume_has_its_own_moments(run: Run) -> None:
    run.write(6)
    early = run.history.tick()
    frozen = [bytes(image) for image in run.images]
    run.write(12)
    late = run.history.tick()
    images = [frozen[0], bytes(run.images[1]), bytes(run.images[2])]
    own = check(PLACEMENT, images, run.history, [early, late, late], [early, late, late])
    assert (own.missing, own.too_new) == (0, 0)
    assert own.broken > 0
    assert check(PLACEMENT, images, run.history, [late] * 3, [late] * 3).missing == 4
    assert check(PLACEMENT, images, run.history, [early] * 3, [early] * 3).too_new == 8


def test_records_of_earlier_epochs_are_ignored(run: Run) -> None:
    run.put(Record(0, 2, 0, 1, epoch=7))
    run.write(12)
    run.put(Record(1, 5, 0, 4, epoch=7))
    moment = run.history.tick()
    images = [bytes(image) for image in run.images]
    findings = check(PLACEMENT, images, run.history, moment, moment, 0, {(7, 0): 2, (7, 1): 5})
    assert findings.records == 11
    assert findings.missing == 1
    assert findings.broken == 2  # its successor is there, and one that names it


def test_record_of_another_epoch_that_came_since_stops_the_check(run: Run) -> None:
    run.write(12)
    run.put(Record(1, 5, 0, 4, epoch=7))
    moment = run.history.tick()
    images = [bytes(image) for image in run.images]
    for earlier in ({}, {(7, 1): 4}, {(7, 0): 9}, {(8, 1): 9}):
        findings = check(PLACEMENT, images, run.history, moment, moment, 0, earlier)
        assert (findings.late, findings.faults) == (1, 0)
        assert findings.examples == [
            "late: record 5 of writer 1 of another epoch on volume 2 at 12288"
        ]

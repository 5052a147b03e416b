"""Records: what is packed comes back, and nothing else passes for one."""

import pytest

from duplexd.canary.record import RECORD_BYTES, Placement, Record, TornError, pack, parse


def test_packed_record_comes_back() -> None:
    record = Record(3, 1 << 40, 7, 12345)
    block = pack(record)
    assert len(block) == RECORD_BYTES
    assert parse(block) == record


def test_block_never_written_holds_no_record() -> None:
    assert parse(bytes(RECORD_BYTES)) is None


@pytest.mark.parametrize("cut", [9, 28, 512, 2048, 4064])
def test_mixture_of_two_records_is_torn(cut: int) -> None:
    old, new = pack(Record(1, 5, 0, 4)), pack(Record(1, 37, 0, 36))
    with pytest.raises(TornError):
        parse(new[:cut] + old[cut:])


def test_garbage_is_torn() -> None:
    with pytest.raises(TornError):
        parse(bytes(RECORD_BYTES - 1) + b"x")


def test_consecutive_records_lie_on_different_volumes() -> None:
    placement = Placement(writers=3, volumes=4, slots=2)
    assert [placement.place(1, number).volume for number in range(1, 6)] == [1, 2, 3, 0, 1]


def test_slots_are_reused_after_a_period_and_never_shared() -> None:
    placement = Placement(writers=3, volumes=4, slots=2)
    places = {placement.place(w, n) for w in range(3) for n in range(1, placement.period + 1)}
    assert len(places) == 3 * placement.period
    assert all(0 <= place.offset < placement.volume_bytes for place in places)
    assert all(
        placement.place(w, n) == placement.place(w, n + placement.period)
        for w in range(3)
        for n in range(1, 20)
    )

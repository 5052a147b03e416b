"""The set of ranges, against a set of bytes."""

from __future__ import annotations

from random import Random

from duplexd.verify_cut.ranges import Ranges


def test_it_is_the_set_of_the_bytes_added() -> None:
    rng = Random(7)
    for _ in range(200):
        ranges, model = Ranges(), set[int]()
        for _ in range(rng.randrange(1, 25)):
            start = rng.randrange(100)
            end = start + rng.randrange(12)
            ranges.add(start, end)
            model |= set(range(start, end))
            assert {byte for first, stop in ranges for byte in range(first, stop)} == model
            assert ranges.total_bytes == len(model)
            assert all(
                one[1] < other[0] for one, other in zip(ranges, list(ranges)[1:], strict=False)
            ), "what touches is one range"
            start = rng.randrange(100)
            end = start + rng.randrange(30)
            missing = [
                byte for first, stop in ranges.missing(start, end) for byte in range(first, stop)
            ]
            assert missing == [byte for byte in range(start, end) if byte not in model]
            assert ranges.missing_bytes(start, end) == len(missing)


def test_a_coarser_set_is_larger_never_smaller_and_has_few_ranges() -> None:
    ranges, model = Ranges(), Ranges()
    for number in range(1000):
        for each in (ranges, model):
            each.add(number * 9000, number * 9000 + 10)
    ranges.coarsen(100, 999 * 9000 + 10)
    assert len(ranges) <= 100
    assert all(not ranges.missing(start, end) for start, end in model)
    assert max(end for _, end in ranges) == 999 * 9000 + 10

"""An image that fails and comes back is taken for what it is, and holds what was flushed."""

from __future__ import annotations

import pytest

from tests.sim.failing_image import FailingImage

CHUNK = 100


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("first", range(0, 2000, CHUNK))
def test_nothing_that_was_flushed_is_lost_and_no_image_refused(first: int) -> None:
    for seed in range(first, first + CHUNK):
        days = FailingImage(seed)
        try:
            days.run()
        except AssertionError as error:
            told = "\n  ".join(days.history)
            raise AssertionError(f"seed {seed}: {error}\n  {told}") from error

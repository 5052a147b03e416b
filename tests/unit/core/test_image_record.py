"""What is recorded of an image survives the checkpoint file."""

from __future__ import annotations

import json

import pytest

from duplexd.core.image_record import Image, loosened, unpack_image

IMAGE = Image("id", "/a", "file 1:1", 123, True, 4, ((0, 1), (1 << 59, 0xFFFFFFFF)))


@pytest.mark.parametrize("image", [IMAGE, IMAGE._replace(samples=(), loose=True, until_ns=9)])
def test_an_image_is_read_as_it_was_written(image: Image) -> None:
    assert unpack_image(json.loads(json.dumps(image.pack()))) == image


def test_there_may_be_none() -> None:
    assert unpack_image(None) is None


def test_samples_that_are_cut_off_are_an_error() -> None:
    with pytest.raises(ValueError, match="9 bytes of samples"):
        Image.unpack({**IMAGE.pack(), "samples": "AAAAAAAAAAAA"})


def test_samples_are_taken_over_to_another_number_where_they_hold() -> None:
    later = IMAGE.at(9, lambda offset: offset > 0)
    assert (later.offsets, later.sampled_at) == ([1 << 59], 9)


def test_a_checkpoint_is_loosened_as_a_whole() -> None:
    saved = {"sequence": 1, "pairs": [{"images": [IMAGE.pack(), None]}, {"id": 2}]}
    loose = loosened(saved)
    first, second = loose["pairs"]
    assert unpack_image(first["images"][0]) == IMAGE._replace(loose=True)
    assert (first["images"][1], second, loose["sequence"]) == (None, {"id": 2}, 1)
    assert unpack_image(saved["pairs"][0]["images"][0]) == IMAGE  # type: ignore[index]

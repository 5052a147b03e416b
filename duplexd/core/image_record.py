"""What a checkpoint records of an image, so that a later start can recognise it.

It is written with every checkpoint, for up to 8,192 images, so it is compact: the samples are bytes
in base64, not numbers in JSON. Fields of the file must not change; new ones need a default.
"""

from __future__ import annotations

import struct
from base64 import b64decode, b64encode
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from duplexd.json_object import Json

_SAMPLE = struct.Struct("<QI")
AHEAD = 1 << 62  # the generation of an image that was used when this state did not know of it


class Image(NamedTuple):
    """`samples`: `(offset, CRC-32C)` of blocks of 4 KiB, as they are at number `sampled_at`: the
    checkpoint's, or that of the cut that the image is at; 0 if it is at none.
    `marked`: it carries its id itself; `generation`: the start that last wrote its mark.

    `loose`: it may have been written to after `mtime_ns`. `until_ns`: the same, but not after that.
    `after`: the number at which it was taken as it was; changes before that may not be on it.
    """

    id: str
    path: str
    place: str  # which file or device it is
    mtime_ns: int  # 0 where there is none
    marked: bool
    generation: int
    samples: tuple[tuple[int, int], ...] = ()
    loose: bool = False
    until_ns: int = 0
    after: int = 0
    sampled_at: int = 0

    @property
    def offsets(self) -> list[int]:
        """Where it was sampled."""
        return [offset for offset, _ in self.samples]

    def at(self, number: int, holds: Callable[[int], bool]) -> Image:
        """With the samples that are true at this number too: those of whose offsets that holds."""
        kept = tuple(sample for sample in self.samples if holds(sample[0]))
        return self._replace(samples=kept, sampled_at=number)

    def taken_at(self, number: int) -> Image:
        """The same, where what it holds is what the volume is from this number on."""
        return self._replace(after=number)

    def pack(self) -> Json:
        """For the checkpoint."""
        samples = b"".join(_SAMPLE.pack(*sample) for sample in self.samples)
        return {**self._asdict(), "samples": b64encode(samples).decode()}

    @classmethod
    def unpack(cls, fields: Json) -> Image:
        """The reverse. Raises KeyError, ValueError, TypeError."""
        samples = b64decode(fields["samples"])
        if len(samples) % _SAMPLE.size:
            raise ValueError(f"{len(samples)} bytes of samples")
        return cls(**{**fields, "samples": tuple(_SAMPLE.iter_unpack(samples))})


def unpack_image(fields: Json | None) -> Image | None:
    """The same where there may be none."""
    return None if fields is None else Image.unpack(fields)


def loosened(saved: Json, newer: Container[str] = ()) -> Json:
    """A checkpoint that says of all images that they may have been written to since: replaced with
    it before the replay, so that a start that dies in the replay leaves nothing to wonder about.
    `newer`: ids of images that were used when this state did not know of it.
    """

    def loose(image: Json) -> Json:
        generation = AHEAD if image["id"] in newer else image["generation"]
        return {**image, "loose": True, "generation": generation}

    pairs = [
        {**pair, "images": [image and loose(image) for image in pair["images"]]}
        if "images" in pair
        else pair
        for pair in saved["pairs"]
    ]
    return {**saved, "pairs": pairs}

"""Which grains of a volume changed: a sparse bitmap. Pure.

A thousand volumes of 1 TiB must not cost gigabytes, and most maps are empty, full, or set in a few
places. So the bits are kept in chunks of 8192: a chunk of zeroes is not stored, and a chunk of ones
is a single object that all maps share. A change map is needed only for changes that the journal has
dropped or that have no record; it is stored in markers and checkpoints (`to_bytes`).

Considered and rejected: a plain bitarray for each volume (128 KiB each, used or not), and roaring
bitmaps (a library of 9 MB for two kinds of chunks).
"""

from __future__ import annotations

import struct
import zlib

from bitarray import bitarray

CHUNK_BITS = 8192
_CHUNK_SHIFT = 13
_CHUNK_MASK = CHUNK_BITS - 1
_CHUNK_BYTES = CHUNK_BITS // 8

# What a stored map starts with: magic, shift of the grain, size of the volume, number of chunks.
# Each chunk follows: its index, its bits.
_HEADER = struct.Struct("<4sIQI")
_INDEX = struct.Struct("<I")
_MAGIC = b"dcm1"
_SHIFT_MAX = 48
_STORED_GRAINS_MAX = 1 << 24

# Every chunk that is all ones, so that a map that is set all over costs nothing. Never changed in
# place.
_ONE = bitarray("1")
_FULL = bitarray(b"\xff" * _CHUNK_BYTES, endian="little")


def grain_shift(size_bytes: int, grain_bytes_min: int, grains_max: int) -> int:
    """The exponent of the smallest power of two, at least `grain_bytes_min`, of which `grains_max`
    cover the volume.
    """
    shift = max(grain_bytes_min - 1, 0).bit_length()
    while -(-size_bytes >> shift) > grains_max:
        shift += 1
    return shift


class ChangeMap:
    """A set of grains of a volume of `size_bytes`. `grain_bytes` is a power of two; the last grain
    may reach past the end of the volume.

    Ranges are of bytes, lie within the volume and are longer than 0.
    """

    __slots__ = ("_chunks", "_count", "_grains", "_shift", "grain_bytes", "shift", "size_bytes")

    def __init__(self, size_bytes: int, grain_bytes_min: int, grains_max: int) -> None:
        """An empty map. Its grain is the smallest one of at least `grain_bytes_min` with which the
        volume has at most `grains_max` grains.
        """
        self._prepare(size_bytes, grain_shift(size_bytes, grain_bytes_min, grains_max))

    def _prepare(self, size_bytes: int, shift: int) -> None:
        self.size_bytes = size_bytes
        self.grain_bytes = 1 << shift
        self._shift = self.shift = shift  # of the grain
        self._grains = -(-size_bytes >> shift)
        self._count = 0
        self._chunks: dict[int, bitarray] = {}

    # Compared by content, and changed in place: it cannot be a key.
    __hash__ = None  # type: ignore[assignment]

    @property
    def grains(self) -> int:
        """How many grains the volume has."""
        return self._grains

    @property
    def count(self) -> int:
        """How many grains are set."""
        return self._count

    @property
    def changed_bytes(self) -> int:
        """The bytes of the set grains, without what the last grain has past the volume's end."""
        beyond = (self._grains << self._shift) - self.size_bytes
        if beyond and self._is_set(self._grains - 1):
            return (self._count << self._shift) - beyond
        return self._count << self._shift

    def any(self) -> bool:
        """Whether any grain is set."""
        return self._count > 0

    def overlaps(self, offset: int, length: int) -> bool:
        """Whether any grain that the range touches is set."""
        run = self.next_run(offset, self.grain_bytes)
        return run is not None and run[0] < offset + length

    def set(self, offset: int, length: int) -> None:
        """Set every grain that the range touches."""
        first = offset >> self._shift
        last = (offset + length - 1) >> self._shift
        if first == last:
            chunk = self._chunks.get(first >> _CHUNK_SHIFT)
            if chunk is not None:
                bit = first & _CHUNK_MASK
                if not chunk[bit]:
                    chunk[bit] = 1
                    self._count += 1
                return
        self._set_grains(first, last + 1)

    def set_grains(self, grains: list[int]) -> None:
        """Set these, in any order and as often as they come: for many at once."""
        flat = bitarray(-(-self._grains >> _CHUNK_SHIFT) << _CHUNK_SHIFT, endian="little")
        flat[grains] = 1
        for index in {grain >> _CHUNK_SHIFT for grain in grains}:
            bits = flat[index << _CHUNK_SHIFT : (index + 1) << _CHUNK_SHIFT]
            ours = self._chunks.get(index)
            merged = bits if ours is None else bits | ours
            self._put(index, merged, merged.count() - (0 if ours is None else ours.count()))

    def set_all(self) -> None:
        self._set_grains(0, self._grains)

    def clear(self, offset: int, length: int) -> None:
        """Clear the grains that are wholly within the range.

        One that the volume's end cuts short is whole if the range reaches the end.
        """
        end = offset + length
        stop = self._grains if end >= self.size_bytes else end >> self._shift
        self._clear_grains(-(-offset >> self._shift), stop)

    def clear_grain(self, grain: int) -> None:
        self._clear_grains(grain, grain + 1)

    def clear_all(self) -> None:
        self._chunks.clear()
        self._count = 0

    def next_run(self, start_offset: int, max_bytes: int) -> tuple[int, int] | None:
        """The first run of set grains from that of `start_offset` on: `(offset, length)`, or None.

        Whole grains, as many as `max_bytes` holds but at least one; only the volume's end cuts the
        last one short.
        """
        # The last grain holds offsets past the end, too: it is not found a second time.
        if self._count == 0 or start_offset >= self.size_bytes:
            return None
        first = self._find_set(start_offset >> self._shift)
        if first is None:
            return None
        stop = self._find_clear(
            first + 1, min(self._grains, first + max(max_bytes >> self._shift, 1))
        )
        offset = first << self._shift
        return offset, min(stop << self._shift, self.size_bytes) - offset

    def merge(self, other: ChangeMap) -> None:
        """Set what is set in `other`, which may be of the time before the volume grew. Raises
        ValueError if its volume is larger, or its grain.
        """
        if (self.size_bytes, self._shift) != (other.size_bytes, other._shift):
            other = other.grown(self.size_bytes, self._shift)
        for index, theirs in other._chunks.items():
            ours = self._chunks.get(index)
            merged = theirs if ours is None else ours | theirs
            self._put(index, merged, merged.count() - (0 if ours is None else ours.count()))

    def grown(self, size_bytes: int, shift: int) -> ChangeMap:
        """The same grains in a map of a larger volume, of the same or larger grains. Raises
        ValueError for any other.
        """
        if size_bytes < self.size_bytes or shift < self._shift:
            raise ValueError("the maps differ in volume size or grain")
        twin, up = self._like(size_bytes, shift), shift - self._shift
        twin.set_grains(
            [
                ((index << _CHUNK_SHIFT) + bit) >> up
                for index, chunk in self._chunks.items()
                for bit in chunk.search(_ONE)
            ]
        )
        return twin

    def cut_to(self, size_bytes: int) -> ChangeMap:
        """What it says of the first `size_bytes` of the volume, as a map of that size and the same
        grain; itself if the volume has no more.
        """
        if size_bytes >= self.size_bytes:
            return self
        twin = self._like(size_bytes, self._shift)
        for index, chunk in self._chunks.items():
            inside = twin._grains - (index << _CHUNK_SHIFT)
            kept = chunk.copy()
            kept[max(inside, 0) :] = 0
            if kept.any():
                twin._put(index, kept, kept.count())
        return twin

    def emptied(self) -> ChangeMap:
        """An empty map of the same volume and grain."""
        return self._like(self.size_bytes, self._shift)

    def copy(self) -> ChangeMap:
        """A map of its own with the same grains set."""
        twin = self._like(self.size_bytes, self._shift)
        twin._count = self._count
        twin._chunks = {
            index: chunk if chunk is _FULL else chunk.copy()
            for index, chunk in self._chunks.items()
        }
        return twin

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ChangeMap):
            return NotImplemented
        return (self.size_bytes, self._shift, self._chunks) == (
            other.size_bytes,
            other._shift,
            other._chunks,
        )

    def to_bytes(self) -> bytes:
        """For the journal or a checkpoint, compressed."""
        parts = [_HEADER.pack(_MAGIC, self._shift, self.size_bytes, len(self._chunks))]
        for index in sorted(self._chunks):
            parts += (_INDEX.pack(index), self._chunks[index].tobytes())
        return zlib.compress(b"".join(parts), 1)

    @classmethod
    def from_bytes(cls, data: bytes) -> ChangeMap:
        """What `to_bytes` stored, with the size and grain it had. Raises ValueError for anything
        else.
        """
        unpack = zlib.decompressobj()
        try:
            header = unpack.decompress(data, _HEADER.size)
            map_, chunks = cls._from_header(header)
            length = chunks * (_INDEX.size + _CHUNK_BYTES)
            # One byte more: a longer body is an error, and does not fill the memory.
            body = unpack.decompress(unpack.unconsumed_tail, length + 1)
        except zlib.error as error:
            raise ValueError(f"the change map cannot be unpacked: {error}") from None
        if len(body) != length or not unpack.eof or unpack.unused_data:
            raise ValueError("the change map is shorter or longer than it says")
        map_._load(body)
        return map_

    @classmethod
    def _from_header(cls, header: bytes) -> tuple[ChangeMap, int]:
        if len(header) != _HEADER.size:
            raise ValueError("the change map is too short")
        magic, shift, size_bytes, chunks = _HEADER.unpack(header)
        if magic != _MAGIC or shift > _SHIFT_MAX or -(-size_bytes >> shift) > _STORED_GRAINS_MAX:
            raise ValueError("not a change map, or one of another version")
        map_ = cls._like(size_bytes, shift)
        if chunks > -(-map_._grains >> _CHUNK_SHIFT):
            raise ValueError("the change map has more chunks than its volume")
        return map_, chunks

    def _load(self, body: bytes) -> None:
        last = -1
        for place in range(0, len(body), _INDEX.size + _CHUNK_BYTES):
            (index,) = _INDEX.unpack_from(body, place)
            start = place + _INDEX.size
            bits = bitarray(body[start : start + _CHUNK_BYTES], endian="little")
            inside = self._grains - (index << _CHUNK_SHIFT)
            if (
                index <= last
                or inside <= 0
                or not bits.any()
                or (inside < CHUNK_BITS and bits.find(1, inside) >= 0)
            ):
                raise ValueError(
                    "the change map names grains out of order, none, or past the end of its volume"
                )
            self._put(index, bits, bits.count())
            last = index

    @classmethod
    def _like(cls, size_bytes: int, shift: int) -> ChangeMap:
        map_ = cls.__new__(cls)
        map_._prepare(size_bytes, shift)
        return map_

    def _is_set(self, grain: int) -> bool:
        chunk = self._chunks.get(grain >> _CHUNK_SHIFT)
        return chunk is not None and chunk[grain & _CHUNK_MASK] == 1

    def _put(self, index: int, chunk: bitarray, added: int) -> None:
        self._count += added
        self._chunks[index] = _FULL if chunk.all() else chunk.copy()

    def _set_grains(self, first: int, stop: int) -> None:
        while first < stop:
            index, bit = first >> _CHUNK_SHIFT, first & _CHUNK_MASK
            upto = min(CHUNK_BITS, bit + stop - first)
            if upto - bit == CHUNK_BITS:
                present = self._chunks.get(index)
                self._chunks[index] = _FULL
                self._count += CHUNK_BITS - (0 if present is None else present.count())
            else:
                self._set_bits(index, bit, upto)
            first += upto - bit

    def _set_bits(self, index: int, bit: int, upto: int) -> None:
        chunk = self._chunks.get(index)
        if chunk is _FULL:
            return
        if chunk is None:
            chunk = self._chunks[index] = bitarray(CHUNK_BITS, endian="little")
            chunk.setall(0)
        self._count += upto - bit - chunk.count(1, bit, upto)
        chunk[bit:upto] = 1

    def _clear_grains(self, first: int, stop: int) -> None:
        while first < stop:
            index, bit = first >> _CHUNK_SHIFT, first & _CHUNK_MASK
            upto = min(CHUNK_BITS, bit + stop - first)
            chunk = self._chunks.get(index)
            if chunk is not None:
                self._clear_bits(index, chunk, bit, upto)
            first += upto - bit

    def _clear_bits(self, index: int, chunk: bitarray, bit: int, upto: int) -> None:
        cleared = chunk.count(1, bit, upto)
        if cleared == 0:
            return
        if chunk is _FULL:
            chunk = self._chunks[index] = chunk.copy()
        chunk[bit:upto] = 0
        self._count -= cleared
        if not chunk.any():
            del self._chunks[index]

    def _find_set(self, grain: int) -> int | None:
        bit = grain & _CHUNK_MASK
        for index in range(grain >> _CHUNK_SHIFT, -(-self._grains >> _CHUNK_SHIFT)):
            chunk = self._chunks.get(index)
            if chunk is not None and (found := chunk.find(1, bit)) >= 0:
                return (index << _CHUNK_SHIFT) + found
            bit = 0
        return None

    def _find_clear(self, grain: int, stop: int) -> int:
        """The first clear grain from `grain` on, `stop` if there is none before it."""
        while grain < stop:
            chunk = self._chunks.get(grain >> _CHUNK_SHIFT)
            if chunk is None:
                return grain
            found = chunk.find(0, grain & _CHUNK_MASK)
            if found >= 0:
                return min((grain & ~_CHUNK_MASK) + found, stop)
            grain = (grain | _CHUNK_MASK) + 1
        return stop

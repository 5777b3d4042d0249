"""The packed weights, in numpy: what ``csrc/layout.h`` describes, to the byte."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Values = Literal["symmetric", "ternary", "zero_points"]
Blob = NDArray[np.uint8] | bytes | bytearray | memoryview

VERSION: Final = 1
TILE: Final = 64
BITS: Final = (1, 2, 3, 4)
GROUPS: Final = (0, 32, 64, 128)
MAX_ROWS: Final = 1 << 30
MAX_INPUTS: Final = 1 << 24
_MAGIC: Final = b"FLWRLUT\0"
_HEADER: Final = struct.Struct("<8sIBBHIIQf28x")
_USED: Final = struct.calcsize("<8sIBBHIIQf")  # the rest of it is reserved
_VALUES: Final[tuple[Values, ...]] = get_args(Values)
_HALF_MAX: Final = 65504.0
_TOP: Final = 15  # the largest scale is stored in (2^14, 2^15]


@dataclass(frozen=True)
class Shape:
    """What a blob's header says of the weights, and the sizes that follow from it.

    Attributes
    ----------
    rows, inputs : int
        N and K of the weights.
    bits : int
        1, 2, 3 or 4.
    group : int
        Inputs that share a scale: 32, 64 or 128; 0 for a whole row.
    values : {"symmetric", "ternary", "zero_points"}
        What a code q stands for before its scale: q - 2^(bits - 1) (1 bit: 2 q - 1); q - 1; q - z.

    Raises
    ------
    ValueError
        If a field is not one of those.
    """

    rows: int
    inputs: int
    bits: int
    group: int
    values: Values = "symmetric"

    def __post_init__(self) -> None:
        if self.bits not in BITS:
            raise ValueError(f"bits is {self.bits}; it must be 1, 2, 3 or 4")
        if self.group not in GROUPS:
            raise ValueError(f"group is {self.group}; it must be 32, 64, 128, or 0 for a row")
        if self.values not in _VALUES:
            raise ValueError(f"values is {self.values!r}; it must be one of {', '.join(_VALUES)}")
        if self.values == "ternary" and self.bits != 2:
            raise ValueError(f"ternary weights take 2 bits, not {self.bits}")
        if not (1 <= self.rows <= MAX_ROWS and 1 <= self.inputs <= MAX_INPUTS):
            raise ValueError(
                f"weights of {self.rows} rows and {self.inputs} inputs: "
                f"1 to {MAX_ROWS} rows and 1 to {MAX_INPUTS} inputs can be packed"
            )

    @property
    def groups(self) -> int:
        """Scales of a row."""
        return -(-self.inputs // self.group) if self.group else 1

    @property
    def levels(self) -> int:
        """How many codes there are: 0 .. levels - 1."""
        return 3 if self.values == "ternary" else 1 << self.bits

    @property
    def zero(self) -> int:
        """What a symmetric or ternary code has to lose (1 bit: of 2 q); 0 with zero points."""
        if self.values == "zero_points":
            return 0
        return 1 if self.values == "ternary" or self.bits == 1 else 1 << (self.bits - 1)

    @property
    def row_tiles(self) -> int:
        """Tiles of 64 rows."""
        return -(-self.rows // TILE)

    @property
    def input_tiles(self) -> int:
        """Tiles of 64 inputs."""
        return -(-self.inputs // TILE)

    @property
    def code_bytes(self) -> int:
        """Bytes of a tile's codes."""
        return self.bits * TILE * TILE // 8

    @property
    def scale_bytes(self) -> int:
        """Bytes of the scales and zero points of a tile that carries them."""
        halves = {0: 0, 32: 2}.get(self.group, 1)
        return halves * TILE * 2 * (2 if self.values == "zero_points" else 1)

    @property
    def strip_bytes(self) -> int:
        """Bytes of a row of tiles."""
        carriers = -(-self.input_tiles // self.period)
        return self.input_tiles * self.code_bytes + carriers * self.scale_bytes

    @property
    def period(self) -> int:
        """Tiles that share scales: every tile has its own, but for group 128."""
        return 2 if self.group == 128 else 1

    @property
    def ends(self) -> int:
        """float32 numbers after the tiles: scales (and zero points) of whole rows."""
        if self.group:
            return 0
        return self.row_tiles * TILE * (2 if self.values == "zero_points" else 1)

    @property
    def payload(self) -> int:
        """Bytes after the header."""
        return self.row_tiles * self.strip_bytes + 4 * self.ends

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return _HEADER.size + self.payload


@dataclass(frozen=True)
class Packed:
    """An unpacked blob.

    Attributes
    ----------
    codes : uint8 (N, K)
    scales : float32 (N, groups)
        What the kernels multiply by: the stored scale times the multiplier.
    zeros : float32 (N, groups) or None
        Zero points, in units of a code; None unless ``values`` is "zero_points".
    bits, group, values
        As in `Shape`.
    multiplier : float
        The power of two that all stored scales are multiplied by.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float32]
    zeros: NDArray[np.float32] | None
    bits: int
    group: int
    values: Values
    multiplier: float

    @property
    def shape(self) -> Shape:
        """The header's part of it."""
        rows, inputs = self.codes.shape
        return Shape(rows, inputs, self.bits, self.group, self.values)


def _plane_rows() -> NDArray[np.intp]:
    """Row of each byte of a plane's line (``plane_row`` of layout.h)."""
    word, odd = np.divmod(np.arange(TILE), 2)
    lane, place = np.divmod(word, 8)
    rows: NDArray[np.intp] = 32 * odd + 16 * (place >> 2) + 4 * lane + (place & 3)
    return rows


def scale_multiplier(scales: NDArray[np.float32]) -> float:
    """Return the power of two by which fp16 scales are divided before they are stored.

    The largest |scale| lands in (2^14, 2^15]: a factor of two below fp16's end, so that rounding
    cannot overflow, and scales down to 2^-29 of the largest keep fp16's full 11 bits. Anchoring
    the median instead would spend that room on both sides; nothing is ever above the largest.

    Parameters
    ----------
    scales : float32, any shape
        Finite. All zero: the multiplier is 1.
    """
    fraction, exponent = np.frexp(np.float64(np.abs(scales).max(initial=0.0)))
    if fraction == 0:
        return 1.0
    # To fp16's 11 bits first: packing what unpack gave must find the same multiplier.
    fraction = np.rint(fraction * 2048) / 2048
    above = int(exponent) - (1 if fraction == 0.5 else 0)  # largest <= 2^above
    return float(2.0 ** min(max(above - _TOP, -126), 127))


def round_scales(scales: NDArray[np.float32], group: int) -> tuple[NDArray[np.float32], float]:
    """Round scales to what a blob can hold.

    Parameters
    ----------
    scales : float32, any shape
        All scales of one blob: they share the multiplier.
    group : int
        0: whole rows keep float32 scales.

    Returns
    -------
    rounded : float32, the same shape
        Exactly what `unpack` gives back.
    multiplier : float
    """
    scales = np.asarray(scales, np.float32)
    if group == 0:
        return scales, 1.0
    multiplier = scale_multiplier(scales)
    stored = (scales.astype(np.float64) / multiplier).astype(np.float16)
    return (stored.astype(np.float64) * multiplier).astype(np.float32), multiplier


def pack(
    codes: NDArray[np.uint8],
    scales: NDArray[np.float32],
    *,
    bits: int,
    group: int,
    values: Values = "symmetric",
    zeros: NDArray[np.float32] | None = None,
) -> NDArray[np.uint8]:
    """Pack codes and scales into the blob that the kernels read.

    Parameters
    ----------
    codes : uint8 (N, K)
        0 .. 2^bits - 1; for ternary weights 0, 1 or 2.
    scales : float32 (N, groups)
        groups = ceil(K / group), or 1 for group 0. May be negative. Rounded to fp16 over a power
        of two (`round_scales`); for group 0 they stay float32.
    bits, group, values
        As in `Shape`.
    zeros : float32 (N, groups), for "zero_points" only
        In units of a code, not necessarily whole; rounded to fp16, for group 0 float32.

    Returns
    -------
    uint8 (bytes,)
        Header and payload.

    Raises
    ------
    ValueError
        If a shape, a dtype or a value is out of place; it names what was found.
    """
    codes = np.asarray(codes)
    if codes.ndim != 2 or codes.dtype != np.uint8:
        raise ValueError(f"codes are {codes.dtype} {codes.shape}; they must be uint8 (N, K)")
    shape = Shape(codes.shape[0], codes.shape[1], bits, group, values)
    if int(codes.max()) >= shape.levels:
        raise ValueError(
            f"a code is {int(codes.max())}; {values} codes of {bits} bits end at {shape.levels - 1}"
        )
    scales = _checked("scales", scales, shape)
    if (zeros is not None) != (values == "zero_points"):
        found = "none were given" if zeros is None else "some were given"
        raise ValueError(f'zero points belong to values="zero_points"; {found} with {values!r}')
    zeros = None if zeros is None else _checked("zeros", zeros, shape)
    multiplier = 1.0 if group == 0 else scale_multiplier(scales)
    blob = np.zeros(shape.size, np.uint8)
    blob[: _HEADER.size] = np.frombuffer(_header(shape, multiplier), np.uint8)
    strips, ends = _payload(blob, shape)
    _write_codes(strips, _code_tiles(codes, shape), shape)
    numbers = [scales] if zeros is None else [scales, zeros]
    if group == 0:
        ends.reshape(len(numbers), -1)[:, : shape.rows] = np.stack([n[:, 0] for n in numbers])
        return blob
    stored = (scales.astype(np.float64) / multiplier).astype(np.float16)
    halves = [stored] if zeros is None else [stored, zeros.astype(np.float16)]
    _write_scales(strips, halves, shape)
    return blob


def unpack(blob: Blob) -> Packed:
    """Take a blob apart; the inverse of `pack`.

    Parameters
    ----------
    blob : uint8 (bytes,) or a bytes-like object
        Any bytes: every size is checked before anything is allocated.

    Raises
    ------
    ValueError
        If it is not a whole and sound blob of this version.
    """
    data = _as_bytes(blob)
    shape, multiplier = _read(data)
    strips, ends = _payload(data, shape)
    codes = _read_codes(strips, shape)
    if int(codes.max()) >= shape.levels:
        raise ValueError("code 3 stands in ternary weights; they have 0, 1 and 2")
    if shape.group == 0:
        rows = ends.reshape(-1, shape.row_tiles * TILE)[:, : shape.rows, None]
        parts = list(rows.astype(np.float32))
    else:
        parts = [part.astype(np.float32) for part in _read_scales(strips, shape)]
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError("a scale or a zero point is NaN or infinite")
    with np.errstate(over="ignore", under="ignore"):
        parts[0] = parts[0] * np.float32(multiplier)
    zeros = parts[1] if len(parts) == 2 else None
    return Packed(codes, parts[0], zeros, shape.bits, shape.group, shape.values, multiplier)


def _as_bytes(blob: Blob) -> NDArray[np.uint8]:
    if not isinstance(blob, np.ndarray):
        return np.frombuffer(blob, np.uint8)
    if blob.dtype != np.uint8 or blob.ndim != 1:
        raise ValueError(f"a blob is {blob.dtype} {blob.shape}; it must be uint8, 1-D")
    return np.ascontiguousarray(blob)


def _header(shape: Shape, multiplier: float) -> bytes:
    values = _VALUES.index(shape.values)
    sizes = (shape.rows, shape.inputs, shape.payload, multiplier)
    return _HEADER.pack(_MAGIC, VERSION, shape.bits, values, shape.group, *sizes)


def _read(data: NDArray[np.uint8]) -> tuple[Shape, float]:
    if data.size < _HEADER.size:
        raise ValueError(f"the blob is truncated: {data.size} bytes, its header alone has 64")
    magic, version, bits, values, group, rows, inputs, payload, multiplier = _HEADER.unpack(
        data[: _HEADER.size].tobytes()
    )
    if magic != _MAGIC:
        raise ValueError(f"not packed weights: they begin {magic!r}, packed weights {_MAGIC!r}")
    if version != VERSION:
        raise ValueError(f"the layout's version is {version}; this release reads {VERSION}")
    if values >= len(_VALUES):
        raise ValueError(f"the header's values is {values}; it must be 0, 1 or 2")
    shape = Shape(rows, inputs, bits, group, _VALUES[values])
    found = data.size - _HEADER.size
    if payload != found or payload != shape.payload:
        raise ValueError(
            f"{rows} x {inputs} weights of {bits} bits, group {group}, take {shape.payload} bytes; "
            f"the header says {payload} and there are {found}"
        )
    if np.frexp(multiplier)[0] != 0.5:
        raise ValueError(f"the scales' multiplier is {multiplier}; it must be a power of two")
    if data[_USED : _HEADER.size].any():
        raise ValueError("the header's reserved bytes are not zero")
    return shape, multiplier


def _checked(name: str, numbers: NDArray[np.float32], shape: Shape) -> NDArray[np.float32]:
    numbers = np.asarray(numbers)
    right = (shape.rows, shape.groups)
    if numbers.dtype != np.float32 or numbers.shape != right:
        raise ValueError(
            f"{name} are {numbers.dtype} {numbers.shape}; they must be float32 {right}"
        )
    if not np.isfinite(numbers).all():
        row, place = np.argwhere(~np.isfinite(numbers))[0]
        raise ValueError(f"{name}[{row}, {place}] is {numbers[row, place]}; it must be finite")
    if name == "zeros" and shape.group and float(np.abs(numbers).max()) > _HALF_MAX:
        raise ValueError(f"a zero point is {np.abs(numbers).max()}; fp16 ends at 65504")
    return numbers


def _payload(
    blob: NDArray[np.uint8], shape: Shape
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Views of the rows of tiles (row tiles, bytes) and of the float32 numbers after them."""
    first = _HEADER.size
    after = first + shape.row_tiles * shape.strip_bytes
    strips = blob[first:after].reshape(shape.row_tiles, shape.strip_bytes)
    return strips, blob[after:].view("<f4")


def _tiles(strips: NDArray[np.uint8], shape: Shape, tile: int) -> NDArray[np.uint8]:
    """View the codes of tiles tile, tile + period, ...: (row tiles, tiles, code bytes)."""
    stride = shape.period * shape.code_bytes + shape.scale_bytes
    first = tile * shape.code_bytes + (shape.scale_bytes if tile else 0)
    return _every(strips, first, stride, shape.code_bytes)


def _every(strips: NDArray[np.uint8], first: int, stride: int, size: int) -> NDArray[np.uint8]:
    """View `size` bytes at `first`, first + stride, ... of each strip."""
    count = max(0, -(-(strips.shape[1] - first - size + 1) // stride))
    step, one = strips.strides
    return np.lib.stride_tricks.as_strided(
        strips[:, first:], (strips.shape[0], count, size), (step, stride * one, one)
    )


def _code_tiles(codes: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Codes -> (row tiles, input tiles, code bytes)."""
    tall, wide = shape.row_tiles * TILE, shape.input_tiles * TILE
    padded = np.zeros((tall, wide), np.uint8)
    padded[: shape.rows, : shape.inputs] = codes
    flat = (shape.row_tiles, shape.input_tiles, shape.code_bytes)
    if shape.bits == 4:
        split = padded.reshape(shape.row_tiles, 4, 16, shape.input_tiles, 8, 2, 4)
        both = split[..., 0, :] | split[..., 1, :] << np.uint8(4)
        return both.transpose(0, 3, 4, 1, 2, 5).reshape(flat)
    out = np.empty((shape.row_tiles, shape.input_tiles, shape.bits, 8, TILE), np.uint8)
    for plane in range(shape.bits):
        octets = np.packbits(padded & np.uint8(1 << plane), axis=1, bitorder="little")
        lines = octets.reshape(shape.row_tiles, TILE, shape.input_tiles, 8)[:, _plane_rows()]
        out[:, :, plane] = lines.transpose(0, 2, 3, 1)
    return out.reshape(flat)


def _codes_of(tiles: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """Invert `_code_tiles`, and drop the padding."""
    tall, wide = shape.row_tiles * TILE, shape.input_tiles * TILE
    if shape.bits == 4:
        both = tiles.reshape(shape.row_tiles, shape.input_tiles, 8, 4, 16, 4)
        split = np.stack([both & 15, both >> 4], axis=5).transpose(0, 3, 4, 1, 2, 5, 6)
        return split.reshape(tall, wide)[: shape.rows, : shape.inputs]
    planes = tiles.reshape(shape.row_tiles, shape.input_tiles, shape.bits, 8, TILE)
    rows = np.argsort(_plane_rows())
    codes = np.zeros((tall, wide), np.uint8)
    for plane in range(shape.bits):
        lines = planes[:, :, plane][..., rows].transpose(0, 3, 1, 2).reshape(tall, wide // 8)
        codes |= np.unpackbits(lines, axis=1, bitorder="little") << plane
    return codes[: shape.rows, : shape.inputs]


def _write_codes(strips: NDArray[np.uint8], tiles: NDArray[np.uint8], shape: Shape) -> None:
    for tile in range(min(shape.period, shape.input_tiles)):
        _tiles(strips, shape, tile)[:] = tiles[:, tile :: shape.period]


def _read_codes(strips: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    tiles = np.empty((shape.row_tiles, shape.input_tiles, shape.code_bytes), np.uint8)
    for tile in range(min(shape.period, shape.input_tiles)):
        tiles[:, tile :: shape.period] = _tiles(strips, shape, tile)
    return np.ascontiguousarray(_codes_of(tiles, shape))


def _scale_views(strips: NDArray[np.uint8], shape: Shape) -> NDArray[np.uint8]:
    """View the bytes of scales and zero points: (row tiles, carriers, scale bytes)."""
    stride = shape.period * shape.code_bytes + shape.scale_bytes
    return _every(strips, shape.code_bytes, stride, shape.scale_bytes)


def _write_scales(
    strips: NDArray[np.uint8], numbers: list[NDArray[np.float16]], shape: Shape
) -> None:
    view = _scale_views(strips, shape)
    halves = 2 if shape.group == 32 else 1
    carriers = view.shape[1]
    padded = np.zeros((len(numbers), shape.row_tiles * TILE, carriers * halves), "<f2")
    for part, number in zip(padded, numbers, strict=True):
        part[: shape.rows, : shape.groups] = number
    split = padded.reshape(len(numbers), shape.row_tiles, TILE, carriers, halves)
    ordered = np.ascontiguousarray(split.transpose(1, 3, 0, 4, 2))
    view[:] = ordered.view(np.uint8).reshape(view.shape)


def _read_scales(strips: NDArray[np.uint8], shape: Shape) -> list[NDArray[np.float16]]:
    view = _scale_views(strips, shape)
    halves = 2 if shape.group == 32 else 1
    parts = 2 if shape.values == "zero_points" else 1
    carriers = view.shape[1]
    ordered = np.ascontiguousarray(view).view("<f2")
    split = ordered.reshape(shape.row_tiles, carriers, parts, halves, TILE)
    padded = split.transpose(2, 0, 4, 1, 3).reshape(parts, -1, carriers * halves)
    return [part[: shape.rows, : shape.groups] for part in padded]

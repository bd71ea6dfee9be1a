"""What the header of a JPEG XL file says, read bit by bit: Pillow's plug-in gives 8 bits and does not say of how many.

Names are those of ISO/IEC 18181-1, whose section on image headers says what is read here and in which order.
"""

import struct
from typing import BinaryIO, NamedTuple

BARE = b"\xff\x0a"
CONTAINER = b"\0\0\0\x0cJXL \r\n\x87\n"
_HEADER = 256  # bytes of the codestream, in which the header ends
_BOXES = 64  # of a container, before the image
_LONGEST = 1 << 40  # bytes of a box: what a damaged header claims beyond that cannot be sought
_RATIOS = ((1, 1), (12, 10), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))  # width to height
_SIZES = ((9, 1), (13, 1), (18, 1), (30, 1))
_ENUM = ((0, 0), (0, 1), (4, 2), (6, 18))
_BITS = ((0, 8), (0, 10), (0, 12), (6, 1))
_FLOAT_BITS = ((0, 32), (0, 16), (0, 24), (6, 1))
_SHIFTS = ((0, 0), (0, 3), (0, 4), (3, 1))
_LENGTHS = ((0, 0), (4, 0), (5, 16), (10, 48))
_GREY = 1  # value of ColourSpace
_ALPHA = 0  # value of ExtraChannelType


class JpegXL(NamedTuple):
    """What a header says of an image."""

    size: tuple[int, int]  # (H, W), as it is seen
    colours: int  # 1 or 3
    bits: int
    is_float: bool
    alpha: bool  # not associated with the colours
    plain: bool  # one picture without a preview, with no channels beside colours and alpha


class _Bits:
    """Bits of a codestream, the lowest of each byte first. Raises IndexError at its end."""

    def __init__(self, content: bytes):
        self.content = content
        self.at = 0

    def take(self, count: int) -> int:
        value = 0
        for place in range(count):
            byte, bit = divmod(self.at, 8)
            value |= (self.content[byte] >> bit & 1) << place
            self.at += 1
        return value

    def choice(self, ways: tuple[tuple[int, int], ...]) -> int:
        """U32: two bits say how many bits follow, and what is added to them."""
        count, offset = ways[self.take(2)]
        return self.take(count) + offset


def read_jpeg_xl_header(file: BinaryIO) -> JpegXL | None:
    """Return what the header of a JPEG XL file says; None if it is damaged."""
    codestream = _codestream(file)
    try:
        return None if codestream is None else _header(_Bits(codestream))
    except IndexError:
        return None


def _codestream(file: BinaryIO) -> bytes | None:
    """Return the beginning of the image; a container has it in a box, perhaps behind others."""
    start = file.read(12)
    if start != CONTAINER:
        start += file.read(_HEADER)
        return start[2:] if start.startswith(BARE) else None
    for _ in range(_BOXES):
        header = file.read(8)
        if len(header) < 8:
            return None
        length, kind = struct.unpack(">I4s", header)
        if kind in (b"jxlc", b"jxlp"):
            if length == 1:
                file.read(8)
            content = file.read(4 + 2 + _HEADER)
            content = content[4:] if kind == b"jxlp" else content  # its parts are numbered
            return content[2:] if content.startswith(BARE) else None
        taken = 8
        if length == 1:
            length, taken = int.from_bytes(file.read(8), "big"), 16
        if not taken <= length <= _LONGEST:
            return None
        file.seek(length - taken, 1)
    return None


def _size(bits: _Bits) -> tuple[int, int]:
    small = bits.take(1)
    height = 8 * (bits.take(5) + 1) if small else bits.choice(_SIZES)
    ratio = bits.take(3)
    if ratio:
        wide, high = _RATIOS[ratio - 1]
        return height, height * wide // high
    return height, 8 * (bits.take(5) + 1) if small else bits.choice(_SIZES)


def _depth(bits: _Bits) -> tuple[int, bool]:
    if bits.take(1):
        depth = bits.choice(_FLOAT_BITS)
        bits.take(4)
        return depth, True
    return bits.choice(_BITS), False


def _header(bits: _Bits) -> JpegXL:
    height, width = _size(bits)
    if bits.take(1):  # all_default
        return JpegXL((height, width), 3, 8, is_float=False, alpha=False, plain=True)
    plain = True
    if bits.take(1):  # extra_fields
        if bits.take(3) >= 4:  # orientation, less one
            height, width = width, height
        if bits.take(1):
            _size(bits)  # intrinsic
        plain = not (bits.take(1) or bits.take(1))  # preview, animation: what follows is not read then
    depth, is_float = _depth(bits)
    bits.take(1)  # modular_16bit_buffers
    extra = bits.choice(((0, 0), (0, 1), (4, 2), (12, 1)))
    alpha = False
    if extra == 1:
        alpha, straight = _is_alpha(bits)
        plain = plain and alpha and straight
    if extra > 1 or not plain:
        return JpegXL((height, width), 3, depth, is_float, alpha, plain=False)
    bits.take(1)  # xyb_encoded
    grey = False
    if not bits.take(1):  # colour_encoding.all_default
        bits.take(1)  # want_icc
        grey = bits.choice(_ENUM) == _GREY
    return JpegXL((height, width), 1 if grey else 3, depth, is_float, alpha, plain)


def _is_alpha(bits: _Bits) -> tuple[bool, bool]:
    """Return whether the only extra channel is transparency, and whether colours were not multiplied by it."""
    if bits.take(1):  # d_alpha
        return True, True
    kind = bits.choice(_ENUM)
    _depth(bits)
    bits.choice(_SHIFTS)
    for _ in range(bits.choice(_LENGTHS)):
        bits.take(8)
    return kind == _ALPHA, kind == _ALPHA and not bits.take(1)

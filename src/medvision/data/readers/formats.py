"""Read what the headers of files say, before a decoder is trusted.

Decoders often give plausible pixels for samples that they do not support: signed values wrap
around, white-is-zero values become negatives, deep colours lose their lower bits. So the properties
of a file are compared with the tables here first. What is not in them is refused by its name.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal, NoReturn

from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.Jpeg2KImagePlugin import Jpeg2KImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import ImageFileDirectory_v2, TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from medvision.errors import MedvisionError

Alpha = Literal["straight", "premultiplied", "ignored", "undeclared"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """Samples of a file as its header describes them.

    Attributes:
        bits: Bits per sample, 1 to 64.
        lossy: True if compression may have changed the values.
        signed: True for signed values.
        white_is_zero: True if small values are white, and the decoder does not invert them.
        alpha: Meaning of a channel after the colours. ``undeclared`` channels must be opaque.
        remark: What a user should know about the conversion to grey or RGB; empty if nothing.
    """

    bits: int = 8
    lossy: bool = False
    signed: bool = False
    white_is_zero: bool = False
    alpha: Alpha = "straight"
    remark: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Format:
    """File format that Pillow decodes.

    Attributes:
        plugin: Class of Pillow that decodes it.
        stored: Reads the header of a file, given its name, without decoding.
    """

    plugin: type[ImageFile]
    stored: Callable[[BinaryIO, str], Stored]


def refuse(what: str, where: str, hint: str) -> NoReturn:
    """Refuse a file because of a property that is not supported."""
    raise MedvisionError(f"{what} is not supported", where=where, hint=hint)


MAX_PIXELS = 100_000_000
"""Largest number of pixels; larger pictures are rejected before decoding to save memory."""


def check_size(width: int, height: int, where: str) -> None:
    """Reject a picture of more than ``MAX_PIXELS``."""
    if width * height > MAX_PIXELS:
        raise MedvisionError(
            f"{width} x {height} pixels exceed the limit of {MAX_PIXELS // 1_000_000} million",
            where=where,
            hint="crop or shrink the picture",
        )


_STORE = "store it as 8-bit or 16-bit PNG"
_UPRIGHT_RGB = "convert it to grey or RGB"


def _png(stream: BinaryIO, where: str) -> Stored:
    start = stream.read(33)
    if len(start) < 33:
        raise ValueError("truncated header")
    if start[12:16] != b"IHDR":
        refuse("a PNG file whose first chunk is not IHDR", where, "save it again as PNG")
    return Stored(bits=start[24])


def _jpeg(stream: BinaryIO, where: str) -> Stored:
    """Check the frame header: only 8-bit Huffman or arithmetic coding is decoded."""
    stream.seek(2)
    while True:
        mark = stream.read(2)
        while mark[1:] == b"\xff":  # fill bytes
            mark = b"\xff" + stream.read(1)
        if len(mark) < 2 or mark[0] != 0xFF:
            raise ValueError("no frame header")
        code = mark[1]
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            continue
        (length,) = struct.unpack(">H", stream.read(2))
        if 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC):
            break
        if code in (0xDA, 0xD9) or length < 2:
            raise ValueError("no frame header")
        stream.seek(length - 2, io.SEEK_CUR)
    bits, _, _, channels = struct.unpack(">BHHB", stream.read(6))
    if code not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        kind = "lossless" if code in (0xC3, 0xC7, 0xCB, 0xCF) else "hierarchical"
        refuse(f"{kind} JPEG", where, _STORE)
    if bits != 8:
        refuse(f"JPEG with {bits} bits per sample", where, _STORE)
    if channels not in (1, 3, 4):
        refuse(f"JPEG with {channels} channels", where, _UPRIGHT_RGB)
    return Stored(lossy=True, remark=CMYK if channels == 4 else "")


CMYK = "CMYK was converted to RGB without its colour profile"
_EXTRA_IGNORED = "a channel that is neither colour nor alpha was ignored"


def _bmp(stream: BinaryIO, where: str) -> Stored:  # noqa: ARG001  Pillow names what it lacks
    return Stored()


def _gif(stream: BinaryIO, where: str) -> Stored:
    image = GifImageFile(stream)
    box = image.tile[0][1] if image.tile else None
    if box != (0, 0, *image.size) and "transparency" not in image.info:
        refuse("a GIF picture that does not cover its screen", where, "save it as PNG")
    _refuse_zeros(stream)
    return Stored()


def _refuse_zeros(stream: BinaryIO) -> None:
    """Refuse a download whose missing end was filled with zeros, which decoders read as pixels."""
    length = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, length - _ZEROS))
    if length > _ZEROS and not any(stream.read(_ZEROS)):
        raise ValueError(f"truncated, the last {_ZEROS} bytes are zeros")


_ZEROS = 16


def _webp(stream: BinaryIO, where: str) -> Stored:
    """Read the chunks: the pixels may be lossy while alpha is lossless."""
    start = stream.read(30)
    check_size(*_webp_size(start), where)  # the decoder allocates its canvas when it is created
    stream.seek(12)
    kinds: set[bytes] = set()
    while len(head := stream.read(8)) == 8:
        kinds.add(head[:4])
        (size,) = struct.unpack("<I", head[4:])
        if stream.tell() + size > 8 + struct.unpack("<I", start[4:8])[0]:
            raise ValueError("truncated")
        stream.seek(size + size % 2, io.SEEK_CUR)
    _refuse_zeros(stream)
    return Stored(lossy=b"VP8 " in kinds or b"VP8L" not in kinds)


def _webp_size(start: bytes) -> tuple[int, int]:
    kind = start[12:16]
    if kind == b"VP8X":
        wide, high = (int.from_bytes(start[k : k + 3], "little") + 1 for k in (24, 27))
    elif kind == b"VP8L":
        (both,) = struct.unpack_from("<I", start, 21)
        wide, high = (both & 0x3FFF) + 1, (both >> 14 & 0x3FFF) + 1
    else:
        wide, high = (side & 0x3FFF for side in struct.unpack_from("<2H", start, 26))
    return wide, high


def _jpeg2000(stream: BinaryIO, where: str) -> Stored:
    image = Jpeg2KImageFile(stream)
    stream.seek(0)
    boxes = _jp2_boxes(stream)
    stream.seek(boxes.get(b"jp2c", (0, 0))[0] + 4)
    fields = struct.unpack(">HHIIIIIIIIH", stream.read(38))
    (_, _, wide, high, left, top, *_, count) = fields
    if (wide - left, high - top) != image.size:
        raise ValueError("its size differs from that of its codestream")
    parts = [tuple(stream.read(3)) for _ in range(count)]
    depths = {depth for depth, *_ in parts}
    if len(depths) != 1 or any(depth & 0x80 for depth in depths):
        refuse("JPEG 2000 with signed or different channels", where, _STORE)
    bits = depths.pop() + 1
    if {step for _, *steps in parts for step in steps} != {1}:
        refuse("JPEG 2000 with subsampled channels", where, _STORE)
    if bits > 16 or (count > 1 and bits != 8):
        kind = "colours" if count > 2 else "grey with alpha" if count == 2 else "values"
        refuse(f"JPEG 2000 with {bits}-bit {kind}", where, _STORE)
    alpha: Alpha = "undeclared"
    if b"jp2c" in boxes:
        alpha = _jp2_colours(stream, boxes, count, where)
    return Stored(bits=bits, lossy=True, alpha=alpha)


def _jp2_boxes(stream: BinaryIO) -> dict[bytes, tuple[int, int]]:
    """Return start and end of the content of each box, those of the header included."""
    if stream.read(4) == b"\xff\x4f\xff\x51":  # a codestream alone
        return {}
    length = stream.seek(0, io.SEEK_END)
    found: dict[bytes, tuple[int, int]] = {}
    spans = [(0, length)]
    for start, end in spans:  # grows while iterating
        while start + 8 <= end:
            stream.seek(start)
            size, kind = struct.unpack(">I4s", stream.read(8))
            inside = start + 8
            if size == 1:
                (size,) = struct.unpack(">Q", stream.read(8))
                inside += 8
            stop = start + size if size else end
            if stop < inside or stop > end:
                raise ValueError("damaged boxes")
            found.setdefault(kind, (inside, stop))
            if kind == b"jp2h":
                spans.append((inside, stop))
            start = stop
    if b"jp2c" not in found or b"colr" not in found:
        raise ValueError("no codestream or no colour space")
    return found


def _jp2_colours(
    stream: BinaryIO, boxes: dict[bytes, tuple[int, int]], count: int, where: str
) -> Alpha:
    if b"pclr" in boxes:
        refuse("JPEG 2000 with a palette", where, _STORE)
    stream.seek(boxes[b"colr"][0])
    method, _, _, space = struct.unpack(">BBBI", stream.read(7))
    if method == 1 and space not in (16, 17):
        names = {12: "CMYK", 14: "CIELab", 18: "YCC"}
        refuse(f"JPEG 2000 in {names.get(space, f'colour space {space}')}", where, _UPRIGHT_RGB)
    if b"cdef" not in boxes:
        return "undeclared"
    stream.seek(boxes[b"cdef"][0])
    (entries,) = struct.unpack(">H", stream.read(2))
    kinds = [struct.unpack(">3H", stream.read(6)) for _ in range(min(entries, 16))]
    colours = [(channel, place) for channel, kind, place in kinds if kind == 0]
    if any(place != channel + 1 for channel, place in colours):
        refuse("JPEG 2000 with reordered channels", where, _UPRIGHT_RGB)
    last = {kind for channel, kind, _ in kinds if channel == count - 1 and count in (2, 4)}
    return "straight" if last == {1} else "premultiplied" if last == {2} else "undeclared"


def _pnm(stream: BinaryIO, where: str) -> Stored:
    kind = stream.read(2)
    stream.seek(0)
    image = PpmImageFile(stream)
    offset, highest = pnm_layout(image)
    bits = 1 if kind in (b"P1", b"P4") else max(8, highest.bit_length())
    if bits > 8 and kind == b"P3":
        refuse("PNM text with more than 8 bits per colour", where, _STORE)
    if kind in (b"P4", b"P5", b"P6"):
        width, height = image.size
        row = -(-width // 8) if bits == 1 else width * (3 if kind == b"P6" else 1)
        stream.seek(offset + row * height * (2 if bits > 8 else 1))
        if re.match(rb"\s*P[1-6]\s", stream.read(16)):
            raise MedvisionError(
                "the file contains several pictures",
                where=where,
                hint="store each in its own file",
            )
    return Stored(bits=bits)


def pnm_layout(image: ImageFile) -> tuple[int, int]:
    """Return the place of the first sample of a PNM file, and the value of white."""
    _, _, offset, arguments = image.tile[0]
    if isinstance(arguments, tuple):
        return offset, int(arguments[-1])
    return offset, 65535 if ";16" in str(arguments) else 255


# TIFF

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_DESCRIPTION, _SAMPLES, _PLANAR, _COLOUR_MAP = 270, 277, 284, 320
_EXTRA, _SAMPLE_FORMAT, _COEFFICIENTS, _SUBSAMPLING, _REFERENCE = 338, 339, 529, 530, 532
_FILL_ORDER, _DEPTH = 266, 32997

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_SPACES = {
    _WHITE_IS_ZERO: ("white-is-zero grey", 1),
    _BLACK_IS_ZERO: ("grey", 1),
    _RGB: ("RGB", 3),
    _PALETTE: ("palette", 1),
    _CMYK: ("CMYK", 4),
    _YCBCR: ("YCbCr", 3),
}
_OTHER_SPACES = {
    **{4: "transparency mask", 8: "CIELab", 9: "ICCLab", 10: "ITULab"},
    **{32803: "colour filter array", 32844: "LogL", 32845: "LogLuv", 34892: "linear raw"},
}
_UINT, _INT, _FLOAT = 1, 2, 3
_KINDS = {_UINT: "unsigned integers", _INT: "signed integers", _FLOAT: "floats"}
_OTHER_KINDS = {4: "undefined values", 5: "complex integers", 6: "complex floats"}

_DEPTHS = {
    (_WHITE_IS_ZERO, _UINT): (1, 2, 4, 8, 16),
    (_WHITE_IS_ZERO, _FLOAT): (32,),
    (_BLACK_IS_ZERO, _UINT): (1, 2, 4, 8, 12, 16, 32),
    (_BLACK_IS_ZERO, _INT): (8, 16, 32),
    (_BLACK_IS_ZERO, _FLOAT): (32,),
    (_RGB, _UINT): (8, 16),
    (_PALETTE, _UINT): (1, 2, 4, 8),
    (_CMYK, _UINT): (8,),
    (_YCBCR, _UINT): (8,),
}
"""Bits per sample that are read, by colour space and type of the values."""

_JPEG_IN_TIFF, _OLD_JPEG, _UNCOMPRESSED = 7, 6, 1
_BILEVEL = (2, 3, 4)
_NOT_DEEP = (34925, 50000)
"""Compressions that OpenCV, which decodes deep colours, does not know."""
_COMPRESSIONS = {
    **{_UNCOMPRESSED: "no", 5: "LZW", _JPEG_IN_TIFF: "JPEG", 8: "deflate", 32773: "PackBits"},
    **{32946: "deflate", 34925: "LZMA", 50000: "Zstandard"},
    **{2: "CCITT", 3: "CCITT", 4: "CCITT"},
}
_OTHER_COMPRESSIONS = {
    **{_OLD_JPEG: "old-style JPEG", 32809: "ThunderScan", 34661: "JBIG", 34676: "SGI Log"},
    **{34712: "JPEG 2000", 34887: "LERC", 50001: "WebP", 50002: "JPEG XL"},
    **{33003: "JPEG 2000", 33005: "JPEG 2000", 65000: "Kodak DCR", 32895: "CCITT"},
}


def _tiff(stream: BinaryIO, where: str) -> Stored:
    tags = _tiff_tags(stream, where)

    def ints(tag: int, *default: int) -> tuple[int, ...]:
        found = tags.get(tag, default)
        values = found if isinstance(found, tuple) else (found,)
        if not all(isinstance(value, int) for value in values):
            raise ValueError(f"tag {tag} holds {values[0]!r}"[:80])
        return values

    def unsupported(what: str, hint: str = _STORE) -> NoReturn:
        refuse(f"TIFF with {what}", where, hint)

    bits, kinds = ints(_BITS, 1), ints(_SAMPLE_FORMAT, _UINT)
    (samples, *_), (planar, *_) = ints(_SAMPLES, 1), ints(_PLANAR, 1)
    (compression, *_), (space, *_) = ints(_COMPRESSION, 1), ints(_PHOTOMETRIC, -1)
    extra = ints(_EXTRA)
    if space not in _SPACES:
        unsupported(
            "no photometric interpretation"
            if space == -1
            else f"the colour space {_OTHER_SPACES.get(space, space)}",
            _UPRIGHT_RGB,
        )
    if len(set(bits)) != 1 or len(set(kinds)) != 1:
        unsupported("channels of different types")
    if kinds[0] not in _KINDS:
        unsupported(_OTHER_KINDS.get(kinds[0], f"sample format {kinds[0]}"))
    name, colours = _SPACES[space]
    depth, kind = bits[0], kinds[0]
    if depth not in _DEPTHS.get((space, kind), ()):
        unsupported(f"{depth}-bit {_KINDS[kind]} in {name}")
    swapped = tags.prefix == b"MM" and depth > 8
    if (
        swapped
        and (compression != _UNCOMPRESSED or kind == _UINT)
        and (kind != _UINT or depth != 16 or space == _WHITE_IS_ZERO)
    ):
        packed = "compressed " if compression != _UNCOMPRESSED else ""
        unsupported(f"big-endian {packed}{depth}-bit {_KINDS[kind]} in {name}")
    if compression not in _COMPRESSIONS or (compression in _BILEVEL and depth != 1):
        known = _COMPRESSIONS | _OTHER_COMPRESSIONS
        unsupported(f"{known.get(compression, compression)} compression of {depth}-bit {name}")
    if ints(_DEPTH, 1)[0] > 1:
        unsupported("a volume", "store each slice in its own file")
    if ints(_FILL_ORDER, 1)[0] not in (1, 2) or (
        ints(_FILL_ORDER, 1)[0] == 2 and (depth > 8 or samples > 1)
    ):
        unsupported("reversed bits (FillOrder 2)")
    _refuse_hyperstack(tags.get(_DESCRIPTION), where)
    if extra and kind != _UINT:
        unsupported(f"extra channels of {_KINDS[kind]}")
    alpha = _tiff_alpha(extra, space, samples - colours, depth, unsupported)
    if planar not in (1, 2) or (
        planar == 2 and samples > 1 and (depth != 8 or extra or space == _YCBCR)
    ):
        unsupported(f"{depth}-bit {name} in separate planes", "store the channels interleaved")
    if space == _YCBCR and compression != _JPEG_IN_TIFF:
        _refuse_ycbcr(tags, ints, unsupported)
    if (space == _RGB and depth == 16 and compression in _NOT_DEEP) or (
        compression == _JPEG_IN_TIFF
        and (depth != 8 or kind != _UINT or space not in (_BLACK_IS_ZERO, _RGB, _YCBCR))
    ):
        unsupported(f"{_COMPRESSIONS[compression]} compression of {depth}-bit {name}")
    if space == _PALETTE and max(ints(_COLOUR_MAP, 0)) < 256:
        unsupported("a palette of 8-bit colours, or without colours", _UPRIGHT_RGB)
    remark = CMYK if space == _CMYK else _EXTRA_IGNORED if alpha == "ignored" else ""
    return Stored(
        bits=depth,
        lossy=compression == _JPEG_IN_TIFF,
        signed=kind == _INT,
        white_is_zero=space == _WHITE_IS_ZERO and depth > 8,
        alpha=alpha,
        remark=remark,
    )


def _tiff_tags(stream: BinaryIO, where: str) -> Any:
    start = stream.read(8)
    if start.startswith(b"MM\0\x2b"):
        refuse("big-endian BigTIFF", where, _STORE)
    tags = ImageFileDirectory_v2(start + stream.read(8) if start[2:3] == b"\x2b" else start)
    stream.seek(tags.next)
    tags.load(stream)
    return tags


def _tiff_alpha(
    extra: Sequence[int],
    space: int,
    more: int,
    depth: int,
    unsupported: Callable[..., NoReturn],
) -> Alpha:
    """Return the meaning of the channels after the colours."""
    if more == 0 and not extra:
        return "straight"
    if more == 1 and not extra and space == _RGB:
        return "undeclared"
    if more != len(extra):
        unsupported(f"{more} channels after the colours, of which {len(extra)} are declared")
    if any(kind != 0 for kind in extra[1:]) or extra[0] not in (0, 1, 2):
        unsupported(f"extra channels of kind {', '.join(map(str, extra))}")
    grey = space == _BLACK_IS_ZERO
    if space not in (_RGB, _BLACK_IS_ZERO) and not (space == _CMYK and extra[0] == 0):
        unsupported(f"extra channels in {_SPACES[space][0]}")
    if (grey and (depth != 8 or more > 1 or extra[0] == 1)) or more > 3 or (more > 1 and depth > 8):
        meaning = "premultiplied alpha" if extra[0] == 1 else f"{more} extra channels"
        unsupported(f"{meaning} of {depth} bits in {_SPACES[space][0]}")
    kinds: tuple[Alpha, ...] = ("ignored", "premultiplied", "straight")
    return kinds[extra[0]]


def _refuse_hyperstack(description: object, where: str) -> None:
    """Refuse several pictures of ImageJ behind a single header."""
    found = re.match(r"ImageJ=.*^images=(\d+)", str(description)[:2000], re.DOTALL | re.MULTILINE)
    if found and int(found[1]) > 1:
        raise MedvisionError(
            f"the file contains {found[1]} pictures",
            where=where,
            hint="store each in its own file",
        )


def _refuse_ycbcr(
    tags: Any, ints: Callable[..., tuple[int, ...]], unsupported: Callable[..., NoReturn]
) -> None:
    """Refuse YCbCr that is not JPEG's without subsampling."""
    if ints(_SUBSAMPLING, 2, 2) != (1, 1):
        unsupported("subsampled YCbCr", _UPRIGHT_RGB)
    weights = [float(value) for value in tags.get(_COEFFICIENTS, (0.299, 0.587, 0.114))]
    if any(abs(a - b) > 1e-3 for a, b in zip(weights, (0.299, 0.587, 0.114), strict=True)):
        unsupported("other YCbCr coefficients than 0.299, 0.587, 0.114", _UPRIGHT_RGB)
    levels = tuple(float(value) for value in tags.get(_REFERENCE, (0, 255, 128, 255, 128, 255)))
    if levels != (0, 255, 128, 255, 128, 255):
        unsupported("YCbCr of limited range", _UPRIGHT_RGB)


FORMATS = {
    "JPEG": Format(plugin=JpegImageFile, stored=_jpeg),
    "PNG": Format(plugin=PngImageFile, stored=_png),
    "BMP": Format(plugin=BmpImageFile, stored=_bmp),
    "TIFF": Format(plugin=TiffImageFile, stored=_tiff),
    "GIF": Format(plugin=GifImageFile, stored=_gif),
    "WebP": Format(plugin=WebPImageFile, stored=_webp),
    "JPEG 2000": Format(plugin=Jpeg2KImageFile, stored=_jpeg2000),
    "PNM": Format(plugin=PpmImageFile, stored=_pnm),
}
"""All formats except DICOM, by the names of `kind_of`."""

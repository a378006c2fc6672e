"""Compare how files are read with independent decoders, one by one.

    pip install tifffile imagecodecs
    python benchmarks/pixels.py FOLDER... [--list]

Each FOLDER holds files of any format, such as ``Tests/images`` of Pillow's source distribution, or
the test files inside of the packages pydicom and scikit-image. tifffile decodes TIFF, pydicom
DICOM, imagecodecs the other formats; OpenCV and Netpbm help where imagecodecs does not know a file.
What they return is brought to 8-bit RGB by code in this file alone. A file is

- *equal*: read, and no pixel differs by more than the tolerance of its kind;
- *refused*: not read, with a reason in one line;
- *alone*: read, where the independent decoder refuses the file or does not know its format;
- *WRONG*: read, with other pixels. The exit code is 1 if there is one.

Prints a table of counts, and every file that is neither equal nor refused; ``--list`` prints all.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
import pydicom
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.pixels.processing import apply_modality_lut, apply_voi_lut

from medvision.data.readers.images import decode_image
from medvision.data.readers.kinds import kind_of
from medvision.errors import MedvisionError

warnings.simplefilter("ignore")

LOSSLESS = 0
ROUNDED = 1
"""Tolerance of deep values, alpha and CMYK, which are rounded to 8 bits in another order."""
LOSSY = 4
"""Tolerance of JPEG and WebP: inverse transforms and chroma differ between decoders."""

Array = NDArray[Any]
Reference = tuple[Array, int]
"""8-bit RGB (H, W, 3), and the tolerance in grey levels."""


def stretched(values: Array, *, white_is_zero: bool = False) -> Array:
    """Map the smallest and largest value to 0 and 255."""
    exact = values.astype(np.float64)
    low, high = exact.min(), exact.max()
    levels = np.rint((exact - low) / (high - low) * 255) if high > low else np.zeros(exact.shape)
    return 255 - levels if white_is_zero else levels


def to_rgb(values: Array, *, bits: int, alpha: str = "straight") -> Reference:
    """Bring unsigned values (H, W) or (H, W, C) with 1 to 4 channels to 8 bits."""
    values = values[..., None] if values.ndim == 2 else values
    colours = values[..., :1] if values.shape[2] < 3 else values[..., :3]
    rest, tolerance = values[..., colours.shape[2] :], LOSSLESS
    if rest.shape[2] and alpha == "straight":
        full = 2.0**bits - 1
        shown = colours * (rest[..., :1] / full)
        if (rest[..., 0] != full).any():
            tolerance = ROUNDED
        colours = np.rint(shown)
    if bits > 8:
        colours, tolerance = stretched(colours), ROUNDED
    elif bits < 8:
        colours = np.rint(colours * (255.0 / (2**bits - 1)))
    return np.broadcast_to(colours, (*colours.shape[:2], 3)), tolerance


def cmyk_to_rgb(inks: Array) -> Reference:
    """Convert inks (H, W, 4) in [0, 255] without a profile."""
    light = 255.0 - inks
    return np.rint(light[..., :3] * light[..., 3:] / 255), ROUNDED


def upright(values: Array, orientation: int) -> Array:
    """Apply an EXIF orientation."""
    turns: dict[int, Callable[[Array], Array]] = {
        2: lambda v: v[:, ::-1],
        3: lambda v: v[::-1, ::-1],
        4: lambda v: v[::-1],
        5: lambda v: v.swapaxes(0, 1),
        6: lambda v: np.rot90(v, -1),
        7: lambda v: v[::-1, ::-1].swapaxes(0, 1),
        8: lambda v: np.rot90(v, 1),
    }
    return turns.get(orientation, lambda v: v)(values)


def orientation_of(data: bytes) -> int:
    """Return the EXIF orientation in the header."""
    try:
        return int(Image.Image.getexif(Image.open(io.BytesIO(data))).get(274, 1))
    except Exception:
        return 1


def png(data: bytes) -> Reference:
    """Decode a PNG file, whose 1, 2 and 4 bits are expanded by the decoder."""
    at = data.find(b"acTL")  # the mark of an animation may be damaged, and is not needed
    plain = data if at < 0 else data[: at - 4] + data[at + 16 :]
    values = imagecodecs.png_decode(plain)
    return to_rgb(values, bits=16 if values.dtype == np.uint16 else 8)


def jpeg(data: bytes) -> Reference:
    """Decode a JPEG file; inks of Adobe are inverted."""
    values = imagecodecs.jpeg8_decode(data)
    if values.ndim == 3 and values.shape[2] == 4:
        adobe = data.find(b"Adobe", 0, 4000) >= 0
        return cmyk_to_rgb(255 - values if adobe else values)[0], LOSSY
    return to_rgb(values, bits=8)[0], LOSSY


def gif(data: bytes) -> Reference:
    """Decode the first picture of a GIF file."""
    values = imagecodecs.gif_decode(data, index=0)
    return to_rgb(values, bits=8)


def webp(data: bytes) -> Reference:
    """Decode a WebP file."""
    values = imagecodecs.webp_decode(data)
    found, tolerance = to_rgb(values, bits=8)
    return found, tolerance if b"VP8L" in data[:40] else LOSSY


def jpeg2000(data: bytes) -> Reference:
    """Decode a JPEG 2000 file."""
    values = imagecodecs.jpeg2k_decode(data)
    bits = data[data.index(b"\xff\x4f\xff\x51") + 42] + 1
    found, tolerance = to_rgb(values, bits=bits)
    return found, max(tolerance, ROUNDED)


def opencv(data: bytes) -> Reference:
    """Decode with OpenCV."""
    if data.startswith(b"BM") and data[14] == 12:
        raise ValueError("OpenCV takes the colours of OS/2 for four bytes each")
    if data.startswith(b"BM") and data[28] <= 8 and data[10] == data[14] + 14:
        raise ValueError("OpenCV takes the palette for pixels")
    values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("OpenCV does not read it")
    if values.ndim == 3:
        values = values[..., [2, 1, 0, 3][: values.shape[2]]]
    return to_rgb(values, bits=16 if values.dtype == np.uint16 else 8)


def bmp(data: bytes) -> Reference:
    """Decode a BMP file, for which imagecodecs supports the common headers only."""
    missing = int.from_bytes(data[2:6], "little") - len(data)
    values = imagecodecs.bmp_decode(data + bytes(missing if 0 < missing < 4 else 0))  # padding
    if values.ndim == 3 and values.shape[2] == 4 and int.from_bytes(data[54:70:4], "little") == 0:
        values = values[..., :3]
    return to_rgb(values, bits=8)


def netpbm(data: bytes) -> Reference:
    """Decode BMP or GIF with the programs of Netpbm."""
    program = "giftopnm" if data.startswith(b"GIF") else "bmptopnm"
    done = subprocess.run([program, "-quiet"], input=data, capture_output=True, check=True)
    return opencv(done.stdout)


def tiff(data: bytes) -> Reference:
    """Decode a TIFF file with tifffile, and interpret it by its tags."""
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        values = page.asarray()
        bits, space = int(page.bitspersample), page.photometric.name
        extra = [int(kind) for kind in page.extrasamples]
        planar = page.planarconfig == tifffile.PLANARCONFIG.SEPARATE and page.samplesperpixel > 1
        turn = page.tags.get(274)
        table = page.colormap
    values = np.moveaxis(values, 0, -1) if planar else values
    if page.is_jfif if hasattr(page, "is_jfif") else False:
        space = "RGB"
    tolerance = LOSSY if page.compression.name.endswith("JPEG") else LOSSLESS
    if space == "PALETTE":
        found, own = np.moveaxis(table >> 8, 0, -1)[values.astype(int)], LOSSLESS
    elif space == "SEPARATED":
        found, own = cmyk_to_rgb(values)
    elif space in ("MINISWHITE", "MINISBLACK") and (bits > 8 or values.dtype.kind != "u"):
        if values.dtype.kind == "i" and bits == 8:
            found, own = to_rgb(values.astype(np.int16) + 128, bits=8)
        else:
            found = stretched(values, white_is_zero=space == "MINISWHITE")
            found, own = to_rgb(found, bits=8)[0], ROUNDED
    elif space == "MINISWHITE":
        found, own = to_rgb(2**bits - 1 - values.astype(np.uint8), bits=bits)
    elif space == "YCBCR" and tolerance == LOSSLESS:
        y, blue, red = (values[..., k].astype(np.float64) - (k > 0) * 128 for k in range(3))
        rgb = [y + 1.402 * red, y - 0.344136 * blue - 0.714136 * red, y + 1.772 * blue]
        found, own = np.rint(np.stack(rgb, axis=-1)).clip(0, 255), ROUNDED
    elif space in ("RGB", "MINISBLACK", "YCBCR"):
        meaning = "straight" if extra[:1] == [2] or (not extra) else "stored"
        found, own = to_rgb(values, bits=bits, alpha=meaning)
        own = ROUNDED if extra[:1] == [1] else own
    else:
        raise ValueError(f"no rule for {space}")
    return upright(found, int(turn.value) if turn else 1), max(tolerance, own)


def dicom(data: bytes) -> Reference:
    """Decode a DICOM file with pydicom, and show it as the standard says."""
    file = pydicom.dcmread(io.BytesIO(data))
    stored = file.pixel_array
    bits = int(file.get("BitsStored") or file.BitsAllocated)
    if stored.ndim == 3:
        return stored, LOSSLESS
    values = apply_modality_lut(stored, file) if file.get("RescaleSlope") is not None else stored
    signed = file.get("PixelRepresentation") == 1
    if file.get("WindowWidth") is not None or file.get("VOILUTSequence"):
        centre, width = (np.atleast_1d(file.get(f"Window{n}"))[0] for n in ("Center", "Width"))
        if file.get("VOILUTSequence"):
            top = 2 ** file.VOILUTSequence[0].LUTDescriptor[2] - 1
            shown = apply_voi_lut(values, file) / top * 255
        else:
            shown = ((values - (float(centre) - 0.5)) / (float(width) - 1) + 0.5).clip(0, 1) * 255
    elif bits <= 8:
        shown = (values + (2.0 ** (bits - 1) if signed else 0)) / (2**bits - 1) * 255
    else:
        padding = file.get("PixelPaddingValue")
        seen = values if padding is None else values[stored != padding]
        shown = (values - seen.min()) / max(float(np.ptp(seen)), 1e-9) * 255
    inverse = file.PhotometricInterpretation == "MONOCHROME1"
    shown = np.rint(np.clip(shown, 0, 255))
    shown = 255 - shown if inverse or file.get("PresentationLUTShape") == "INVERSE" else shown
    return np.broadcast_to(shown[..., None], (*shown.shape, 3)), ROUNDED


DECODERS: dict[str, tuple[Callable[[bytes], Reference], ...]] = {
    "JPEG": (jpeg,),
    "PNG": (png, opencv),
    "BMP": (bmp, netpbm, opencv),
    "TIFF": (tiff,),
    "GIF": (gif, netpbm, opencv),
    "WebP": (webp,),
    "JPEG 2000": (jpeg2000,),
    "PNM": (opencv, netpbm),
    "DICOM": (dicom,),
}
"""Decoders of each format; the later ones are asked where the first fails or differs."""

TURNED = ("JPEG", "PNG", "WebP")


def compare(data: bytes) -> tuple[str, str, str]:
    """Return the format of a file, the outcome, and the reason or the largest difference."""
    kind = kind_of(data) or "other"
    try:
        read = decode_image(data, where="FILE", channels=3)
    except MedvisionError as error:
        return kind, "refused", error.what
    outcome, about = "alone", "unknown format"
    for decoder in DECODERS[kind]:
        try:
            wanted, tolerance = decoder(data)
        except Exception as error:
            if outcome != "WRONG":
                about = f"{type(error).__name__}: {error}"[:150]
            continue
        if kind in TURNED:
            wanted = upright(wanted, orientation_of(data))
        if wanted.shape != read.shape:
            outcome, about = "WRONG", f"{read.shape}, expected {wanted.shape}"
            continue
        apart = np.abs(read.astype(np.float64) - wanted)
        about = f"differs by {apart.max():g} at most from {decoder.__name__}"
        outcome = "equal" if apart.max() <= tolerance else "WRONG"
        if outcome == "equal":
            break
    return kind, outcome, about


def files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, without code."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.suffix not in (".py", ".pyc", ".pyi", ".pkl"):
            yield path


def main() -> int:
    """Compare all files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--list", action="store_true", help="print every file")
    given = parser.parse_args()
    outcomes = ("equal", "refused", "alone", "WRONG")
    print("| folder | format | files | " + " | ".join(outcomes) + " |")
    print("|---|---|---:|" + "---:|" * len(outcomes))
    shown, wrong = [], 0
    for folder in given.folders:
        counts: Counter[tuple[str, str]] = Counter()
        for path in files(folder):
            kind, outcome, about = compare(path.read_bytes())
            counts[kind, outcome] += 1
            wrong += outcome == "WRONG"
            if given.list or outcome in ("alone", "WRONG"):
                shown.append(f"{outcome:8}{kind:10}{path.relative_to(folder)}: {about}")
        for kind in [*DECODERS, "other"]:
            row = [counts[kind, outcome] for outcome in outcomes]
            if sum(row):
                name = "/".join(folder.parts[-2:])
                print(f"| {name} | {kind} | {sum(row)} | {' | '.join(map(str, row))} |")
    print("\n".join(shown))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

"""Pages of one self-contained file: pictures, tables and numbers as text, and the template engine.

Nothing heavy is imported here: jinja2 and Pillow load where they are used.
"""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError
from medvision.scores import UNDEFINED, Score, is_interval, is_number

if TYPE_CHECKING:  # a module that only formats numbers must not wait for the engine
    from jinja2 import Environment

NOT_MEASURED = "\N{EN DASH}"
LONGEST_VALUE = 24  # characters of a setting
MAX_SIDE_PX, JPEG_QUALITY = 640, 85
SHOWN_DPI = 96  # pixels of a page in an inch of a plot


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside a page: its bytes as a ``data:`` address, and what it shows in words."""

    source: str
    width_px: int
    height_px: int
    alt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of text; ``head`` names every column, and the first one names its lines."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


PLAIN = Score(name="", title="", definition="")


def number(value: float | None) -> str:
    """Three decimals, or ``undefined``."""
    return PLAIN.text(value)


def interval(ends: Sequence[float | None] | None) -> str:
    """Low and high end with three decimals, or ``undefined``."""
    return PLAIN.interval_text(ends) if is_interval(ends) else UNDEFINED


def whole(value: float | None) -> str:
    """A count with a comma between thousands, or ``undefined``."""
    return f"{round(value):,}" if value is not None and math.isfinite(value) else UNDEFINED


def setting_in_words(value: Any) -> str:
    """A setting in a few characters: the last part of a path or of a class's name."""
    if value is None or isinstance(value, bool | list | Mapping):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
        if "/" in text:
            text = f".../{text.rstrip('/').rpartition('/')[2]}"
        elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text):
            text = text.rpartition(".")[2]
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def day(moment: str) -> str:
    """The day of a moment such as ``2026-11-21T20:34:50+00:00``."""
    return str(moment).split("T")[0]


def png_picture(path: Path, *, alt: str, caption: str = "") -> Picture:
    """The PNG of a plot as it is; one with more dots per inch is sharper and no larger.

    Raises:
        MedvisionError: If it cannot be read.
    """
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as picture:
            (width, height), (dpi, _) = picture.size, picture.info.get("dpi", (SHOWN_DPI,) * 2)
    except OSError as error:
        raise MedvisionError(
            f"cannot read the picture {path.name}: {error}",
            where=str(path),
            hint="repair or remove the file",
        ) from error
    return Picture(
        source=_address("image/png", data),
        width_px=round(width * SHOWN_DPI / dpi),
        height_px=round(height * SHOWN_DPI / dpi),
        alt=alt,
        caption=caption,
    )


def jpeg_picture(pixels: NDArray[np.uint8], *, alt: str, caption: str = "") -> Picture:
    """Pixels (H, W, 3) in [0, 255] as a JPEG whose longer side is at most 640 pixels.

    Raises:
        ValueError: If the shape or the type is another.
    """
    from PIL import Image

    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(f"expected uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    picture = Image.fromarray(pixels)
    picture.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return Picture(
        source=_address("image/jpeg", file.getvalue()),
        width_px=picture.width,
        height_px=picture.height,
        alt=alt,
        caption=caption,
    )


def render(template: str, **context: Any) -> str:
    """Fill in a template of this package; all text that it is given is escaped.

    Args:
        template: File name below ``templates``, such as ``report.html.j2``.
        context: What the template asks for; a name that it misses is an error.
    """
    return _environment().get_template(template).render(context)


def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medvision.reports"),
        autoescape=lambda name: name is None or not name.endswith(".css"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(number=number, interval=interval, day=day, whole=whole)
    environment.globals.update(plain=PLAIN, dash=NOT_MEASURED)
    environment.tests.update(a_number=is_number, an_interval=is_interval)
    return environment


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

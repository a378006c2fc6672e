"""Self-contained HTML pages: pictures, tables, formatted numbers, and the template engine.

jinja2 and Pillow are imported where they are used, to keep this module light.
"""

import base64
import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvision.errors import MedvisionError
from medvision.files import read_regular
from medvision.scores import UNDEFINED, Score, is_interval, is_number

if TYPE_CHECKING:  # modules that only format numbers do not load the engine
    from jinja2 import Environment
    from markupsafe import Markup

NOT_MEASURED = "\N{EN DASH}"
LONGEST_VALUE = 24  # longest text of a setting, in characters
MAX_SIDE_PX, JPEG_QUALITY = 640, 85
SHOWN_DPI = 96  # pixels of the page per inch of a plot


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture inside a page: a ``data:`` URL of its bytes, and its text alternative."""

    source: str
    width_px: int
    height_px: int
    alt: str
    caption: str = ""


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table; ``head`` names the columns, and the first column names the rows.

    Cells are numbers, which line up on the right, or with ``words`` text, which breaks into lines.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    words: bool = False


PLAIN = Score(name="", title="", definition="")


def number(value: float | None) -> str:
    """Format with three decimals, or as ``undefined``."""
    return PLAIN.text(value)


def interval(ends: Sequence[float | None] | None) -> str:
    """Format low and high end with three decimals, or as ``undefined``."""
    return PLAIN.interval_text(ends) if is_interval(ends) else UNDEFINED


def whole(value: float | None) -> str:
    """Format a count with thousands separators, or as ``undefined``."""
    return f"{round(value):,}" if value is not None and math.isfinite(value) else UNDEFINED


def counted(value: float | None, noun: str, plural: str | None = None) -> str:
    """Format a count with its noun, in the plural unless it is one."""
    return f"{whole(value)} {noun if value == 1 else plural or f'{noun}s'}"


def setting_in_words(value: Any) -> str:
    """Shorten a setting to a few characters: the last part of a path or class name."""
    if value is None or isinstance(value, bool | list | Mapping):
        text = json.dumps(value, ensure_ascii=False, default=str)
    else:
        text = str(value)
        if "/" in text:
            text = f".../{text.rstrip('/').rpartition('/')[2]}"
        elif re.fullmatch(r"[A-Za-z_]\w*(\.\w+)+", text):
            text = text.rpartition(".")[2]
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."


def breakable(text: str) -> "Markup":
    """Escape text that may be broken between the parts of a name, but not inside a number.

    A line may end after a slash, an underscore, and a dot between letters; a number stays with its
    per cent sign.
    """
    from markupsafe import Markup, escape

    safe = re.sub(r"(?<=\d) %", "\N{NO-BREAK SPACE}%", str(escape(text)))
    return Markup(re.sub(r"([/_]|\.(?=[^\W\d]))", r"\1<wbr>", safe))


def day(moment: str) -> str:
    """Date of a timestamp such as ``2026-11-21T20:34:50+00:00``."""
    return str(moment).split("T")[0]


def png_picture(path: Path, *, alt: str, caption: str = "") -> Picture:
    """Embed the PNG of a plot unchanged; a higher resolution is sharper and not larger on screen.

    Raises:
        MedvisionError: If it cannot be read.
    """
    from PIL import Image

    try:
        data = read_regular(path)
        with Image.open(io.BytesIO(data)) as picture:
            (width, height), (dpi, _) = picture.size, picture.info.get("dpi", (SHOWN_DPI,) * 2)
    except OSError as error:
        raise MedvisionError(
            f"cannot read the picture {path.name}: {error}",
            where=str(path),
            hint="fix or remove the file",
        ) from error
    return Picture(
        source=_address("image/png", data),
        width_px=round(width * SHOWN_DPI / dpi),
        height_px=round(height * SHOWN_DPI / dpi),
        alt=alt,
        caption=caption,
    )


def jpeg_picture(pixels: NDArray[np.uint8], *, alt: str, caption: str = "") -> Picture:
    """Encode pixels (H, W, 3) in [0, 255] as a JPEG with a longer side of at most 640 pixels.

    Raises:
        ValueError: If the pixels have another shape or type.
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
    """Render a template of this package; all inserted text is escaped.

    Args:
        template: File name below ``templates``, such as ``report.html.j2``.
        context: Variables of the template; a missing one raises an error.
    """
    return _environment().get_template(template).render(context)


@cache  # compiled templates included
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("medvision.reports"),
        autoescape=lambda name: name is None or not name.endswith(".css"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        number=number,
        interval=interval,
        day=day,
        whole=whole,
        counted=counted,
        breakable=breakable,
    )
    environment.globals.update(plain=PLAIN, dash=NOT_MEASURED)
    environment.tests.update(a_number=is_number, an_interval=is_interval)
    return environment


def _address(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"

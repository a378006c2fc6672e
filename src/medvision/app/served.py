"""Models and folders of a running app: predictions, archives, saved corrections, safe texts."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.decode import decode
from medvision.errors import MedvisionError
from medvision.export.web import ModelFacts, without_paths
from medvision.files import read_regular, starts_formula, write_atomically, write_table
from medvision.inference import load_model
from medvision.inference.inputs import Input
from medvision.inference.load import summary_of
from medvision.inference.model import Model
from medvision.inference.predict import Outputs, heat_maps
from medvision.inference.results import (
    ClassificationResult,
    Image,
    Result,
    SegmentationResult,
    to_uint8,
)
from medvision.reports.plots.overlays import as_rgb, encode_png, heat_overlay

MOST_PIXELS = 25_000_000
"""Largest image, in pixels: the browser holds several copies of it."""

MOST_IMAGES = 50
"""Largest number of images at once."""

LONGEST_STEM = 60
_SUFFIXES = {
    "JPEG": ".jpg",
    "PNG": ".png",
    "BMP": ".bmp",
    "TIFF": ".tif",
    "GIF": ".gif",
    "WebP": ".webp",
    "JPEG 2000": ".jp2",
    "PNM": ".pnm",
    "DICOM": ".dcm",
}


@dataclass(frozen=True, kw_only=True)
class ServedRun:
    """A model with what its run says about it.

    Attributes:
        name: Name to show.
        model: The model.
        facts: Description of the model.
        audit: Findings of the audit before training, each with severity and text; None if the run
            has no audit.
        report: ``report.html`` without paths of this machine; None if there is none.
    """

    name: str
    model: Model
    facts: ModelFacts
    audit: Sequence[tuple[str, str]] | None
    report: str | None

    @classmethod
    def load(cls, source: Path) -> ServedRun:
        """Load a run folder or model file.

        Raises:
            MedvisionError: If it cannot be read, or its task has no app.
        """
        model = load_model(source)
        if not issubclass(model.result, SegmentationResult | ClassificationResult):
            raise MedvisionError(
                f"the app shows segmentations and classifications, got {model.card.task}",
                where=str(source),
                hint="use medvision predict",
            )
        summary = summary_of(source)
        return cls(
            name=source.expanduser().resolve().name if summary else source.name,
            model=model,
            facts=ModelFacts.of(model.card, summary),
            audit=_findings(summary),
            report=_report(source.expanduser()),
        )

    @property
    def is_segmentation(self) -> bool:
        """True if the model predicts every pixel."""
        return issubclass(self.model.result, SegmentationResult)


def _findings(summary: Mapping[str, Any]) -> list[tuple[str, str]] | None:
    audit = summary.get("audit")
    if not isinstance(audit, Mapping):
        return None
    rows = [one for one in audit.get("findings") or () if isinstance(one, Mapping)]
    return [
        (str(one.get("severity", "note")), without_paths(str(one.get("text", "")))) for one in rows
    ]


def _report(source: Path) -> str | None:
    page = source / "report.html"
    if not page.is_file():
        return None
    return without_paths(read_regular(page).decode("utf-8", errors="replace"))


@dataclass(frozen=True, kw_only=True)
class Shown:
    """An uploaded image with its results.

    Attributes:
        name: Name of the upload.
        data: Its content.
        results: Result of each served run.
        seconds: Time that each result took.
        heat: Heat map of each served run, over the image; None where there is none.
    """

    name: str
    data: bytes
    results: Sequence[Result]
    seconds: Sequence[float]
    heat: Sequence[Image | None]


@dataclass(frozen=True, kw_only=True)
class App:
    """All that the pages of the app share.

    Attributes:
        runs: One or two runs; they have the same task.
        save: Folder for corrected masks.
    """

    runs: Sequence[ServedRun]
    save: Path
    turn: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, name: str, data: bytes, *, heat: bool) -> Shown:
        """Predict an uploaded image with every run; one request at a time.

        Args:
            name: Name of the upload, for messages.
            data: Content of the file.
            heat: If True, compute heat maps of classifiers.

        Raises:
            MedvisionError: If the image cannot be read, is too large, or a heat map is impossible.
        """
        results: list[Result] = []
        seconds: list[float] = []
        heats: list[Image | None] = []
        with self.turn:
            for run in self.runs:
                started_s = time.perf_counter()
                image = run.model.decode(data, where=name)
                if image.shape[0] * image.shape[1] > MOST_PIXELS:
                    raise MedvisionError(
                        f"{image.shape[1]} x {image.shape[0]} pixels exceed the limit of"
                        f" {MOST_PIXELS // 10**6} million",
                        where=name,
                        hint="use medvision predict",
                    )
                (result,) = run.model.predict_batch([image])
                results.append(result)
                seconds.append(round(time.perf_counter() - started_s, 6))
                wanted = heat and not run.is_segmentation
                heats.append(_heat(run.model, image, result) if wanted else None)
        return Shown(name=name, data=data, results=results, seconds=seconds, heat=heats)

    def archive(self, shown: Sequence[Shown | MedvisionError]) -> bytes:
        """Pack the results as ``medvision predict`` writes them, in a folder for each run.

        Args:
            shown: Result of each upload, or the error of ``predict``.
        """
        packed = io.BytesIO()
        with (
            TemporaryDirectory(prefix="medvision-") as temporary,
            zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive,
        ):
            for place, run in enumerate(self.runs):
                top = f"results_{place + 1}" if len(self.runs) > 1 else "results"
                folder = Path(temporary) / top
                folder.mkdir()
                _write_results(folder, run, shown, place)
                for path in sorted(folder.rglob("*")):
                    if path.is_file():
                        archive.write(path, path.relative_to(temporary).as_posix())
        return packed.getvalue()

    def save_pair(self, shown: Shown, mask_png: bytes, run: ServedRun) -> tuple[str, str]:
        """Save an image and its corrected mask as a training pair.

        Args:
            shown: The image.
            mask_png: Mask drawn in the browser, 0 and 255 with two classes, else class indices.
            run: Run whose mask was corrected.

        Returns:
            Names of the image and of the mask below the folder for corrections.

        Raises:
            MedvisionError: If the mask does not fit the image, or cannot be written.
        """
        mask = _checked_mask(mask_png, shown, run)
        digest = hashlib.sha256(shown.data + mask.tobytes()).hexdigest()[:8]
        stem = f"{_safe_stem(shown.name)}_{digest}"
        image = Path("images") / f"{stem}{_suffix(shown)}"
        target = Path("masks") / f"{stem}.png"
        try:
            for path, content in ((image, shown.data), (target, encode_png(mask))):
                (self.save / path.parent).mkdir(parents=True, exist_ok=True)
                write_atomically(self.save / path, content)
        except OSError as error:
            raise MedvisionError(
                f"cannot save the pair: {error.strerror}", where=shown.name, hint="check the disk"
            ) from error
        return image.as_posix(), target.as_posix()


def _heat(model: Model, image: Image, result: Result) -> Image:
    heat = heat_maps(model)([image], [result])[0]
    return heat_overlay(image, heat)[:, image.shape[1] :]


def _write_results(
    folder: Path, run: ServedRun, shown: Sequence[Shown | MedvisionError], place: int
) -> None:
    outputs = Outputs(folder=folder, card=run.model.card, overlays=True, probabilities=True)
    rows, inputs = [], []
    for number, one in enumerate(shown):
        name = str(one.where) if isinstance(one, MedvisionError) else one.name
        row: dict[str, Any] = dict.fromkeys(outputs.columns)
        row["path"] = f"./{name}" if starts_formula(name) else name
        if isinstance(one, MedvisionError):
            row["error"] = one.what
        else:
            given = Input(path=Path(name), name=f"{number + 1:03d}_{_safe_stem(name)}")
            inputs.append(given)
            row |= outputs.write(given, one.results[place], number)
            row["time_s"] = one.seconds[place]
        rows.append(row)
    write_table(folder / "predictions.csv", rows)
    outputs.write_grid(inputs)


def _checked_mask(mask_png: bytes, shown: Shown, run: ServedRun) -> NDArray[np.uint8]:
    result = shown.results[0]
    names = run.model.card.class_names
    data = np.frombuffer(mask_png, np.uint8)
    drawn = cv2.imdecode(data, cv2.IMREAD_GRAYSCALE) if data.size else None
    if drawn is None or drawn.shape != result.image.shape[:2]:
        found = "no picture" if drawn is None else f"{drawn.shape}"
        raise MedvisionError(
            f"expected a mask {result.image.shape[:2]}, got {found}",
            where=shown.name,
            hint="load the image again",
        )
    mask = drawn.astype(np.uint8, copy=False)
    if len(names) == 2:
        return (mask > 127).astype(np.uint8) * np.uint8(255)
    if mask.max() >= len(names):
        raise MedvisionError(
            f"expected classes 0 to {len(names) - 1}, got {mask.max()}",
            where=shown.name,
            hint="load the image again",
        )
    return mask


def _safe_stem(name: str) -> str:
    """Name of an upload without folders, extension and unusual characters."""
    stem = Path(name.replace("\\", "/")).stem
    return re.sub(r"[^A-Za-z0-9_-]+", "_", stem)[:LONGEST_STEM].strip("_") or "image"


def _suffix(shown: Shown) -> str:
    return _SUFFIXES[decode(shown.data, where=shown.name).file_format]


def segmentation_values(result: SegmentationResult, *, name: str, key: str) -> dict[str, Any]:
    """Values of a segmentation for the viewer in the browser."""
    two = result.logits.ndim == 2
    quality = [cv2.IMWRITE_JPEG_QUALITY, 92]
    picture = cv2.cvtColor(as_rgb(result.image), cv2.COLOR_RGB2BGR)
    _, jpeg = cv2.imencode(".jpg", picture, quality)
    return {
        "key": key,
        "name": name,
        "image": base64.b64encode(jpeg.tobytes()).decode(),
        "mask": base64.b64encode(encode_png(result.mask)).decode(),
        "probability": base64.b64encode(encode_png(to_uint8(result.probability))).decode()
        if two
        else None,
        "class_names": list(result.class_names),
        "threshold": result.threshold,
    }

"""Predict folders of images in constant memory, and write masks, overlays and tables."""

from __future__ import annotations

import csv
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.decode import read_bytes
from medvision.errors import MedvisionError
from medvision.files import atomic_path, write_atomically
from medvision.inference.inputs import Input, chunks, find_inputs
from medvision.inference.model import Model, Result
from medvision.inference.model_card import ModelCard
from medvision.inference.results import ClassificationResult, Image, SegmentationResult

SHOWN = 24
"""Pictures in the grid of a classification."""

THUMBNAIL_PX = 224

Explain = Callable[[Sequence[Image], Sequence[int]], NDArray[np.float32]]
"""Heat maps (N, S, S) in [0, 1] of prepared images and class indices."""


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Writes the results of one image after the other, from several threads.

    Attributes:
        folder: Where everything goes.
        card: Of the model.
        overlays: Whether a segmentation gets the image with contours beside the original.
        probabilities: Whether a segmentation gets its probabilities as PNG files.
        grid: The first pictures of a classification with their titles, by name of the input.
    """

    folder: Path
    card: ModelCard
    overlays: bool
    probabilities: bool
    grid: dict[str, tuple[Image, str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Of ``predictions.csv``."""
        if self.card.task == "segmentation":
            names = self.card.class_names
            own = ["foreground_px", "foreground_percent", "num_regions", "mean_confidence"]
            several = [f"foreground_px/{name}" for name in names[1:]] if len(names) > 2 else []
            return ["path", "mask", *own, *several, "time_s", "error"]
        classes = [f"probability/{name}" for name in self.card.class_names]
        return ["path", "predicted", *classes, "time_s", "error"]

    def write_mask(self, given: Input, result: SegmentationResult) -> dict[str, Any]:
        """Write the pictures of a segmentation; return its row."""
        from medvision.reports.plots.overlays import draw_overlay, encode_png

        two = len(self.card.class_names) == 2
        mask = result.mask * np.uint8(255) if two else result.mask
        self._write("masks", given, encode_png(mask))
        if self.overlays:
            self._write("overlays", given, encode_png(draw_overlay(result.image, result.mask)))
        if self.probabilities:
            p = result.probability if two else 1 - result.probability[..., 0]
            self._write("probabilities", given, encode_png(to_uint8(p)))
        row = {
            "mask": f"masks/{given.name}.png",
            "foreground_px": result.foreground_px,
            "foreground_percent": result.foreground_percent,
            "num_regions": result.num_regions,
            "mean_confidence": result.mean_confidence,
        }
        if not two:
            counts = np.bincount(result.mask.ravel(), minlength=self.card.num_classes)
            names = self.card.class_names[1:]
            row |= {f"foreground_px/{n}": int(c) for n, c in zip(names, counts[1:], strict=True)}
        return row

    def write_class(self, given: Input, result: ClassificationResult, place: int) -> dict[str, Any]:
        """Keep the picture of a classification for the grid; return its row."""
        if place < SHOWN:
            title = f"{result.predicted} {100 * result.confidence:.1f} %"
            self.grid[given.name] = (_thumbnail(result.image), title)
        probability = {f"probability/{name}": p for name, p in result.probability.items()}
        return {"predicted": result.predicted, **probability}

    def write_heat(self, given: Input, image: Image, heat: NDArray[np.float32]) -> None:
        """Write what the network looked at, beside the image."""
        from medvision.reports.plots.overlays import encode_png, heat_overlay

        self._write("explanations", given, encode_png(heat_overlay(image, heat)))

    def write_grid(self, inputs: Sequence[Input]) -> None:
        """Write the pictures kept, in the order of the inputs."""
        from medvision.reports.plots.prediction_grid import write_grid

        kept = [self.grid[given.name] for given in inputs[:SHOWN] if given.name in self.grid]
        if kept:
            note = f"the first {len(kept)} of {len(inputs)} images" if len(inputs) > SHOWN else ""
            pictures, titles = zip(*kept, strict=True)
            write_grid(self.folder / "grid.png", pictures, titles, note=note)

    def _write(self, kind: str, given: Input, png: bytes) -> None:
        path = self.folder / kind / f"{given.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png)


def to_uint8(probability: NDArray[np.float32]) -> NDArray[np.uint8]:
    """The 8-bit value of a probability p: min(255, floor(256 p)); 128 and more is p >= 0.5."""
    return np.minimum(probability * 256, 255).astype(np.uint8)


def _thumbnail(image: Image) -> Image:
    scale = THUMBNAIL_PX / max(image.shape[:2])
    if scale >= 1:
        return image
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return small.reshape(size[1], size[0], image.shape[2]).astype(np.uint8, copy=False)


BATCH_SIZE = 8
"""More gains nothing on a CPU, and needs memory."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """What became of the images.

    Attributes:
        num_done: How many were predicted.
        failures: File and reason of every other one.
        notes: What a reader should know.
        seconds: From the first to the last image.
    """

    num_done: int
    failures: list[tuple[Path, str]]
    notes: list[str]
    seconds: float


Row = dict[str, Any]


def predict_files(
    model: Model,
    given: Sequence[Path],
    *,
    out: Path,
    overlays: bool = True,
    probabilities: bool = False,
    tta: bool = False,
    explain: bool = False,
    batch_size: int = BATCH_SIZE,
    overwrite: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict images of any size and write what was found.

    Writes ``predictions.csv`` with a row per image in the order given, and for a segmentation
    ``masks/<name>.png`` at the size of the file (0 and 255, or class indices) and
    ``overlays/<name>.png``; for a classification ``grid.png``. A file that cannot be read has
    its reason in the column ``error``, and the others are done.

    Args:
        model: From ``load_model``.
        given: Files and folders.
        out: Folder for the results, new or empty.
        overlays: Write the image with contours, the original beside it.
        probabilities: Write foreground probabilities p as 8-bit PNG, min(255, floor(256 p)).
        tta: Average over mirrored images too.
        explain: Write Grad-CAM heat maps of the predicted classes; for classifiers.
        batch_size: Images that go through the network together.
        overwrite: Write into a folder that holds something.
        advance: Told the number of images done, and of all, after every batch.

    Raises:
        MedvisionError: If the inputs or the folder cannot be used, or the disk refuses.
    """
    explained = _explainer(model) if explain else None
    inputs, notes = find_inputs(given)
    _make_folder(out, overwrite=overwrite)
    outputs = Outputs(folder=out, card=model.card, overlays=overlays, probabilities=probabilities)
    places = {chosen.name: place for place, chosen in enumerate(inputs)}

    def work(chunk: list[Input]) -> list[Row]:
        started_s = time.perf_counter()
        rows: list[Row] = []
        readable: list[tuple[Row, Input, Image]] = []
        for each in chunk:
            row: Row = {"path": str(each.path)}
            rows.append(row)
            try:
                image = model.decode(read_bytes(each.path), where=str(each.path))
            except MedvisionError as error:
                row["error"] = error.what
            else:
                readable.append((row, each, image))
        if not readable:
            return rows
        results = model.predict_batch([image for *_, image in readable], tta=tta)
        for (row, each, _), result in zip(readable, results, strict=True):
            row |= _write(outputs, each, result, places[each.name])
        if explained is not None:
            _explain(model, outputs, explained, readable, results)
        for row, *_ in readable:
            row["time_s"] = round((time.perf_counter() - started_s) / len(readable), 6)
        return rows

    started_s = time.perf_counter()
    failures: list[tuple[Path, str]] = []
    try:
        with _new_table(out / "predictions.csv", outputs.columns) as table:
            done = 0
            most = _even_share(len(inputs), most=batch_size, threads=model.engine.threads)
            for rows in _in_order(model, work, chunks(inputs, most=most)):
                table.writerows(rows)
                failures += [(Path(row["path"]), row["error"]) for row in rows if "error" in row]
                done += len(rows)
                if advance is not None:
                    advance(done, len(inputs))
        if model.card.task == "classification":
            outputs.write_grid(inputs)
    except OSError as error:
        raise MedvisionError(
            f"cannot write the results: {error.strerror or error}",
            where=str(out),
            hint="check space and permissions",
            exit_code=3,
        ) from error
    return Predicted(
        num_done=len(inputs) - len(failures),
        failures=failures,
        notes=notes,
        seconds=time.perf_counter() - started_s,
    )


def _write(outputs: Outputs, given: Input, result: Result, place: int) -> Row:
    if isinstance(result, ClassificationResult):
        return outputs.write_class(given, result, place)
    return outputs.write_mask(given, result)


def _even_share(count: int, *, most: int, threads: int) -> int:
    """Size of batches that keeps all threads busy to the end, of few images too."""
    rounds = math.ceil(count / (most * threads))
    return math.ceil(count / (rounds * threads))


def _in_order(
    model: Model, work: Callable[[list[Input]], list[Row]], batches: Iterator[list[Input]]
) -> Iterator[list[Row]]:
    """Do the batches in threads, a few ahead; give their rows in order."""
    threads = model.engine.threads
    with model.engine.side_by_side():
        pool = ThreadPoolExecutor(threads, initializer=model.engine.start_thread)
        waiting: deque[Future[list[Row]]] = deque()
        try:
            for batch in batches:
                waiting.append(pool.submit(work, batch))
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)  # Ctrl-C does not wait for the rest


@contextmanager
def _new_table(path: Path, columns: list[str]) -> Iterator[csv.DictWriter[str]]:
    """A csv file that has its name only once it is complete."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8") as stream,
    ):
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        yield writer


def _make_folder(out: Path, *, overwrite: bool) -> None:
    try:
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
            raise MedvisionError(
                "exists and is not empty", where=str(out), hint="name a new folder, or --overwrite"
            )
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MedvisionError(
            f"cannot make the folder: {error.strerror}",
            where=str(out),
            hint="name one you may write to",
        ) from error


def _explainer(model: Model) -> Callable[..., Any]:
    """Grad-CAM of the model's network, one batch at a time."""
    network = getattr(model.engine, "network", None)
    if model.card.task != "classification" or network is None:
        raise MedvisionError(
            "heat maps explain classifiers in PyTorch",
            where="--explain",
            hint="give the run or checkpoint of a classifier, or leave it out",
        )
    from medvision.inference.explain import explain

    turn = threading.Lock()  # hooks and gradients belong to one batch

    def maps(images: Any, classes: Sequence[int]) -> Any:
        with turn:
            return explain(network, images, classes, num_classes=model.card.num_classes)

    return maps


def _explain(
    model: Model,
    outputs: Outputs,
    explained: Callable[..., Any],
    readable: Sequence[tuple[Row, Input, Image]],
    results: Sequence[Result],
) -> None:
    names = model.card.class_names
    chosen = [names.index(r.predicted) for r in results if isinstance(r, ClassificationResult)]
    images = np.stack([model.prepare(image) for *_, image in readable])
    for (_, given, image), heat in zip(readable, explained(images, chosen), strict=True):
        outputs.write_heat(given, image, heat)

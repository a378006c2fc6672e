"""Predict folders of images in constant memory, and write masks, overlays and tables."""

from __future__ import annotations

import csv
import errno
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.data.readers.annotations import (
    Shapes,
    coco_file,
    labelme_file,
    read_content,
    shapes_of,
)
from medvision.data.readers.images import count_remarks
from medvision.errors import MedvisionError
from medvision.files import atomic_path, check_links, file_errors, starts_formula, write_atomically
from medvision.inference.inputs import Input, chunks, find_inputs
from medvision.inference.model import Model
from medvision.inference.model_card import ModelCard
from medvision.inference.results import ClassificationResult, Image, Result, SegmentationResult
from medvision.reports.plots.overlays import encode_png, heat_overlay, shrunk, write_grid
from medvision.task_definition import task_of

FOLDERS = ("masks", "overlays", "probabilities", "explanations", "labelme")
"""Folders of results."""

ShapesFormat = Literal["coco", "labelme"]

SHOWN = 24
"""Number of images in the grid of results."""

THUMBNAIL_PX = 224


@dataclass(frozen=True, kw_only=True)
class Outputs:
    """Writer of the results of single images, called from several threads.

    Attributes:
        folder: Output folder.
        card: Model card.
        overlays: If True, write the image with contours beside the original.
        probabilities: If True, write probabilities as PNG files.
        shapes_format: Format of annotation files to write; None writes none.
        base: Folder that file names in a COCO file are relative to.
        shapes: File name, size and shapes of each image, by name of the input; for a COCO file.
        grid: First images whose result has a title, with their titles, by name of the input.
    """

    folder: Path
    card: ModelCard
    overlays: bool
    probabilities: bool
    shapes_format: ShapesFormat | None = None
    base: Path = Path()
    shapes: dict[str, tuple[str, tuple[int, int], Shapes]] = field(default_factory=dict)
    grid: dict[str, tuple[Image, str]] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        """Columns of ``predictions.csv``."""
        result: type[Result] = task_of(self.card.task).load("result")
        return ["path", *result.columns(self.card), "time_s", "error"]

    def write(self, given: Input, result: Result, place: int) -> dict[str, Any]:
        """Write the pictures of a result, or keep its image for the grid, and return its row."""
        row = result.row()
        wanted = {"overlays": self.overlays, "probabilities": self.probabilities}
        for kind, picture in result.pictures(**wanted).items():
            self._write(kind, given, encode_png(picture))
            if kind == "masks":
                row["mask"] = f"masks/{given.name}.png"
        if self.shapes_format is not None and isinstance(result, SegmentationResult):
            self._write_shapes(given, result)
        if result.title is not None and place < SHOWN:
            self.grid[given.name] = (shrunk(result.image, THUMBNAIL_PX), result.title)
        return row

    def _write_shapes(self, given: Input, result: SegmentationResult) -> None:
        height, width = result.mask.shape
        shapes = shapes_of(result.mask, result.class_names)
        if self.shapes_format == "coco":
            name = Path(os.path.relpath(given.path, self.base)).as_posix()
            self.shapes[given.name] = (name, (height, width), shapes)
            return
        path = self.folder / "labelme" / f"{given.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Path(os.path.relpath(given.path.absolute(), path.parent.absolute())).as_posix()
        write_atomically(path, labelme_file(image, (height, width), shapes))

    def write_coco(self, inputs: Sequence[Input]) -> None:
        """Write the kept shapes as one COCO file, in the order of the inputs."""
        if self.shapes_format == "coco":
            images = [self.shapes[given.name] for given in inputs if given.name in self.shapes]
            content = coco_file(images, self.card.class_names)
            write_atomically(self.folder / "annotations.json", content)

    def write_heat(self, given: Input, image: Image, heat: NDArray[np.float32]) -> None:
        """Write the heat map beside the image."""
        self._write("explanations", given, encode_png(heat_overlay(image, heat)))

    def write_grid(self, inputs: Sequence[Input]) -> None:
        """Write the grid of kept images, in the order of the inputs."""
        kept = [self.grid[given.name] for given in inputs[:SHOWN] if given.name in self.grid]
        if kept:
            note = f"the first {len(kept)} of {len(inputs)} images" if len(inputs) > SHOWN else ""
            pictures, titles = zip(*kept, strict=True)
            write_grid(self.folder / "grid.png", pictures, titles, note=note)

    def _write(self, kind: str, given: Input, png: bytes) -> None:
        path = self.folder / kind / f"{given.name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, png)


BATCH_SIZE = 8
"""Default batch size; larger ones are not faster on a CPU and need more memory."""


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """Result of predicting files.

    Attributes:
        num_done: Number of predicted files.
        failures: File and reason of every failure.
        notes: Remarks for the user.
        seconds: Time from the first to the last image.
    """

    num_done: int
    failures: list[tuple[Path, str]]
    notes: list[str]
    seconds: float


Row = dict[str, Any]

_MOST_WORDS = 200  # characters
_MANY_FAULTS = 16  # inputs at the start, after which the network is at fault


def predict_files(
    model: Model,
    given: Sequence[Path],
    *,
    out: Path,
    overlays: bool = True,
    probabilities: bool = False,
    tta: bool = False,
    explain: bool = False,
    shapes_format: ShapesFormat | None = None,
    batch_size: int = BATCH_SIZE,
    overwrite: bool = False,
    advance: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Predict images of any size and write the results.

    Writes ``predictions.csv`` with a row per image in the given order, and for a segmentation
    ``masks/<name>.png`` at the original image size (0 and 255, or class indices) and
    ``overlays/<name>.png``; for a classification ``grid.png``. For a file that cannot be read,
    for which the output of the network is not finite, or whose results cannot be written, the
    column ``error`` contains the reason, and the other files are still predicted.

    Args:
        model: Model returned by ``load_model``.
        given: Files and folders.
        out: Folder for the results, new or empty.
        overlays: If True, write the image with contours beside the original.
        probabilities: If True, write foreground probabilities p as 8-bit PNG,
            min(255, floor(256 p)).
        tta: If True, average over mirrored images (test-time augmentation).
        explain: If True, write Grad-CAM heat maps of the predicted classes; classifiers only.
        shapes_format: ``coco`` writes the masks as polygons into ``annotations.json``, ``labelme``
            into ``labelme/<name>.json``, for correction in an annotation tool; segmentation only.
        batch_size: Number of images per forward pass.
        overwrite: If True, accept an output folder that is not empty.
        advance: Callback with the number of processed images and of all images, called after
            every batch.

    Raises:
        MedvisionError: If the inputs or the folder are invalid, or writing fails.
    """
    explained = heat_maps(model) if explain else None
    if shapes_format is not None:
        _check_shapes(model)
    inputs, notes = find_inputs(given)
    _make_folder(out, overwrite=overwrite)
    outputs = Outputs(
        folder=out,
        card=model.card,
        overlays=overlays,
        probabilities=probabilities,
        shapes_format=shapes_format,
        base=_common_folder(given, inputs),
    )
    places = {chosen.name: place for place, chosen in enumerate(inputs)}
    unexpected: list[Exception] = []
    remarks: list[str] = []

    def work(chunk: list[Input]) -> list[Row]:
        started_s = time.perf_counter()
        rows: list[Row] = []
        readable: list[tuple[Row, Input, Image]] = []
        for each in chunk:
            path = str(each.path)
            row: Row = {"path": f"./{path}" if starts_formula(path) else path}
            rows.append(row)
            if each.error is not None:
                row["error"] = each.error
                continue
            try:
                data = read_content(Path(), path)
                image = model.decode(data, where=path, remark=remarks.append)
            except MedvisionError as error:
                row["error"] = error.what
            else:
                readable.append((row, each, image))
        images = [image for *_, image in readable]
        kept, results = _each_or_none(images, lambda some: model.predict_batch(some, tta=tta))
        for (row, *_), fault in zip(readable, kept, strict=True):
            if fault is not None:
                row["error"] = f"cannot be predicted: {_in_one_line(fault)}"
                if not isinstance(fault, MedvisionError):
                    unexpected.append(fault)
        readable = [given for given, fault in zip(readable, kept, strict=True) if fault is None]
        if not readable:
            return rows
        for (row, each, _), result in zip(readable, results, strict=True):
            with _own_error(row):
                row |= outputs.write(each, result, places[each.name])
        if explained is not None:
            heats = explained([image for *_, image in readable], results)
            for (row, each, image), heat in zip(readable, heats, strict=True):
                with _own_error(row):
                    outputs.write_heat(each, image, heat)
        for row, *_ in readable:
            row["time_s"] = round((time.perf_counter() - started_s) / len(readable), 6)
        return rows

    started_s = time.perf_counter()
    failures: list[tuple[Path, str]] = []
    with file_errors("cannot write the results", out):
        with _new_table(out / "predictions.csv", outputs.columns) as table:
            done = 0
            most = _even_share(len(inputs), most=batch_size, threads=model.engine.threads)
            for rows in _in_order(model, work, chunks(inputs, most=most)):
                table.writerows(rows)
                failures += [(Path(row["path"]), row["error"]) for row in rows if "error" in row]
                done += len(rows)
                if advance is not None:
                    advance(done, len(inputs))
                enough = done == len(inputs) or len(unexpected) >= _MANY_FAULTS
                if unexpected and len(failures) == done and enough:
                    raise unexpected[0]  # then no input is at fault
        outputs.write_grid(inputs)
        outputs.write_coco(inputs)
    return Predicted(
        num_done=len(inputs) - len(failures),
        failures=failures,
        notes=[*notes, *count_remarks(remarks, of=len(inputs) - len(failures))],
        seconds=time.perf_counter() - started_s,
    )


_OF_ALL = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG),
    *(errno.EMFILE, errno.ENFILE, errno.ENOMEM),
)
"""Errors that the next file would meet too."""


def _each_or_none(
    images: list[Image], predict: Callable[[list[Image]], list[Result]]
) -> tuple[list[Exception | None], list[Result]]:
    """Predict a batch, and after an error each image alone: only some may be at fault.

    Returns:
        The error of each image or None, and the results of those without.
    """
    try:
        return [None] * len(images), predict(images) if images else []
    except Exception as fault:
        if len(images) == 1:
            return [fault], []
    faults: list[Exception | None] = []
    results: list[Result] = []
    for image in images:
        own, found = _each_or_none([image], predict)
        faults += own
        results += found
    return faults, results


def _in_one_line(fault: Exception) -> str:
    words = fault.what if isinstance(fault, MedvisionError) else " ".join(str(fault).split())
    return words[:_MOST_WORDS] or type(fault).__name__


@contextmanager
def _own_error(row: Row) -> Iterator[None]:
    """Note in its row why the results of an image cannot be written; the others still can."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.errno in _OF_ALL:
            raise
        row["error"] = f"cannot write its results: {error.strerror}"


def _even_share(count: int, *, most: int, threads: int) -> int:
    """Choose a batch size that keeps all threads busy to the end, even for few images."""
    rounds = math.ceil(count / (most * threads))
    return math.ceil(count / (rounds * threads))


def _in_order(
    model: Model, work: Callable[[list[Input]], list[Row]], batches: Iterator[list[Input]]
) -> Iterator[list[Row]]:
    """Process batches in threads, a few ahead, and yield their rows in order."""
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
            pool.shutdown(cancel_futures=True)  # do not wait for the rest on Ctrl-C


@contextmanager
def _new_table(path: Path, columns: list[str]) -> Iterator[csv.DictWriter[str]]:
    """Open a csv file that gets its final name only once it is complete."""
    with (
        atomic_path(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
        writer.writeheader()
        yield writer


def _make_folder(out: Path, *, overwrite: bool) -> None:
    with file_errors("cannot create the folder", out, hint="give a writable folder", exit_code=2):
        if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not overwrite)):
            raise MedvisionError(
                "exists and is not empty", where=str(out), hint="give a new folder, or --overwrite"
            )
        out.mkdir(parents=True, exist_ok=True)
        check_links(out, replaced=FOLDERS)


def _check_shapes(model: Model) -> None:
    result: type[Result] = task_of(model.card.task).load("result")
    if not issubclass(result, SegmentationResult):
        raise MedvisionError(
            f"expected masks, got a model for {model.card.task}",
            where="--format",
            hint="leave --format out",
        )


def _common_folder(given: Sequence[Path], inputs: Sequence[Input]) -> Path:
    """Return the folder that was given, or the nearest one above all images."""
    folders = [path.expanduser() for path in given]
    if len(folders) == 1 and folders[0].is_dir():
        return folders[0]
    return Path(os.path.commonpath([each.path.absolute().parent for each in inputs]))


def heat_maps(
    model: Model,
) -> Callable[[Sequence[Image], Sequence[Result]], NDArray[np.float32]]:
    """Create a function for Grad-CAM (N, S, S) of the predicted classes, one batch at a time.

    Raises:
        MedvisionError: If the model is not a classifier in PyTorch.
    """
    network = getattr(model.engine, "network", None)
    result: type[Result] = task_of(model.card.task).load("result")
    if network is None or not issubclass(result, ClassificationResult):
        raise MedvisionError(
            "heat maps need a classifier in PyTorch",
            where="--explain",
            hint="give the run or checkpoint of a classifier, or remove --explain",
        )
    from medvision.inference.explain import explain, in_float32

    network = in_float32(network)  # once; the engine may hold weights in bfloat16
    turn = threading.Lock()  # hooks and gradients belong to one batch at a time
    names = model.card.class_names

    def maps(images: Sequence[Image], results: Sequence[Result]) -> NDArray[np.float32]:
        chosen = [names.index(r.predicted) for r in results if isinstance(r, ClassificationResult)]
        prepared = np.stack([model.prepare(image) for image in images])
        with turn:
            return explain(network, prepared, chosen, num_classes=len(names))

    return maps

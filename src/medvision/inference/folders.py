"""Predict folders of images, many at once in constant memory."""

from __future__ import annotations

import csv
import math
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medvision.data.decode import read_bytes
from medvision.inference.inputs import Input, chunks, find_inputs
from medvision.inference.model import Model, Result
from medvision.inference.outputs import Outputs
from medvision.inference.results import ClassificationResult, Image
from medvision.types import MedvisionError

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
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns, restval="", lineterminator="\n")
            writer.writeheader()
            yield writer
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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

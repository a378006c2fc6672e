"""Screen output of the verbs, and the table of scoring conventions."""

import functools
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table

from medvision.console import progress_bar, say
from medvision.errors import printable
from medvision.types import RESEARCH_ONLY

Rows = Sequence[Mapping[str, Any]]


def convention_table(rows: Rows) -> Table:
    """A row per convention, its difference from medvision's own below each score.

    Args:
        rows: What ``summary.json`` holds under ``conventions``.
    """
    segmentation = "dice" in rows[0]
    columns = ("dice", "iou") if segmentation else ("value",)
    table = Table(
        title="the same predictions by other conventions", box=box.SIMPLE_HEAD, pad_edge=False
    )
    if not segmentation:
        table.add_column("score", no_wrap=True)
    table.add_column("convention", ratio=1, overflow="fold")
    table.add_column("reported by", ratio=1, overflow="fold")
    for column in columns:
        table.add_column({"dice": "Dice", "iou": "IoU"}.get(column, "value"), justify="right")
        table.add_column("+/-", justify="right", no_wrap=True)
    for row in rows:
        if row["binary_only"] and all(row[column] is None for column in columns):
            continue
        cells = [] if segmentation else [row["score"]]
        cells += [row["name"] + " *" * row["optimistic"], row["tools"]]
        for column in columns:
            difference = row["difference" if column == "value" else f"{column}_difference"]
            own = "own" if row["own"] else _number(difference, "+.3f")
            cells += [_number(row[column], ".4f"), own]
        table.add_row(*cells, style="bold" if row["own"] else "")
    return table


def convention_words(rows: Rows) -> list[str]:
    """What a reader of the table must know, a line each.

    Args:
        rows: What ``summary.json`` holds under ``conventions``.
    """
    column = "dice" if "dice" in rows[0] else "value"
    known = [row for row in rows if row[column] is not None]
    spans = []
    for score in dict.fromkeys(_score(row) for row in known):
        values = [row[column] for row in known if _score(row) == score]
        spans.append(f"{score} from {min(values):.3f} to {max(values):.3f}")
    lines = [
        "Scores can be compared only within one convention: of the same predictions they give"
        f" {', '.join(spans)}."
    ]
    if any(row["optimistic"] for row in known):
        lines.append("* chosen on the very images that are scored: optimistic, no test score.")
    left_out = [row for row in rows if row["binary_only"] and row[column] is None]
    if left_out:
        names = "; ".join(f"{row.get('score', '')} {row['name']}".strip() for row in left_out)
        lines.append(f"Defined for two classes only: {names}.")
    return lines


def _score(row: Mapping[str, Any]) -> str:
    return str(row.get("score", "Dice"))


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return format(value if abs(value) >= 0.0005 or "+" not in form else 0.0, form)


MOST_FAILURES = 20
"""Unreadable files named one by one; the table of results names them all."""


def predict_on_screen(model: Path, images: Sequence[Path], *, out: Path, **options: Any) -> int:
    """Predict with a bar that shows rate and time left; return the exit code."""
    from medvision.hardware import keep_freed_memory
    from medvision.inference import load_model, predict_files

    keep_freed_memory()
    loaded = load_model(model)
    say(f"{loaded!r}")
    with progress_bar(transient=False) as advance:
        show = functools.partial(advance, "predict")
        done = predict_files(loaded, images, out=out, advance=show, **options)
    for note in done.notes:
        say(f"note: {note}")
    rate = done.num_done / done.seconds if done.seconds else 0
    images_done = "1 image" if done.num_done == 1 else f"{done.num_done} images"
    say(f"{images_done} in {done.seconds:.1f} s, {rate:.1f} images/s")
    say(RESEARCH_ONLY)
    say(str(out))
    if not done.failures:
        return 0
    total = done.num_done + len(done.failures)
    for path, reason in done.failures[:MOST_FAILURES]:
        sys.stderr.write(printable(f"not done: {path}: {reason}\n"))
    sys.stderr.write(
        f"error: {len(done.failures)} of {total} images could not be read"
        f" ({out / 'predictions.csv'}, column error); mend or remove them\n"
    )
    return 1


def evaluate_on_screen(run: Path, **options: Any) -> None:
    """Measure a finished run, and print how other tools would score the same predictions."""
    from medvision.run.evaluation.evaluate import evaluate_run

    summary = evaluate_run(run, **options)
    rows = summary.get("conventions", [])
    if options["conventions"] and rows:
        Console().print(convention_table(rows))
        for line in convention_words(rows):
            say(line)


def export_on_screen(
    model: Path,
    *,
    format: Literal["onnx", "safetensors"],  # noqa: A002  the option's name
    out: Path | None,
    images: Sequence[Path],
) -> None:
    """Export, and say what it was checked on."""
    from medvision.export import default_name, export_model

    export_model(
        model, format=format, out=out or default_name(model, format), images=images, report=say
    )


def compare_on_screen(runs: Sequence[Path], *, out: Path) -> None:
    """Compare, and print the table."""
    from medvision.comparison.compare import compare, print_comparison

    print_comparison(compare(runs, out=out))
    say(str(out))


def list_data() -> None:
    """Print the catalogue."""
    from medvision.data.download.catalog import list_text

    for line in list_text().splitlines():
        say(line)


def download_data(name: str, *, root: Path) -> None:
    """Fetch a set of the catalogue, and say what it is and where it lies now."""
    from medvision.data.download.catalog import find, text_of
    from medvision.data.download.download import download

    for line in text_of(find(name)).splitlines():
        say(line)
    done = download(name, root, report=say)
    say(f"{done.num_files} files in {done.root}; SHA-256 of the download {done.sha256}")

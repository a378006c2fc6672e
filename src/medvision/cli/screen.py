"""Screen output of the verbs."""

from __future__ import annotations

import functools
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.console import counted, progress_bar, say
from medvision.errors import MedvisionError, printable
from medvision.types import RESEARCH_ONLY

if TYPE_CHECKING:  # decoding and comparing load when a folder is there to be read
    from medvision.audit.check import Audit

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
    say(f"{counted(done.num_done, 'image')} in {done.seconds:.1f} s, {rate:.1f} images/s")
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


_AUDIT_OPTIONS = {
    "data.group_pattern": "--group-pattern",
    "data.mask_suffix=": "--mask-suffix ",
    "data.class_names": "--num-classes",
    "data.root": "ROOT",
}
_SHARD_OPTIONS = {
    **_AUDIT_OPTIONS,
    "data.on_error=skip": "--on-error skip",
    "data.value_range": "--value-range",
    "data.color_map": "--color",
}
"""Config keys that errors of shared code name, and the option of the command for each."""


@contextmanager
def _options_in_errors(options: Mapping[str, str]) -> Iterator[None]:
    """Name options of the command instead of config keys in errors."""
    try:
        yield
    except MedvisionError as error:
        where, hint = (
            None if text is None else _with_options(text, options)
            for text in (error.where, error.hint)
        )
        what = _with_options(error.what, options)
        raise MedvisionError(what, where=where, hint=hint, exit_code=error.exit_code) from error


def _with_options(text: str, options: Mapping[str, str]) -> str:
    for key, option in options.items():
        text = text.replace(key, option)
    return text


SHOWN_FILES = 2
STYLES = {"leak": "bold red", "conflict": "bold red", "fault": "bold red", "warning": "yellow"}


def audit_on_screen(
    root: Path,
    *,
    against: Path | None,
    out: Path | None,
    group_pattern: str | None,
    mask_suffix: str,
    num_classes: int,
) -> int:
    """Audit a folder, write the results, print them; return the exit code."""
    from medvision.audit.check import audit
    from medvision.audit.report import check_out, write_audit
    from medvision.audit.scan import scan

    started = time.perf_counter()
    out = out or Path("audit") / (root.expanduser().resolve().name or "root")
    check_out(out, [path.expanduser() for path in (root, against) if path is not None])
    with progress_bar() as advance:
        advance("read", 0, None)
        with _options_in_errors(_AUDIT_OPTIONS):
            data = scan(
                root,
                against=against,
                group_pattern=group_pattern,
                mask_suffix=mask_suffix,
                num_classes=num_classes,
                advance=functools.partial(advance, "read"),
            )
        advance("compare", 0, None)
        found = audit(data, started=started)
        files = write_audit(found, out)
    print_audit(found)
    for path in files:
        say(str(path))
    return found.exit_code


def print_audit(found: Audit, *, console: Console | None = None) -> None:
    """Print the verdict, every finding with its first files, and the numbers.

    Args:
        found: What `medvision.audit.check.audit` returned.
        console: Where to; the screen unless given. 80 columns are enough.
    """
    console = console or Console()
    content = found.to_dict()
    counts = ", ".join(f"{k} {v}" for k, v in content["num_images_by_split"].items() if k != "none")
    console.print(
        f"{content['name']}: {content['task']}, {content['num_images']} images"
        + (f" ({counts})" if counts else ", no split given"),
        highlight=False,
        markup=False,
    )
    console.print()
    console.print(_findings_table(content) if content["findings"] else "Nothing was found.")
    console.print()
    console.print(_numbers_table(content))
    console.print()
    style = STYLES["leak"] if content["exit_code"] else "bold"
    console.print(Text(f"{content['verdict']}.", style=style))
    console.print(RESEARCH_ONLY, highlight=False)


def _findings_table(content: Mapping[str, Any]) -> Table:
    table = Table(box=box.MINIMAL, show_edge=False, show_lines=True, padding=(0, 1))
    table.add_column("", no_wrap=True)
    table.add_column("what was found", overflow="fold")
    for finding in content["findings"]:
        text = Text(finding["text"])
        files = finding["files"]
        if files:
            rest = len(files) - SHOWN_FILES
            names = ", ".join(files[:SHOWN_FILES]) + (f" and {rest} more" if rest > 0 else "")
            text.append(f"\n{names}", style="dim")
        if finding["advice"]:
            text.append(f"\n-> {finding['advice']}")
        table.add_row(Text(finding["severity"], style=STYLES.get(finding["severity"], "")), text)
    return table


def _numbers_table(content: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in ("exact", "near"):
        part = content[f"{name}_duplicates"]
        words = f"{counted(part['groups'], 'group')} with {part['images']} images"
        sizes = content["num_images_by_split"]
        if {"train", "test"} <= sizes.keys():
            words += f"; {part['test_images_in_train']} of {sizes['test']} test images in train"
        table.add_row(f"{name} duplicates" if name == "exact" else "near-duplicates", words)
    table.add_row("conflicts", counted(len(content["label_conflicts"]), "pair"))
    memory = content["memory_baseline"]
    if memory is not None:
        metric = "accuracy" if "accuracy" in memory else "dice"
        asked = "" if memory["protocol"] == "test split" else ", each image left out in turn"
        table.add_row(
            "nearest neighbour",
            f"{metric.replace('dice', 'Dice')} {_with_interval(memory, metric)},"
            f" chance {memory['chance']:.3f}{asked}: a network must beat that",
        )
        for part, name in (("with_twin", "with a twin"), ("without_twin", "without one")):
            if memory["with_twin"]["num_images"]:
                number = memory[part]["num_images"]
                table.add_row(
                    f"  {name}",
                    f"{_with_interval(memory[part], metric)}, {counted(number, 'image')}",
                )
    table.add_row("time", f"{content['elapsed_s']:.1f} s")
    return table


def _with_interval(part: Mapping[str, Any], metric: str) -> str:
    if part[metric] is None:
        return "undefined"
    low, high = part[f"{metric}_ci95"]
    return f"{part[metric]:.3f} ({low:.3f} to {high:.3f})"


MEGABYTE = 10**6


def shard_on_screen(
    root: Path,
    out: Path,
    *,
    task: Literal["segmentation", "classification"] | None,
    shard_mb: int,
    group_pattern: str | None,
    mask_suffix: str,
    num_classes: int,
    colors: Sequence[str],
    value_range: tuple[float, float] | None,
    on_error: Literal["fail", "skip"],
) -> None:
    """Make shards of a folder, and say how many they are and how to train on them."""
    from medvision.data.shards.create import make_shards

    color_map = [_color(text) for text in colors] or None
    with progress_bar() as advance, _options_in_errors(_SHARD_OPTIONS):
        made = make_shards(
            root,
            out,
            task=task,
            shard_bytes=shard_mb * MEGABYTE,
            group_pattern=group_pattern,
            mask_suffix=mask_suffix,
            num_classes=num_classes if color_map is None else len(color_map),
            color_map=color_map,
            value_range=value_range,
            on_error=on_error,
            advance=advance,
        )
    manifest = made.manifest
    for note in manifest.notes:
        say(f"note: {_with_options(note, _SHARD_OPTIONS)}")
    say(
        f"{counted(len(manifest.shards), 'shard')}, {counted(manifest.num_images, 'image')}"
        f"{' with masks' if manifest.task == 'segmentation' else ''},"
        f" {made.num_bytes / MEGABYTE:.1f} MB"
    )
    say(f"train on them: python train.py experiment=NAME data.root={shlex.quote(str(made.out))}")


def _color(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) < 256 for p in parts):
        raise MedvisionError(
            f"{text} is no colour", where="--color", hint="give red,green,blue from 0 to 255"
        )
    red, green, blue = (int(part) for part in parts)
    return red, green, blue

"""Tables that the commands print, and errors that name their options."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.console import counted, in_one_line, print_line, screen
from medvision.errors import MedvisionError
from medvision.types import RESEARCH_ONLY

if TYPE_CHECKING:  # slow to import
    from medvision.audit.check import Audit

Rows = Sequence[Mapping[str, Any]]


def convention_table(rows: Rows) -> Table:
    """A row per convention, its difference from medvision's own below each score.

    Args:
        rows: The value of ``conventions`` in ``summary.json``.
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
    """Notes for readers of the table, one line each.

    Args:
        rows: The value of ``conventions`` in ``summary.json``.
    """
    column = "dice" if "dice" in rows[0] else "value"
    known = [row for row in rows if row[column] is not None]
    spans = []
    for score in dict.fromkeys(_score(row) for row in known):
        values = [row[column] for row in known if _score(row) == score]
        spans.append(f"{score} from {min(values):.3f} to {max(values):.3f}")
    lines = [
        "Scores can be compared only within one convention: the same predictions give"
        f" {', '.join(spans)}."
    ]
    if any(row["optimistic"] for row in known):
        lines.append("* chosen on the scored images: optimistic, not a test score.")
    left_out = [row for row in rows if row["binary_only"] and row[column] is None]
    if left_out:
        names = "; ".join(f"{row.get('score', '')} {row['name']}".strip() for row in left_out)
        lines.append(f"Defined for two classes only: {names}.")
    return lines


def print_conventions(rows: Rows) -> None:
    """Print the table, and what a reader of it must know."""
    screen().print(convention_table(rows))
    for line in convention_words(rows):
        print_line(line)


def _score(row: Mapping[str, Any]) -> str:
    return str(row.get("score", "Dice"))


def _number(value: float | None, form: str) -> str:
    if value is None:
        return "-"
    return format(value if abs(value) >= 0.0005 or "+" not in form else 0.0, form)


AUDIT_OPTIONS = {
    "data.group_pattern": "--group-pattern",
    "data.mask_suffix=": "--mask-suffix ",
    "data.class_names": "--num-classes",
    "data.root": "ROOT",
}
SHARD_OPTIONS = {
    **AUDIT_OPTIONS,
    "data.on_error=skip": "--on-error skip",
    "data.value_range": "--value-range",
    "data.color_map": "--color",
}
"""Config keys that errors of shared code name, and the option of the command for each."""


@contextmanager
def options_in_errors(options: Mapping[str, str]) -> Iterator[None]:
    """Name options of the command instead of config keys in errors."""
    try:
        yield
    except MedvisionError as error:
        error.what = with_options(error.what, options)
        error.where = error.where and with_options(error.where, options)
        error.hint = error.hint and with_options(error.hint, options)
        raise


def with_options(text: str, options: Mapping[str, str]) -> str:
    """Name options of the command instead of config keys in a text."""
    for key, option in options.items():
        text = re.sub(rf"{re.escape(key)}(?!=\[)", option, text)  # no list
    return text


SHOWN_FILES = 2
STYLES = {"leak": "bold red", "conflict": "bold red", "fault": "bold red", "warning": "yellow"}


def print_audit(found: Audit, *, console: Console | None = None) -> None:
    """Print the verdict, every finding with its first files, and the numbers.

    Args:
        found: Result of `medvision.audit.check.audit`.
        console: Console to print to; the screen by default. 80 columns are enough.
    """
    console = console or screen()
    content = found.to_dict()
    counts = ", ".join(f"{k} {v}" for k, v in content["num_images_by_split"].items() if k != "none")
    console.print(
        f"{content['name']}: {content['task']}, {counted(content['num_images'], 'image')}"
        + (f" ({counts})" if counts else ", no split given"),
        highlight=False,
        markup=False,
    )
    console.print()
    console.print(_findings_table(content) if content["findings"] else "Nothing was found.")
    console.print()
    console.print(_numbers_table(content))
    console.print()
    if "answer" in content:
        copied = found.duplicates.crossing["test", "train"]
        console.print(Text(f"{content['answer']}.", style=STYLES["leak"] if copied else "bold"))
    style = STYLES.get(content["severity"], "bold")
    console.print(Text(f"{content['verdict']}.", style=style))
    console.print(RESEARCH_ONLY, highlight=False)


def _findings_table(content: Mapping[str, Any]) -> Table:
    table = Table(box=box.MINIMAL, show_edge=False, show_lines=True, padding=(0, 1))
    table.add_column("", no_wrap=True)
    table.add_column("finding", overflow="fold")
    for finding in content["findings"]:
        text = Text(in_one_line(finding["text"]))
        files = finding["files"]
        if files:
            rest = len(files) - SHOWN_FILES
            names = ", ".join(files[:SHOWN_FILES]) + (f" and {rest} more" if rest > 0 else "")
            text.append(f"\n{in_one_line(names)}", style="dim")
        if finding["advice"]:
            text.append(f"\n-> {finding['advice']}")
        table.add_row(Text(finding["severity"], style=STYLES.get(finding["severity"], "")), text)
    return table


def _numbers_table(content: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, label in (("exact", "identical pixels"), ("near", "near-duplicates")):
        part = content[f"{name}_duplicates"]
        words = f"{counted(part['groups'], 'group')} with {counted(part['images'], 'image')}"
        sizes = content["num_images_by_split"]
        if {"train", "test"} <= sizes.keys():
            against = content["settings"]["against"]
            where = "images of the second set in the first" if against else "test images in train"
            words += f"; {part['test_images_in_train']} of {sizes['test']} {where}"
        table.add_row(label, words)
    groups, of_patients = content["groups"], "none given"
    if groups is not None:
        source = f", from {' and '.join(content['grouping'])}" if content["grouping"] else ""
        of = f"{groups['images']} of {counted(content['num_images'], 'image')}"
        of_patients = f"{groups['groups']} with {of}{source}"
    table.add_row("groups (patients)", of_patients)
    table.add_row("conflicts", counted(len(content["label_conflicts"]), "pair"))
    memory = content["memory_baseline"]
    if memory is not None:
        metric = "accuracy" if "accuracy" in memory else "dice"
        left_out = {"leave one out": "image", "leave one group out": "group"}
        unit = left_out.get(memory["protocol"])
        how = "" if unit is None else f", each {unit} left out in turn"
        table.add_row(
            "nearest neighbour",
            f"{metric.replace('dice', 'Dice')} {_with_interval(memory, metric)},"
            f" chance {memory['chance']:.3f}{how}; a network should score higher",
        )
        for part, name in (("with_twin", "with a near-duplicate"), ("without_twin", "without one")):
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
    if part[f"{metric}_ci95"] is None:  # a single image, or group
        return f"{part[metric]:.3f}"
    low, high = part[f"{metric}_ci95"]
    return f"{part[metric]:.3f} ({low:.3f} to {high:.3f})"

"""The table of one set of predictions under the conventions of other tools."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

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

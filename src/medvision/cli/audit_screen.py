"""What `medvision audit` shows while it works, and what it says at the end."""

import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from medvision.console import progress_bar, say
from medvision.errors import MedvisionError
from medvision.types import RESEARCH_ONLY

if TYPE_CHECKING:  # decoding and comparing load when a folder is there to be read
    from medvision.audit.check import Audit

SHOWN_FILES = 2
STYLES = {"leak": "bold red", "conflict": "bold red", "fault": "bold red", "warning": "yellow"}
OPTIONS = {
    "data.group_pattern": "--group-pattern",
    "data.mask_suffix=": "--mask-suffix ",
    "data.class_names": "--num-classes",
    "data.root": "ROOT",
}
"""Keys of a training's config that errors of shared code name, and what they are called here."""


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
        try:
            data = scan(
                root,
                against=against,
                group_pattern=group_pattern,
                mask_suffix=mask_suffix,
                num_classes=num_classes,
                advance=functools.partial(advance, "read"),
            )
        except MedvisionError as error:
            raise _in_words_of_the_command(error) from error
        advance("compare", 0, None)
        found = audit(data, started=started)
        files = write_audit(found, out)
    print_audit(found)
    for path in files:
        say(str(path))
    return found.exit_code


def print_audit(found: "Audit", *, console: Console | None = None) -> None:
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
    console.print(_findings(content) if content["findings"] else "Nothing was found.")
    console.print()
    console.print(_numbers(content))
    console.print()
    style = STYLES["leak"] if content["exit_code"] else "bold"
    console.print(Text(f"{content['verdict']}.", style=style))
    console.print(RESEARCH_ONLY, highlight=False)


def _findings(content: Mapping[str, Any]) -> Table:
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


def _numbers(content: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    for name in ("exact", "near"):
        part = content[f"{name}_duplicates"]
        words = f"{_counted(part['groups'], 'group')} with {part['images']} images"
        sizes = content["num_images_by_split"]
        if {"train", "test"} <= sizes.keys():
            words += f"; {part['test_images_in_train']} of {sizes['test']} test images in train"
        table.add_row(f"{name} duplicates" if name == "exact" else "near-duplicates", words)
    table.add_row("conflicts", _counted(len(content["label_conflicts"]), "pair"))
    memory = content["memory_baseline"]
    if memory is not None:
        metric = "accuracy" if "accuracy" in memory else "dice"
        asked = "" if memory["protocol"] == "test split" else ", each image left out in turn"
        table.add_row(
            "nearest neighbour",
            f"{metric.replace('dice', 'Dice')} {_score(memory, metric)},"
            f" chance {memory['chance']:.3f}{asked}: a network must beat that",
        )
        for part, name in (("with_twin", "with a twin"), ("without_twin", "without one")):
            if memory["with_twin"]["num_images"]:
                number = memory[part]["num_images"]
                table.add_row(
                    f"  {name}", f"{_score(memory[part], metric)}, {_counted(number, 'image')}"
                )
    table.add_row("time", f"{content['elapsed_s']:.1f} s")
    return table


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _score(part: Mapping[str, Any], metric: str) -> str:
    if part[metric] is None:
        return "undefined"
    low, high = part[f"{metric}_ci95"]
    return f"{part[metric]:.3f} ({low:.3f} to {high:.3f})"


def _in_words_of_the_command(error: MedvisionError) -> MedvisionError:
    """The error with options of the command in the place of config keys."""

    def told(text: str | None) -> str | None:
        for key, option in OPTIONS.items():
            text = None if text is None else text.replace(key, option)
        return text

    return MedvisionError(
        told(error.what) or "",
        where=told(error.where),
        hint=told(error.hint),
        exit_code=error.exit_code,
    )

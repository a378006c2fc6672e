"""Name the group of each sample by what a pattern captures in its path."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medvision.data.sample import Sample
from medvision.data.sample_table import SampleTable
from medvision.data.texts import Texts
from medvision.types import MedvisionError


def group_by_pattern(samples: Sequence[Sample], pattern: str) -> tuple[SampleTable, list[str]]:
    """Return the samples with the groups that a pattern captures, and notes.

    Where it matches nothing a sample keeps its own group.

    Raises:
        MedvisionError: If it is no pattern with one group, or matches no path.
    """
    try:
        expression = re.compile(pattern)
    except re.error as fault:
        raise MedvisionError(
            f"{pattern} is not a regular expression: {fault}",
            where="data.group_pattern",
            hint="mend it, and quote it for the shell",
        ) from fault
    if expression.groups != 1:
        raise MedvisionError(
            f"{pattern} has {expression.groups} capture groups, expected one",
            where="data.group_pattern",
            hint=r"put the part that names the group in brackets, as in '(person\d+)_'",
        )
    table = SampleTable.of(samples)
    matches = map(expression.search, table.paths)
    found = Texts.of(match.group(1) or "" if match else "" for match in matches)
    unmatched = int(found.equal("").sum())
    if unmatched == len(table):
        raise MedvisionError(
            f"{pattern} matches no image, the first being {table.paths[0]}",
            where="data.group_pattern",
            hint="it is searched in the path below data.root",
        )
    notes = []
    if unmatched:
        notes.append(
            f"data.group_pattern does not match {unmatched} of {len(table)} images,"
            " which are groups of their own unless a csv names theirs"
        )
    columns = zip(found, table.groups, strict=True)
    return table.with_column(groups=(group or own for group, own in columns)), notes

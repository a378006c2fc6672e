"""Groups (patients, videos) that a given split has torn apart."""

from __future__ import annotations

import numpy as np

from medvision.audit.dataset import ListedSet
from medvision.audit.finding import Finding
from medvision.data.sample_table import SampleTable
from medvision.types import STAGES

_ADVICE = {
    "classification": "data.protocol=grouped draws a split that keeps groups together",
    "segmentation": "mend the given split, or leave it out: a drawn one keeps groups together",
}


def group_findings(data: ListedSet) -> list[Finding]:
    """Tell of groups with images in more than one split.

    Images without a group or without a split are passed over. Groups may be names of patients:
    they are counted, and only files are named, those of test first.
    """
    splits = data.splits
    names = SampleTable.of(data.samples).groups
    known = np.flatnonzero(~names.equal("") & np.isin(splits, STAGES))
    if not len(known):
        return []
    groups = names.select(known).numbered()[1]
    inside = np.zeros((groups.max() + 1, len(STAGES)), bool)
    for column, stage in enumerate(STAGES):
        inside[groups[splits[known] == stage], column] = True
    torn = inside.sum(axis=1) > 1
    if not torn.any():
        return []
    concerned = {stage: known[torn[groups] & (splits[known] == stage)] for stage in ("test", "val")}
    told = [
        f"{len(rows)} of {int((splits == stage).sum())} {stage} images"
        for stage, rows in concerned.items()
        if len(rows)
    ]
    verb = "lies" if torn.sum() == 1 else "lie"
    rows = np.concatenate(list(concerned.values()))
    return [
        Finding(
            kind="groups_across_splits",
            severity="leak",
            text=f"{torn.sum()} of {len(torn)} groups (patients, videos) {verb} in more than one"
            f" split, with {' and '.join(told)}",
            count=len(rows),
            files=tuple(map(data.shown, rows.tolist())),
            advice=f"scores on them are too high; {_ADVICE[data.task]}",
        )
    ]

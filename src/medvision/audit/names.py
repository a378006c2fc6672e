"""Hints in file names: numbers that may be those of patients or videos, and that nobody uses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import ListedSet
from medvision.audit.file_ids import MIN_SHARE, keys_of, prefix_patterns, word_patterns
from medvision.audit.finding import Finding, finding_about

_MAX_HINTS = 2


def name_hint_findings(data: ListedSet) -> list[Finding]:
    """Ask whether numbers that several file names share are those of patients or videos.

    Only images without a group are looked at. Each hint proposes a ``data.group_pattern``; it is a
    question, never a leak: numbers may start again in every class, split or data set.
    """
    alone = np.flatnonzero([not sample.group for sample in data.samples])
    if len(alone) < max(2, MIN_SHARE * len(data)):
        return []
    paths = [data.samples[row].path for row in alone.tolist()]
    classes = [data.samples[row].target for row in alone.tolist()]
    if data.task == "segmentation":
        classes = [""] * len(alone)
    findings: list[Finding] = []
    told = np.zeros(len(alone), bool)
    for pattern in [*word_patterns(paths), *prefix_patterns(paths, classes)]:
        keys = np.array(keys_of(pattern, paths), np.str_)
        fresh = (keys != "") & ~told
        if fresh.sum() >= MIN_SHARE * len(alone) and len(findings) < _MAX_HINTS:
            findings.append(_hint(data, alone, pattern, keys, paths))
            told |= keys != ""
    return findings


def _hint(
    data: ListedSet,
    alone: NDArray[np.intp],
    pattern: str,
    keys: NDArray[np.str_],
    paths: Sequence[str],
) -> Finding:
    splits = data.splits[alone]
    ties, rows = _ties(keys, splits)
    narrower = _with_next_word(pattern, keys, paths)
    aside = ""
    if narrower is not None:
        fewer, fewer_rows = _ties(narrower[1], splits)
        if len(fewer_rows) < len(rows) / 2:
            wide = pattern
            pattern, keys = narrower
            aside = (
                f"; the number alone, '{wide}', would tie {ties or 'no test image to train'},"
                " so it seems to start again for each kind"
            )
            ties, rows = fewer, fewer_rows
    matched = np.flatnonzero(keys != "")
    groups = len(np.unique(keys[matched]))
    text = (
        f"do the file names tell patients or videos apart? '{pattern}' makes {groups} groups of"
        f" {len(matched)} of the {len(data)} images"
    )
    if (splits != "").any():
        text += f"; if so, it ties {ties}" if ties else ", none of them in two splits"
    return finding_about(
        data,
        alone[rows if len(rows) else _repeated(keys)],
        kind="unused_ids_in_names",
        severity="warning",
        text=text + aside,
        advice="ask where the files come from, as numbers may start again in every class or"
        f" split; if they name patients, set data.group_pattern='{pattern}': splits that are drawn"
        " then keep each together",
    )


def _ties(keys: NDArray[np.str_], splits: NDArray[np.str_]) -> tuple[str, NDArray[np.intp]]:
    """Say how many groups of test and val are in train too; return their images, test first."""
    trained = np.unique(keys[(splits == "train") & (keys != "")])
    told, rows = [], []
    for split in ("test", "val"):
        held = np.flatnonzero((splits == split) & (keys != ""))
        torn = held[np.isin(keys[held], trained)]
        if len(torn):
            told.append(
                f"{len(np.unique(keys[torn]))} of the {len(np.unique(keys[held]))} groups of"
                f" {split} ({len(torn)} of {int((splits == split).sum())} images) to train"
            )
            rows.append(torn)
    return " and ".join(told), np.concatenate(rows) if rows else np.zeros(0, np.intp)


def _with_next_word(
    pattern: str, keys: NDArray[np.str_], paths: Sequence[str]
) -> tuple[str, NDArray[np.str_]] | None:
    """Return the pattern with the word that follows it, where nearly all names have one.

    ``person1_virus_6`` and ``person1_bacteria_1`` may be two persons.
    """
    if not pattern.endswith(r"\d+)"):
        return None
    wider = pattern[:-1] + r"_[A-Za-z]+)"
    found = np.array(keys_of(wider, paths), np.str_)
    if (found != "").sum() < 0.9 * (keys != "").sum():
        return None
    words = np.unique([key.rsplit("_", 1)[1] for key in found[found != ""]])
    return (wider, found) if 2 <= len(words) <= 10 else None


def _repeated(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    """Rows of keys that several images share, the most frequent key first."""
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sizes = np.where(keys != "", counts[which], 0)
    rows = np.flatnonzero(sizes > 1)
    return rows[np.lexsort((rows, which[rows], -sizes[rows]))]

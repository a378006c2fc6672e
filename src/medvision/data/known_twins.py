"""Twins of a data set, found once and recalled as long as its images stay what they are."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from dataclasses import fields
from pathlib import Path

import numpy as np

from medvision.data.facts import Facts
from medvision.data.facts_cache import cache_folder, store
from medvision.data.near_duplicates import MISFIT, THRESHOLD, Twins, find_twins

FORMAT = 1
"""Grows when the search changes: what older ones found is then found again."""

_WORTH_KEEPING = 500  # fewer images are searched in the time that a file takes


def twins_of(facts: Facts) -> Twins:
    """Find the twins of a data set, or recall them.

    Where they cannot be kept they are found again the next time; the cache of facts says why.
    """
    if len(facts) < _WORTH_KEEPING:
        return find_twins(facts.thumbnail, facts.pixel_hash)
    try:
        path = cache_folder() / f"twins-{_identity(facts)}.npz"
    except RuntimeError:  # no home folder
        return find_twins(facts.thumbnail, facts.pixel_hash)
    known = _read(path)
    if known is None or len(known.groups) != len(facts):
        known = find_twins(facts.thumbnail, facts.pixel_hash)
        with contextlib.suppress(OSError):
            store(path, {field.name: getattr(known, field.name) for field in fields(known)})
    return known


def _identity(facts: Facts) -> str:
    digest = hashlib.sha256(f"{FORMAT} {THRESHOLD} {MISFIT}".encode())
    digest.update(facts.thumbnail.tobytes())
    digest.update("".join(facts.pixel_hash).encode())
    return digest.hexdigest()[:24]


def _read(path: Path) -> Twins | None:
    """Nothing where nothing is kept, or what is kept is damaged."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            return Twins(**{field.name: stored[field.name] for field in fields(Twins)})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None

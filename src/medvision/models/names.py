"""Hints for names that do not exist."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, choices: Iterable[str], *, otherwise: str) -> str:
    """Name the nearest of ``choices``, whatever its case, or say ``otherwise``."""
    known = {choice.lower(): choice for choice in choices}
    nearest = difflib.get_close_matches(name.lower(), known, n=1)
    return f"did you mean {known[nearest[0]]}?" if nearest else otherwise

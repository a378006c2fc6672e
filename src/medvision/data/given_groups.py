"""The groups that csv or pattern gave, before twins are joined to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Self

from medvision.data.sample import Sample
from medvision.data.sample_table import SampleTable


class GivenGroups(dict[str, str]):
    """Group of each path; only the named ones take space, all others are blank."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Self:
        """The groups of these samples."""
        table = SampleTable.of(samples)
        if not any(table.groups.numbered()[0]):
            return cls()
        named = ~table.groups.equal("")
        return cls(zip(table.paths.select(named), table.groups.select(named), strict=True))

    def __missing__(self, path: str) -> str:
        return ""

"""Content of ``shards.json``: files of a set of shards and reading options, without code."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from medvision.data.reading import Reading
from medvision.errors import MedvisionError

FORMAT = 1
"""Format version of shards.json, the table and the facts."""

MANIFEST = "shards.json"
TABLE = "table.npz"
FACTS = "facts.npz"
MAX_MANIFEST_BYTES = 1 << 26
"""Largest size of shards.json, enough for a hundred thousand shards."""

AGAIN = "copy the shards again, or create them again with medvision data shard"
_SHARD_NAME = re.compile(r"shard-\d{6,9}\.tar")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """File of a set of shards.

    Attributes:
        name: File name in the folder of ``shards.json``.
        num_bytes: File size.
        sha256: SHA-256 of its content, in hexadecimal digits.
    """

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """Content of ``shards.json``.

    Attributes:
        task: Task of the samples, such as ``segmentation``.
        class_names: Sorted class names; empty for segmentation.
        num_images: Number of rows of the table.
        fingerprint: Fingerprint of the data set, equal to that of plain files.
        facts_format: Format version of the columns of ``facts``.
        reading: Reading options of the files.
        notes: Remarks for the user.
        shards: The tar files, by number.
        table: File with the location of each image.
        facts: File with the file properties; None if only headers were read.
    """

    task: str
    class_names: tuple[str, ...]
    num_images: int
    fingerprint: str
    facts_format: int
    reading: Reading
    notes: tuple[str, ...]
    shards: tuple[Part, ...]
    table: Part
    facts: Part | None

    @property
    def has_masks(self) -> bool:
        """True if each image has a mask."""
        return self.reading.has_masks

    def to_json(self) -> str:
        """Return the content of ``shards.json``."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"


def read_manifest(content: bytes, where: str) -> Manifest:
    """Read ``shards.json``.

    Args:
        content: Content of the file.
        where: Name of the file, for messages.

    Raises:
        MedvisionError: If it is damaged or has another format version.
    """
    try:
        if len(content) > MAX_MANIFEST_BYTES:
            raise ValueError(f"{len(content)} bytes exceed the size limit")
        node = json.loads(content)
        if _of(node, "format", int) != FORMAT:
            raise MedvisionError(
                f"expected shards of format {FORMAT}, got format {node['format']}",
                where=where,
                hint="create them again with medvision data shard, or use their version",
            )
        return _manifest(node)
    except (ValueError, TypeError, RecursionError) as fault:  # includes UnicodeDecodeError
        raise damaged(str(fault), where) from fault


def damaged(reason: str, where: str) -> MedvisionError:
    """Return the error for an unusable file of a set."""
    return MedvisionError(f"damaged shards: {reason}", where=where, hint=AGAIN)


def _manifest(node: dict[str, Any]) -> Manifest:
    reading = _of(node, "reading", dict)
    facts = node.get("facts")
    shards = tuple(_part(part) for part in _of(node, "shards", list))
    odd = next((part.name for part in shards if not _SHARD_NAME.fullmatch(part.name)), None)
    if odd is not None or len({part.name for part in shards}) < max(1, len(shards)):
        raise ValueError("no shards" if not shards else f"a shard is named {odd or 'twice'}")
    return Manifest(
        task=_of(node, "task", str),
        class_names=tuple(str(name) for name in _of(node, "class_names", list)),
        num_images=_of(node, "num_images", int),
        fingerprint=_of(node, "fingerprint", str),
        facts_format=_of(node, "facts_format", int),
        reading=Reading(**reading),
        notes=tuple(str(note) for note in _of(node, "notes", list)),
        shards=shards,
        table=_part(_of(node, "table", dict), TABLE),
        facts=None if facts is None else _part(facts, FACTS),
    )


def _part(node: Any, name: str | None = None) -> Part:
    part = Part(
        name=_of(node, "name", str),
        num_bytes=_of(node, "num_bytes", int),
        sha256=_of(node, "sha256", str),
    )
    if name not in (None, part.name):
        raise ValueError(f"expected the file {name}, got {part.name}")
    if part.num_bytes <= 0 or not _SHA256.fullmatch(part.sha256):
        raise ValueError(f"size or SHA-256 of {part.name} is missing")
    return part


def _of(node: Any, key: str, kind: type) -> Any:
    value = node.get(key) if isinstance(node, dict) else None
    if type(value) is not kind:
        raise ValueError(f"no {key}")
    return value

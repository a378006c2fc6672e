"""Write a set of shards whole or not at all: tar files, the table, what the files told."""

from __future__ import annotations

import hashlib
import io
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medvision.data import facts_cache
from medvision.data.checks import CheckResult
from medvision.data.decode import read_bytes
from medvision.data.file_lock import locked
from medvision.data.sample import Sample
from medvision.data.shard_manifest import FACTS, MANIFEST, TABLE, Manifest, Part, Reading
from medvision.data.shard_table import SPLITS, ShardTable, facts_to_columns, write_columns
from medvision.data.shard_writer import ShardWriter
from medvision.data.texts import Texts
from medvision.files import write_atomically
from medvision.types import MedvisionError

Task = Literal["segmentation", "classification"]
Advance = Callable[[str, int, int], None]
"""Told what is being done, and how many of how many samples are."""


@dataclass(frozen=True, kw_only=True)
class CheckedFolder:
    """A checked folder on its way into shards.

    Attributes:
        root: The folder.
        task: What it is for.
        names: Classes by index; empty for segmentation.
        checked: What the check of its files found.
        advance: Told of the progress.
    """

    root: Path
    task: Task
    names: Sequence[str]
    checked: CheckResult
    advance: Advance | None

    def write(self, folder: Path, shard_bytes: int) -> tuple[list[Part], ShardTable]:
        """Write the tar files; return them and where each sample lies."""
        samples = self.checked.samples
        num_files = 2 if self.task == "segmentation" else 1
        split = np.array([SPLITS.index(sample.split) for sample in samples], np.uint8)
        shard = np.zeros(len(samples), np.int32)
        start, size = (np.zeros((len(samples), num_files), np.int64) for _ in range(2))
        contents = [
            line.removeprefix(f"{sample.path}\0{sample.target}")
            for sample, line in zip(samples, self.checked.lines, strict=True)
        ]
        with ShardWriter(folder, shard_bytes=shard_bytes) as writer:
            last = 0
            for done, row in enumerate(_order(split)):
                if last != (last := max(1, int(split[row]))):
                    writer.close()
                files = self._files(samples[row], contents[row])
                members = [*files, *self._label(samples[row])]
                named = [(f"{row:09d}.{suffix}", data) for suffix, data in members]
                shard[row], starts = writer.add(named)
                start[row] = starts[:num_files]
                size[row] = [len(data) for _, data in files]
                if self.advance is not None:
                    self.advance("write", done + 1, len(samples))
        table = ShardTable(
            path=Texts.of(sample.path for sample in samples),
            target=Texts.of(sample.target for sample in samples),
            group=Texts.of(sample.group for sample in samples),
            content=Texts.of(contents),
            split=split,
            shard=shard,
            start=start,
            size=size,
        )
        return writer.parts, table

    def _files(self, sample: Sample, content: str) -> list[tuple[str, bytes]]:
        """Extension and content of the image, and of its mask."""
        names = {sample.path: ""} | (
            {sample.target: "mask."} if self.task == "segmentation" else {}
        )
        files = []
        known = content.split("\0")[1:]  # of very many files nothing but their names
        for (name, before), told in zip_longest(names.items(), known):
            data = read_bytes(self.root / name)
            if told not in (None, str(len(data)), hashlib.sha256(data).hexdigest()):
                raise MedvisionError(
                    "the file has changed since it was checked",
                    where=str(self.root / name),
                    hint="leave the folder alone and run it again",
                )
            suffix = PurePosixPath(name).suffix.lower().lstrip(".")
            files.append((before + (suffix if _PLAIN.fullmatch(suffix) else "img"), data))
        return files

    def _label(self, sample: Sample) -> list[tuple[str, bytes]]:
        """The class index as other readers of the format expect it."""
        if self.task == "segmentation":
            return []
        return [("cls", str(self.names.index(sample.target)).encode())]


_PLAIN = re.compile(r"[a-z0-9]{1,8}")


def _order(split: NDArray[np.uint8]) -> list[int]:
    """Rows as they are written: train and undecided ones as drawn, then val, then test."""
    drawn = np.random.default_rng(0).permutation(len(split))
    places = [drawn[split[drawn] < 2], np.flatnonzero(split == 2), np.flatnonzero(split == 3)]
    return np.concatenate(places).tolist()


def store(
    out: Path, making: CheckedFolder, *, shard_bytes: int, reading: Reading, notes: Sequence[str]
) -> Manifest:
    """Write everything beside ``out``, then rename it.

    Args:
        out: Folder for the shards, new or empty.
        making: What goes into them.
        shard_bytes: Largest size of a shard.
        reading: How its files were checked.
        notes: What a reader should know.

    Raises:
        MedvisionError: If something cannot be written, or a file has changed since it was checked.
    """
    partial = out.with_name(f".{out.name}.partial")
    made = [parent for parent in out.parents if not parent.exists()]
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with locked(out.with_name(f".{out.name}.lock"), wait=False) as is_ours:
            if not is_ours:
                raise MedvisionError(
                    "another process is writing it", where=str(out), hint="wait for it", exit_code=3
                )
            shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
            try:
                partial.mkdir()
                manifest = _fill(partial, making, shard_bytes, reading, notes)
                if out.exists():
                    out.rmdir()
                partial.rename(out)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except BaseException as fault:
        for parent in made:
            with suppress(OSError):  # somebody else may use them by now
                parent.rmdir()
        if isinstance(fault, OSError):
            raise MedvisionError(
                f"cannot write the shards: {fault.strerror or fault}",
                where=str(out),
                hint="check space and permissions",
                exit_code=3,
            ) from fault
        raise
    return manifest


def _fill(
    folder: Path, making: CheckedFolder, shard_bytes: int, reading: Reading, notes: Sequence[str]
) -> Manifest:
    shards, table = making.write(folder, shard_bytes)
    try:
        table.check([p.num_bytes for p in shards], with_masks=making.task == "segmentation")
    except ValueError as fault:
        raise MedvisionError(
            f"the names cannot be kept in shards: {fault}",
            where=str(making.root),
            hint="rename the files",
        ) from fault
    facts = making.checked.facts
    manifest = Manifest(
        task=making.task,
        class_names=tuple(making.names),
        num_images=len(table),
        fingerprint=making.checked.fingerprint,
        facts_format=facts_cache.FORMAT,
        reading=reading,
        notes=tuple(notes),
        shards=tuple(shards),
        table=_stored(folder, TABLE, table.to_columns()),
        facts=None if facts is None else _stored(folder, FACTS, facts_to_columns(facts)),
    )
    write_atomically(folder / MANIFEST, manifest.to_json())
    return manifest


def _stored(folder: Path, name: str, columns: dict[str, Any]) -> Part:
    stream = io.BytesIO()
    write_columns(stream, columns)
    content = stream.getvalue()
    (folder / name).write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    return Part(name=name, num_bytes=len(content), sha256=sha256)

"""Create shards from a folder, atomically: tar files that WebDataset can read.

The files are checked as for training. The header of each member is one block of the POSIX ustar
format, so that the offset of its content is known when it is written; the same samples give the
same bytes on every machine. WebDataset's writer does not report offsets, and tarfile exposes them
only as internal state.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any, BinaryIO, Literal, Self

import cv2
import numpy as np
from numpy.typing import NDArray

from medvision.console import counted
from medvision.data.discovery.index import (
    Task,
    choose_task,
    existing_folder,
    index_classification,
    index_segmentation,
)
from medvision.data.discovery.keys import FolderKeys, anchored
from medvision.data.readers.annotations import container, read_content
from medvision.data.readers.kinds import DICOM_SUFFIXES, kind_of_file
from medvision.data.readers.targets import decode_target
from medvision.data.reading import Reading
from medvision.data.samples import Sample, SampleTable, StringColumn, files_in
from medvision.data.shards.location import holds_shards
from medvision.data.shards.manifest import FACTS, MANIFEST, TABLE, Manifest, Part
from medvision.data.shards.table import SPLITS, ShardTable, write_columns
from medvision.data.validation import properties_cache
from medvision.data.validation.validate import CheckResult, check_files
from medvision.errors import MedvisionError
from medvision.files import check_writable, file_errors, short_name, sole_writer, write_atomically

END_BYTES = 2 * tarfile.BLOCKSIZE
"""Number of zeros that end a tar file."""


class ShardWriter:
    """Writer of tar files ``shard-000000.tar`` and so on in one folder.

    Args:
        folder: Existing folder without shards.
        shard_bytes: Largest size of a shard, exceeded only by a single larger sample.

    Attributes:
        parts: Closed shards.
    """

    def __init__(self, folder: Path, *, shard_bytes: int) -> None:
        self.folder, self.shard_bytes = folder, shard_bytes
        self.parts: list[Part] = []
        self._stream: BinaryIO | None = None
        self._digest = hashlib.sha256()
        self._written = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        elif self._stream is not None:
            self._stream.close()

    def add(self, members: Sequence[tuple[str, bytes]]) -> tuple[int, list[int]]:
        """Write the files of a sample consecutively.

        Args:
            members: Name and content of each file.

        Returns:
            Number of the shard, and the offset of each content in it.
        """
        size = sum(tarfile.BLOCKSIZE + _padded(len(content)) for _, content in members)
        if self._written and self._written + size + END_BYTES > self.shard_bytes:
            self.close()
        starts = []
        for name, content in members:
            header = tarfile.TarInfo(name)
            header.size, header.mode = len(content), 0o444
            self._write(header.tobuf(tarfile.USTAR_FORMAT))
            starts.append(self._written)
            self._write(content)
            self._write(bytes(_padded(len(content)) - len(content)))
        return len(self.parts), starts

    def close(self) -> None:
        """Close the current shard; the next sample starts another."""
        if self._stream is None:
            return
        self._write(bytes(END_BYTES))
        self._stream.close()
        self._stream = None
        name, sha256 = _name(len(self.parts)), self._digest.hexdigest()
        self.parts.append(Part(name=name, num_bytes=self._written, sha256=sha256))
        self._digest, self._written = hashlib.sha256(), 0

    def _write(self, data: bytes) -> None:
        if self._stream is None:
            self._stream = (self.folder / _name(len(self.parts))).open("xb")
        self._stream.write(data)
        self._digest.update(data)
        self._written += len(data)


def _name(number: int) -> str:
    return f"shard-{number:06d}.tar"


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


Advance = Callable[[str, int, int], None]
"""Progress callback: current step, completed samples, total samples."""


@dataclass(frozen=True, kw_only=True)
class CheckedFolder:
    """Checked folder to be written as shards.

    Attributes:
        root: The folder.
        task: Task of the folder.
        names: Classes by index; empty for segmentation.
        reading: Reading options.
        checked: Result of the check of its files.
        advance: Progress callback.
    """

    root: Path
    task: Task
    names: Sequence[str]
    reading: Reading
    checked: CheckResult
    advance: Advance | None

    def write(self, folder: Path, shard_bytes: int) -> tuple[list[Part], ShardTable]:
        """Write the tar files; return them and the location of each sample."""
        samples = self.checked.samples
        num_files = 1 + self.reading.has_masks
        split = np.array([SPLITS.index(sample.split) for sample in samples], np.uint8)
        shard = np.zeros(len(samples), np.int32)
        start, size = (np.zeros((len(samples), num_files), np.int64) for _ in range(2))
        contents = self.checked.contents or StringColumn.of([])
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
            path=StringColumn.of(sample.path for sample in samples),
            target=StringColumn.of(sample.target for sample in samples),
            group=StringColumn.of(sample.group for sample in samples),
            content=contents,
            split=split,
            shard=shard,
            start=start,
            size=size,
        )
        return writer.parts, table

    def _files(self, sample: Sample, content: str) -> list[tuple[str, bytes]]:
        """Return extension and content of the image, and of its mask if it has one."""
        targets = files_in(sample.target) if self.reading.has_masks else []
        names = {sample.path: ""} | dict.fromkeys(targets, "mask.")
        files = []
        known = content.split("\0")[1:]  # for very many files, only their names are known
        for (name, before), expected in zip_longest(names.items(), known):
            data = read_content(self.root, name)
            inside = container(name) != name
            of_file = inside and expected is not None and expected.isdecimal()
            known_as = (None, str(len(data)), hashlib.sha256(data).hexdigest())
            if expected not in known_as and not of_file:
                raise MedvisionError(
                    "the file has changed since it was checked",
                    where=str(self.root / name),
                    hint="do not change the folder, and run the command again",
                )
            suffix = PurePosixPath(container(name)).suffix.lower().lstrip(".")
            suffix = "png" if inside and suffix == "npz" else suffix
            files.append((before + (suffix if _PLAIN.fullmatch(suffix) else "img"), data))
        if len(files) > 2:  # one mask in the shards, as readers of the format expect
            contents = [data for _, data in files[1:]]
            indices, _ = decode_target(contents, sample.target, self.reading, where=str)
            files[1:] = [("mask.png", cv2.imencode(".png", indices)[1].tobytes())]
        return files

    def _label(self, sample: Sample) -> list[tuple[str, bytes]]:
        """Return the class index as expected by other readers of the format."""
        if self.reading.has_masks:
            return []
        return [("cls", str(self.names.index(sample.target)).encode())]


_PLAIN = re.compile(r"[a-z0-9]{1,8}")


def _order(split: NDArray[np.uint8]) -> list[int]:
    """Return rows in writing order: shuffled train and unassigned rows, then val, then test."""
    drawn = np.random.default_rng(0).permutation(len(split))
    places = [drawn[split[drawn] < 2], np.flatnonzero(split == 2), np.flatnonzero(split == 3)]
    return np.concatenate(places).tolist()


def store(out: Path, making: CheckedFolder, *, shard_bytes: int, notes: Sequence[str]) -> Manifest:
    """Write all files beside ``out``, then rename the folder.

    Args:
        out: Folder for the shards, new or empty.
        making: Checked folder to write.
        shard_bytes: Largest size of a shard.
        notes: Remarks for users of the shards.

    Raises:
        MedvisionError: If a file cannot be written, or has changed since it was checked.
    """
    partial = out.with_name(short_name(f".{out.name}.partial"))
    busy = "another process is writing the folder"
    with (
        file_errors("cannot write the shards", out),
        sole_writer(out, lock=f".{out.name}.lock", wait=False, busy=busy),
    ):
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
        try:
            partial.mkdir()
            manifest = _fill(partial, making, shard_bytes, notes)
            if out.exists():
                out.rmdir()
            partial.rename(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return manifest


def _fill(folder: Path, making: CheckedFolder, shard_bytes: int, notes: Sequence[str]) -> Manifest:
    shards, table = making.write(folder, shard_bytes)
    try:
        table.check([p.num_bytes for p in shards], with_masks=making.reading.has_masks)
    except ValueError as fault:
        raise MedvisionError(
            f"the names cannot be stored in shards: {fault}",
            where=str(making.root),
            hint="rename the files",
        ) from fault
    properties = making.checked.properties
    manifest = Manifest(
        task=making.task,
        class_names=tuple(making.names),
        num_images=len(table),
        fingerprint=making.checked.fingerprint,
        facts_format=properties_cache.FORMAT,
        reading=making.reading,
        notes=tuple(notes),
        shards=tuple(shards),
        table=_stored(folder, TABLE, table.to_columns()),
        facts=None if properties is None else _stored(folder, FACTS, properties.to_columns()),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    """Result of creating shards.

    Attributes:
        out: Folder of the shards.
        manifest: Content of its shards.json.
        skipped: Path and reason of each omitted sample.
    """

    out: Path
    manifest: Manifest
    skipped: list[tuple[str, str]]

    @property
    def num_bytes(self) -> int:
        """Total size of the shards."""
        return sum(part.num_bytes for part in self.manifest.shards)


def make_shards(
    root: Path,
    out: Path,
    *,
    task: Task | None = None,
    shard_bytes: int,
    group_pattern: str | None = None,
    splits: Path | None = None,
    keys: FolderKeys | None = None,
    reading: Reading | None = None,
    on_error: Literal["fail", "skip"] = "fail",
    advance: Advance | None = None,
) -> Made:
    """Write the usable samples of a folder as shards with their given splits.

    Train and unassigned samples are shuffled once, so that a few shards are a representative
    sample; samples of a given val or test split are stored in separate shards, in order.

    Args:
        root: Folder of images and masks, or of class folders, in the layout for training.
        out: Folder for the shards, new or empty, outside ``root``.
        task: Task of the folder; None derives it from the layout.
        shard_bytes: Largest size of a shard.
        group_pattern: As for `index_segmentation`.
        splits: As for `index_segmentation`.
        keys: As for `index_segmentation`.
        reading: Reading options of the files; None for the defaults.
        on_error: As for `check_files`.
        advance: Progress callback.

    Raises:
        MedvisionError: If the folder cannot be used for training, or ``out`` cannot be written;
            ``out`` is then removed.
    """
    root, out = _two_folders(root, out)
    base, keys = anchored(root, keys or FolderKeys())
    root = base or root
    task = task or choose_task(root, keys).task
    has_masks = task == "segmentation"
    reading = reading or Reading(num_classes=2)
    if not has_masks:
        reading = Reading(value_range=reading.value_range)
    listing = index_segmentation if has_masks else index_classification
    index = listing(root, keys=keys, splits=splits, group_pattern=group_pattern)
    checked = check_files(
        root,
        index.samples,
        reading,
        on_error=on_error,
        advance=None if advance is None else partial(advance, "read"),
    )
    _refuse_dicom(root, checked.samples)
    making = CheckedFolder(
        root=root,
        task=task,
        names=index.class_names,
        reading=reading,
        checked=checked,
        advance=advance,
    )
    notes = [*index.notes, *checked.notes]
    manifest = store(out, making, shard_bytes=shard_bytes, notes=notes)
    return Made(out=out, manifest=manifest, skipped=checked.skipped)


def _refuse_dicom(root: Path, samples: SampleTable) -> None:
    """Reject DICOM files, because they are stored unchanged and identify patients.

    Raises:
        MedvisionError: If there are DICOM files.
    """
    named = [
        path
        for path in samples.paths
        if PurePosixPath(path).suffix.lower() in DICOM_SUFFIXES
        or kind_of_file(root / path) == "DICOM"
    ]
    if named:
        raise MedvisionError(
            f"found {counted(len(named), 'DICOM file')}, such as {named[0]}: shards would contain"
            " the names of patients",
            where=str(root),
            hint="convert them to PNG first",
        )


def _two_folders(root: Path, out: Path) -> tuple[Path, Path]:
    if "://" in str(out) or re.match(r"\w+:/", str(out)):
        raise MedvisionError(
            "shards can only be written to a local folder",
            where=str(out),
            hint="give a local folder, then copy it to its destination",
        )
    root, out = existing_folder(root), out.expanduser()
    if holds_shards(root):
        raise MedvisionError(
            "the folder already contains shards",
            where=str(root),
            hint="use it for training as it is",
        )
    if out.resolve().is_relative_to(root.resolve()):
        raise MedvisionError(
            "the shards would be inside the data set", where=str(out), hint="give another folder"
        )
    check_writable(out.parent, hint="give another folder")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedvisionError("exists and is not empty", where=str(out), hint="give a new folder")
    return root, out

"""Fetch a public data set: checked, unpacked, arranged, and in place all at once or not at all."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from medvision.data.arrange import arrange
from medvision.data.catalog import DataSet, find, needs_account
from medvision.data.fetch import Resuming
from medvision.data.file_lock import is_at, take_lock
from medvision.data.unpack import unpack
from medvision.files import write_atomically
from medvision.types import MedvisionError

SOURCE_FILE = "SOURCE.json"
"""Beside the images: where they came from, under which terms."""


@dataclass(frozen=True, kw_only=True)
class Downloaded:
    """A data set that lies in its folder.

    Attributes:
        root: The folder.
        sha256: Of the archive it came in.
        num_files: Images, with the masks.
    """

    root: Path
    sha256: str
    num_files: int


def fetch_for_training(name: str, root: Path, *, task: str) -> None:
    """Download the set that a config names into the folder that is not there yet, and say so.

    Of several processes of a host one does it, and the others wait and find it there.

    Raises:
        MedvisionError: If it is for another task, or fails.
    """
    dataset = find(name, where="data.download")
    if dataset.task != task:
        raise MedvisionError(
            f"{dataset.title} is for {dataset.task}, not for {task}",
            where="data.download",
            hint=f"choose an experiment of {dataset.task}",
        )
    download(dataset, root, report=lambda line: print(line, flush=True), wait=True)


def is_absent(root: Path) -> bool:
    """Whether nothing is at ``root`` yet, or an empty folder."""
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def download(
    dataset: DataSet | str,
    root: Path,
    *,
    report: Callable[[str], None] = print,
    wait: bool = False,
) -> Downloaded:
    """Fetch a public data set into a folder, in the layout that medvision reads.

    What is being fetched lies in a hidden folder beside ``root``; a cut download goes on there
    when it is asked for again, and ``root`` appears with its last file. The archive is removed
    at the end.

    Args:
        dataset: A data set, or its name in the catalogue.
        root: Where it goes; absent or empty, or the finished set, which is left as it is.
        report: Gets each line for the user.
        wait: Where another process is at it, wait for it instead of failing.

    Returns:
        What lies in ``root``.

    Raises:
        MedvisionError: If the set is unknown or needs an account, ``root`` holds something else,
            the network or the disk fails, the checksum is wrong, or the archive is not safe.
    """
    if isinstance(dataset, str):
        dataset = find(dataset)
    root = root.expanduser()
    try:
        if not is_absent(root):
            return _finished(dataset, root, report)
        if dataset.url is None:
            raise needs_account(dataset, str(root))
        if root.is_mount() or root.resolve() == Path.cwd():
            raise MedvisionError(
                "a mounted folder, or the one you are in, cannot appear all at once",
                where=str(root),
                hint=f"give a folder inside it, such as {root / dataset.name}",
            )
        with _workplace(dataset, root.resolve(), wait=wait) as work:
            if not is_absent(root):  # the process that this one waited for has done it
                return _finished(dataset, root, lambda _: None)
            report(announcement(dataset, root))
            return _download(dataset, dataset.url, root, work, report)
    except OSError as fault:
        raise MedvisionError(
            f"cannot write the data set: {fault.strerror or fault}",
            where=str(fault.filename or root),
            hint="check the disk and the permissions",
            exit_code=3,
        ) from fault


def announcement(dataset: DataSet, root: Path) -> str:
    """What is about to be downloaded, from where, under which terms, and where to."""
    return (
        f"downloading {dataset.title} ({dataset.size}, licence: {dataset.licence})"
        f" from {dataset.url} into {root}"
    )


def _finished(dataset: DataSet, root: Path, report: Callable[[str], None]) -> Downloaded:
    """The set that is there already.

    Raises:
        MedvisionError: If it is another one, incomplete, or something unknown.
    """
    hint = "give a new folder, or train on this one as it is with data.root"
    source = root / SOURCE_FILE
    if not source.is_file():
        raise MedvisionError("the folder is not empty", where=str(root), hint=hint)
    try:
        known = json.loads(source.read_text())
        name, sha256, num_files = known["name"], str(known["sha256"]), int(known["num_files"])
    except (ValueError, KeyError, TypeError) as fault:
        raise MedvisionError("cannot read the file", where=str(source), hint=hint) from fault
    if name != dataset.name:
        raise MedvisionError(f"the folder holds {name}", where=str(root), hint=hint)
    from medvision.data.folders import list_images  # imports numpy

    found = len(list_images(root)[0])
    if found != num_files:
        raise MedvisionError(
            f"{found} of the {num_files} files of {dataset.title} are there",
            where=str(root),
            hint="remove the folder to download it again",
        )
    report(f"{dataset.title} is in {root} already: {num_files} files, nothing to download")
    return Downloaded(root=root, sha256=sha256, num_files=num_files)


@contextmanager
def _workplace(dataset: DataSet, root: Path, *, wait: bool) -> Iterator[Path]:
    """A hidden folder beside ``root`` for one download at a time.

    Raises:
        MedvisionError: If another process is at it, and nobody is to wait.
    """
    work = root.with_name(f".{root.name}.{dataset.name}.download")
    made = [parent for parent in work.parents if not parent.exists()]
    with _open_locked(work / "lock", wait=wait) as is_ours:
        if not is_ours:
            raise MedvisionError(
                f"another process is downloading {dataset.title}",
                where=str(root),
                hint="wait for it",
                exit_code=3,
            )
        try:
            yield work
        finally:
            if work.exists() and [path.name for path in work.iterdir()] == ["lock"]:
                shutil.rmtree(work)
                with suppress(OSError):  # somebody else may use them by now
                    for parent in made:
                        parent.rmdir()


@contextmanager
def _open_locked(path: Path, *, wait: bool) -> Iterator[bool]:
    """Make a file and take its lock, and say whether it was free."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            stream = path.open("w")
        except FileNotFoundError:  # taken away in between
            continue
        with stream:
            is_ours = take_lock(stream.fileno(), wait=wait)
            if is_ours and not is_at(stream.fileno(), path):
                continue  # the process before took the folder away when it was done
            yield is_ours
            return


def _download(
    dataset: DataSet, url: str, root: Path, work: Path, report: Callable[[str], None]
) -> Downloaded:
    archive, sha256 = _fetch(dataset, url, work)
    if dataset.checksum is None:
        report(f"no checksum is published; SHA-256 {sha256} is recorded in {SOURCE_FILE}")
    else:
        report(f"the checksum is as published; SHA-256 {sha256}")
    unpacked, arranged = work / "unpacked", work / "arranged"
    for left in (unpacked, arranged):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    size_bytes = archive.stat().st_size
    try:
        unpack(archive, unpacked)
        num_files = arrange(unpacked, arranged, dataset.layout)
        _write_source(dataset, arranged, sha256=sha256, size_bytes=size_bytes, num_files=num_files)
        place = root.resolve()
        if place.exists():
            place.rmdir()
        arranged.rename(place)
    except MedvisionError:  # the archive is of no use: fetch it anew next time
        archive.unlink()
        raise
    finally:
        for left in (unpacked, arranged):
            shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(work)
    masks = dataset.num_images if "masks" in dataset.layout else 0
    if num_files != dataset.num_images + masks:
        report(f"expected {dataset.num_images + masks} files, found {num_files}")
    report(f"{dataset.title} is in {root}: {num_files} files; cite {dataset.citation}")
    return Downloaded(root=root, sha256=sha256, num_files=num_files)


def _fetch(dataset: DataSet, url: str, work: Path) -> tuple[Path, str]:
    """Fetch the archive, or take the one that is there; return it with its SHA-256.

    Raises:
        MedvisionError: If it cannot be fetched, or has another checksum than published.
    """
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # the lines for the user are ours
    downloader = Resuming(part=work / "archive.part", home_page=dataset.home_page)
    path = Path(
        pooch.retrieve(url, known_hash=None, fname="archive", path=work, downloader=downloader)
    )
    if dataset.checksum is not None:
        algorithm, _, expected = dataset.checksum.partition(":")
        found = pooch.file_hash(str(path), alg=algorithm)
        if found != expected:
            path.unlink()
            raise MedvisionError(
                f"the file has another {algorithm} than published: expected {expected},"
                f" found {found}; it was removed",
                where=url,
                hint=f"run it again; if that does not help, see {dataset.home_page}",
                exit_code=3,
            )
    return path, pooch.file_hash(str(path), alg="sha256")


def _write_source(
    dataset: DataSet, folder: Path, *, sha256: str, size_bytes: int, num_files: int
) -> None:
    source = {
        "name": dataset.name,
        "title": dataset.title,
        "url": dataset.url,
        "sha256": sha256,
        "size_bytes": size_bytes,
        "num_files": num_files,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": dataset.licence,
        "citation": dataset.citation,
        "home_page": dataset.home_page,
        "note": dataset.note,
    }
    text = json.dumps(source, indent=2, ensure_ascii=False)
    write_atomically(folder / SOURCE_FILE, f"{text}\n")

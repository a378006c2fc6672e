"""Download a public data set: verify, unpack and arrange it, all or nothing."""

from __future__ import annotations

import json
import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medvision.console import print_line, progress_bar
from medvision.data.download.archives import unpack
from medvision.data.download.catalog import DataSet, find, needs_account
from medvision.errors import MedvisionError
from medvision.files import short_name, sole_writer, write_atomically

if TYPE_CHECKING:
    from requests import Response


CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
"""Longest wait for data from the server."""
ATTEMPTS = 5
WAIT_S = 1.0
"""Pause before the second attempt; doubled before each further one."""


class CutConnectionError(Exception):
    """Connection closed before the end of the file."""


def _failed(what: str, where: object, hint: str) -> MedvisionError:
    return MedvisionError(what, where=str(where), hint=hint, exit_code=3)


@dataclass(kw_only=True)
class Resuming:
    """Downloader for pooch that stores received bytes in ``part`` and requests the rest.

    Received bytes are used only if the server confirms, by ETag or date, that the file is
    unchanged; a server that does not support ranges sends it from the start.

    Attributes:
        part: Path of the received bytes until the download is complete.
        home_page: Address shown if the server cannot be reached.
    """

    part: Path
    home_page: str

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Fetch ``url`` into ``output_file``.

        Raises:
            MedvisionError: If the server cannot be reached, refuses, or repeatedly closes the
                connection.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(WAIT_S * 2 ** (attempt - 1))
            try:
                self._attempt(url, first=attempt == 0)
                break
            except CutConnectionError as fault:
                reason = str(fault)
        else:
            kept = self.part.stat().st_size if self.part.exists() else 0
            hint = f"{kept / 1e6:.1f} MB are kept: run the same command again to resume"
            raise _failed(f"the connection was cut {ATTEMPTS} times: {reason}", url, hint)
        self.part.replace(output_file)
        self._state_file.unlink(missing_ok=True)

    @property
    def _state_file(self) -> Path:
        return self.part.with_name(f"{self.part.name}.json")

    def _attempt(self, url: str, *, first: bool) -> None:
        import requests

        state = self._state(url)
        have = self.part.stat().st_size if state else 0
        if state and have == state["total"]:
            return
        headers = {"Accept-Encoding": "identity"}
        if have:
            headers |= {"Range": f"bytes={have}-", "If-Range": state["validator"]}
        try:
            response = requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_S)
        except requests.RequestException as fault:
            cut = isinstance(fault, (requests.ConnectionError, requests.Timeout))
            if cut and not first:
                raise CutConnectionError(_reason(fault)) from fault
            absent = f"no network, or {urlsplit(url).hostname} does not answer"
            what = f"{absent if cut else 'cannot fetch the file'}: {_reason(fault)}"
            hint = f"check the network and run the command again, or see {self.home_page}"
            raise _failed(what, url, hint) from fault
        with response:
            self._refuse_answer(response, url)
            first_byte, total = _extent(response)
            if response.status_code == 206:
                known = (state.get("validator"), state.get("total"), have)
                if known != (_validator(response), total, first_byte):
                    self._state_file.unlink(missing_ok=True)
                    raise CutConnectionError("the file has changed on the server")
            else:
                have = 0
            try:
                self._take(response, url, have, total)
            except requests.RequestException as fault:
                raise CutConnectionError(_reason(fault)) from fault

    def _state(self, url: str) -> dict[str, Any]:
        """Return the state of the file in ``part``; empty if none of it can be used."""
        if not (self.part.exists() and self._state_file.exists()):
            return {}
        state: dict[str, Any] = json.loads(self._state_file.read_text())
        return state if state["url"] == url and state["validator"] else {}

    def _refuse_answer(self, response: Response, url: str) -> None:
        status = f"{response.status_code} {response.reason}".strip()
        if response.status_code == 416:  # the stored bytes are not part of the file
            self._state_file.unlink(missing_ok=True)
        if response.status_code in (416, 429, 500, 502, 503, 504):
            raise CutConnectionError(f"the server answers {status}")
        if response.status_code not in (200, 206):
            hint = f"see {self.home_page}: the file may have moved, or require a browser"
            raise _failed(f"the server answers {status}", url, hint)
        if url.startswith("https:") and not response.url.startswith("https:"):
            what = "the server redirects to an address without https"
            raise _failed(what, response.url, f"see {self.home_page}")

    def _take(self, response: Response, url: str, have: int, total: int | None) -> None:
        """Append the body of a response to the received bytes, or replace them."""
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and free < 2 * total - have:  # the archive and its content
            what = (
                f"not enough disk space: {2 * total / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free"
            )
            raise _failed(what, self.part.parent, "free some space, or give another folder")
        with (
            self.part.open("ab" if have else "wb") as file,
            progress_bar(of_bytes=True, transient=False) as advance,
        ):
            state = {"url": url, "validator": _validator(response), "total": total}
            write_atomically(self._state_file, json.dumps(state))
            advance("download", have, total)
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                advance("download", file.tell(), total)
            arrived = file.tell()
        if total is not None and arrived != total:
            raise CutConnectionError(f"received {arrived} of {total} bytes")


def _validator(response: Response) -> str:
    """Return the identifier of a file version; a weak ETag does not imply equal bytes."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _extent(response: Response) -> tuple[int | None, int | None]:
    """Return the offset of the first byte sent and the size of the file, None if not stated."""
    if response.status_code == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d*)", response.headers.get("Content-Range", ""))
        first, total = found.groups() if found else ("", "")
    else:
        first, total = "0", response.headers.get("Content-Length", "")
    return (int(first) if first else None, int(total) if total.isdecimal() else None)


def _reason(fault: BaseException) -> str:
    """Return the innermost cause, without classes and addresses."""
    cause = fault.args[0] if fault.args else fault
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, BaseException) and cause.args and isinstance(cause.args[0], str):
        cause = cause.args[0]
    return re.sub(r"\[Errno -?\d+\] ", "", str(cause).rpartition(": ")[2])


_JUNK = "__MACOSX"


def arrange(unpacked: Path, folder: Path, layout: Mapping[str, str]) -> int:
    """Move images from folders of an unpacked archive to the folders of a layout.

    Other files, hidden files and system files of macOS and Windows are not moved.

    Args:
        unpacked: Folder with the unpacked content, at any depth.
        folder: Destination, created; must not exist.
        layout: Source folder, by the last parts of its path, for each folder to create; an empty
            name is ``folder`` itself.

    Returns:
        Number of files moved.

    Raises:
        MedvisionError: If a folder is missing, ambiguous or without images.
        FileExistsError: If ``folder`` exists.
    """
    from medvision.data.discovery.folders import list_images  # imports numpy

    folder.mkdir()
    moved = 0
    for name, wanted in layout.items():
        source = _folder_called(unpacked, wanted)
        images, _ = list_images(source)
        if not images:
            raise _unlike(f"the folder {wanted} of the archive contains no images", source)
        for image in images:
            target = folder / name / image
            target.parent.mkdir(parents=True, exist_ok=True)
            (source / image).rename(target)
        moved += len(images)
    return moved


def _folder_called(unpacked: Path, wanted: str) -> Path:
    """Return the folder whose path ends with ``wanted``; the inner one if nested."""
    parts = Path(wanted).parts
    found = [
        path
        for path in sorted(unpacked.rglob(parts[-1]))
        if path.is_dir()
        and path.relative_to(unpacked).parts[-len(parts) :] == parts
        and _JUNK not in path.relative_to(unpacked).parts
    ]
    inner = [path for path in found if not any(path in other.parents for other in found)]
    if len(inner) == 1:
        return inner[0]
    what = f"has {len(inner)} folders" if inner else "has no folder"
    raise _unlike(f"the archive {what} {wanted}", unpacked)


def _unlike(what: str, where: Path) -> MedvisionError:
    hint = "its publisher has changed it: unpack it manually and set data.root to the folder"
    return _failed(what, where, hint)


SOURCE_FILE = "SOURCE.json"
"""File beside the images with their origin and terms of use."""


def fetch_for_training(name: str, root: Path, *, task: str) -> None:
    """Download the data set of a config into a missing folder, and report it.

    One process per host downloads; the others wait for it.

    Raises:
        MedvisionError: If the data set is for another task, or the download fails.
    """
    dataset = find(name, where="data.download")
    if dataset.task != task:
        raise MedvisionError(
            f"{dataset.title} is for {dataset.task}, not for {task}",
            where="data.download",
            hint=f"choose a {dataset.task} experiment",
        )
    download(dataset, root, report=print_line, wait=True)


def is_absent(root: Path) -> bool:
    """Return True if ``root`` does not exist or is an empty folder."""
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def download(
    dataset: DataSet | str,
    root: Path,
    *,
    report: Callable[[str], None] = print_line,
    wait: bool = False,
) -> dict[str, Any]:
    """Download a public data set into a folder, in the layout that medvision reads.

    The download is stored in a hidden folder beside ``root``; an interrupted download resumes from
    there, and ``root`` appears only when complete. The archive is removed at the end.

    Args:
        dataset: Data set, or its name in the catalogue.
        root: Destination; missing, empty, or the finished data set, which is left unchanged.
        report: Called with each line for the user.
        wait: If True, wait for another process that downloads it instead of failing.

    Returns:
        Content of ``SOURCE_FILE`` in ``root``, such as ``num_files`` and ``sha256``.

    Raises:
        MedvisionError: If the data set is unknown or needs an account, ``root`` contains something
            else, the network or the disk fails, the checksum is wrong, or the archive is not safe.
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
                "expected a new folder, got a mounted folder or the current one",
                where=str(root),
                hint=f"give a folder inside it, such as {root / dataset.name}",
            )
        with _workplace(dataset, root.resolve(), wait=wait) as work:
            if not is_absent(root):  # downloaded by the other process
                return _finished(dataset, root, lambda _: None)
            report(
                f"downloading {dataset.title} ({dataset.size}, licence: {dataset.licence})"
                f" from {dataset.url} into {root}"
            )
            return _download(dataset, dataset.url, root, work, report)
    except OSError as fault:
        raise MedvisionError(
            f"cannot write the data set: {fault.strerror or fault}",
            where=str(fault.filename or root),
            hint="check the disk and the permissions",
            exit_code=3,
        ) from fault


def _finished(dataset: DataSet, root: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Return the recorded source of the existing data set.

    Raises:
        MedvisionError: If the folder contains another data set, is incomplete, or is unknown.
    """
    hint = "give a new folder, or set data.root to train on this one as it is"
    source = root / SOURCE_FILE
    if not source.is_file():
        raise MedvisionError("the folder is not empty", where=str(root), hint=hint)
    try:
        known: dict[str, Any] = json.loads(source.read_text())
        name, num_files = known["name"], int(known["num_files"])
    except (ValueError, KeyError, TypeError) as fault:
        raise MedvisionError("cannot read the file", where=str(source), hint=hint) from fault
    if name != dataset.name:
        raise MedvisionError(f"the folder contains {name}", where=str(root), hint=hint)
    from medvision.data.discovery.folders import list_images  # imports numpy

    found = len(list_images(root)[0])
    if found != num_files:
        raise MedvisionError(
            f"found {found} of the {num_files} files of {dataset.title}",
            where=str(root),
            hint="remove the folder to download it again",
        )
    report(f"{dataset.title} is in {root} already: {num_files} files, nothing to download")
    return known


@contextmanager
def _workplace(dataset: DataSet, root: Path, *, wait: bool) -> Iterator[Path]:
    """Provide a hidden folder beside ``root`` for one download at a time.

    Raises:
        MedvisionError: If another process uses it and ``wait`` is False.
    """
    work = root.with_name(short_name(f".{root.name}.{dataset.name}.download"))
    busy = f"another process is downloading {dataset.title}"
    with sole_writer(root, lock=f"{work.name}.lock", wait=wait, busy=busy):
        work.mkdir(exist_ok=True)
        try:
            yield work
        finally:
            with suppress(OSError):  # not empty (partial archive), or already removed
                work.rmdir()


def _download(
    dataset: DataSet, url: str, root: Path, work: Path, report: Callable[[str], None]
) -> dict[str, Any]:
    archive, sha256 = _fetch(dataset, url, work)
    if dataset.checksum is None:
        report(f"no checksum is published; SHA-256 {sha256} is recorded in {SOURCE_FILE}")
    else:
        report(f"the checksum matches the published one; SHA-256 {sha256}")
    unpacked, arranged = work / "unpacked", work / "arranged"
    for left in (unpacked, arranged):  # left by a killed process
        shutil.rmtree(left, ignore_errors=True)
    size_bytes = archive.stat().st_size
    try:
        unpack(archive, unpacked)
        num_files = arrange(unpacked, arranged, dataset.layout)
        source = _source(dataset, sha256=sha256, size_bytes=size_bytes, num_files=num_files)
        text = json.dumps(source, indent=2, ensure_ascii=False)
        write_atomically(arranged / SOURCE_FILE, f"{text}\n")
        place = root.resolve()
        if place.exists():
            place.rmdir()
        arranged.rename(place)
    except MedvisionError:  # unusable archive: fetch it again next time
        archive.unlink()
        raise
    finally:
        for left in (unpacked, arranged):
            shutil.rmtree(left, ignore_errors=True)
    shutil.rmtree(work)
    expected = (dataset.num_images or 0) * (2 if "masks" in dataset.layout else 1)
    if expected and num_files != expected:
        report(f"expected {expected} files, found {num_files}")
    report(f"{dataset.title} is in {root}: {num_files} files; cite {dataset.citation}")
    return source


def _fetch(dataset: DataSet, url: str, work: Path) -> tuple[Path, str]:
    """Fetch the archive unless it exists; return its path and SHA-256.

    Raises:
        MedvisionError: If it cannot be fetched, or its checksum differs from the published one.
    """
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # this module reports to the user
    downloader = Resuming(part=work / "archive.part", home_page=dataset.home_page)
    path = Path(
        pooch.retrieve(url, known_hash=None, fname="archive", path=work, downloader=downloader)
    )
    if dataset.checksum is not None:
        algorithm, _, expected = dataset.checksum.partition(":")
        found = pooch.file_hash(str(path), alg=algorithm)
        if found != expected:
            path.unlink()
            raise _failed(
                f"the {algorithm} of the file differs from the published one: expected {expected},"
                f" got {found}; the file was removed",
                url,
                f"run the command again; if that does not help, see {dataset.home_page}",
            )
    return path, pooch.file_hash(str(path), alg="sha256")


def _source(dataset: DataSet, **archive: Any) -> dict[str, Any]:
    """Return the content of ``SOURCE_FILE``."""
    return {
        "name": dataset.name,
        "title": dataset.title,
        "url": dataset.url,
        **archive,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "licence": dataset.licence,
        "citation": dataset.citation,
        "home_page": dataset.home_page,
        "note": dataset.note,
    }

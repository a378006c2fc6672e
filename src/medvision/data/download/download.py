"""Download a public data set: checked, unpacked, arranged, and complete or absent."""

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

from medvision.console import progress_bar, say
from medvision.data.download.archives import unpack
from medvision.data.download.catalog import DataSet, find, needs_account
from medvision.errors import MedvisionError
from medvision.files import sole_writer, write_atomically

if TYPE_CHECKING:
    from requests import Response


CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
"""Longest silence of the server."""
ATTEMPTS = 5
WAIT_S = 1.0
"""Pause before the second attempt; doubled before each further one."""


class CutConnectionError(Exception):
    """The server stopped before the end."""


def _failed(what: str, where: object, hint: str) -> MedvisionError:
    return MedvisionError(what, where=str(where), hint=hint, exit_code=3)


@dataclass(kw_only=True)
class Resuming:
    """Downloader for pooch that keeps what has arrived in ``part`` and asks for the rest.

    What has arrived is used only where the server shows, by ETag or date, that the file is still
    the same; a server that cannot send a part of it sends it from the start.

    Attributes:
        part: Where the bytes are kept until all have arrived.
        home_page: Named where the server cannot be reached.
    """

    part: Path
    home_page: str

    def __call__(self, url: str, output_file: str, _pooch: object) -> None:
        """Fetch ``url`` into ``output_file``.

        Raises:
            MedvisionError: If the server cannot be reached, refuses, or cuts the connection
                again and again.
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
            hint = f"{kept / 1e6:.1f} MB are kept: run the same command again to go on"
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
            hint = f"connect and run it again, or see {self.home_page}"
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
        """What is known of the file in ``part``; empty where no byte of it can be used."""
        if not (self.part.exists() and self._state_file.exists()):
            return {}
        state: dict[str, Any] = json.loads(self._state_file.read_text())
        return state if state["url"] == url and state["validator"] else {}

    def _refuse_answer(self, response: Response, url: str) -> None:
        status = f"{response.status_code} {response.reason}".strip()
        if response.status_code == 416:  # what is kept is no part of the file
            self._state_file.unlink(missing_ok=True)
        if response.status_code in (416, 429, 500, 502, 503, 504):
            raise CutConnectionError(f"the server answers {status}")
        if response.status_code not in (200, 206):
            hint = f"see {self.home_page}: the file may have moved, or ask for a browser"
            raise _failed(f"the server answers {status}", url, hint)
        if url.startswith("https:") and not response.url.startswith("https:"):
            what = "the server leads to an unprotected address"
            raise _failed(what, response.url, f"see {self.home_page}")

    def _take(self, response: Response, url: str, have: int, total: int | None) -> None:
        """Add the body of an answer to what is there, or put it in its place."""
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and free < 2 * total - have:  # the archive, and what comes out of it
            what = f"{2 * total / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free"
            raise _failed(what, self.part.parent, "free some, or give another folder")
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
            raise CutConnectionError(f"{arrived} of {total} bytes arrived")


def _validator(response: Response) -> str:
    """What stands for one version of a file; a weak ETag does not say that bytes are equal."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _extent(response: Response) -> tuple[int | None, int | None]:
    """First byte that is sent, and bytes of the whole file, as far as the server says so."""
    if response.status_code == 206:
        found = re.match(r"bytes (\d+)-\d+/(\d*)", response.headers.get("Content-Range", ""))
        first, total = found.groups() if found else ("", "")
    else:
        first, total = "0", response.headers.get("Content-Length", "")
    return (int(first) if first else None, int(total) if total.isdecimal() else None)


def _reason(fault: BaseException) -> str:
    """The innermost cause, without the classes and addresses around it."""
    cause = fault.args[0] if fault.args else fault
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, BaseException) and cause.args and isinstance(cause.args[0], str):
        cause = cause.args[0]
    return re.sub(r"\[Errno -?\d+\] ", "", str(cause).rpartition(": ")[2])


_JUNK = "__MACOSX"


def arrange(unpacked: Path, folder: Path, layout: Mapping[str, str]) -> int:
    """Move the images of some folders of an archive to where a layout wants them.

    Other files stay behind, as do hidden ones and what macOS and Windows leave.

    Args:
        unpacked: What the archive held, at any depth.
        folder: Made for it; must not exist.
        layout: For each folder to be made the one whose images it gets, by the last parts of its
            path; an empty name is ``folder`` itself.

    Returns:
        Number of files moved.

    Raises:
        MedvisionError: If a folder is not there, is there more than once, or holds no image.
        FileExistsError: If ``folder`` exists.
    """
    from medvision.data.discovery.folders import list_images  # imports numpy

    folder.mkdir()
    moved = 0
    for name, wanted in layout.items():
        source = _folder_called(unpacked, wanted)
        images, _ = list_images(source)
        if not images:
            raise _unlike(f"the folder {wanted} of the archive holds no image", source)
        for image in images:
            target = folder / name / image
            target.parent.mkdir(parents=True, exist_ok=True)
            (source / image).rename(target)
        moved += len(images)
    return moved


def _folder_called(unpacked: Path, wanted: str) -> Path:
    """Return the folder whose path ends so; of two inside each other, the inner one."""
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
    hint = "its publisher has changed it: unpack it by hand, and give the folder as data.root"
    return _failed(what, where, hint)


SOURCE_FILE = "SOURCE.json"
"""Beside the images: where they came from, under which terms."""


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
    download(dataset, root, report=say, wait=True)


def is_absent(root: Path) -> bool:
    """Whether nothing is at ``root`` yet, or an empty folder."""
    return not root.exists() or (root.is_dir() and not any(root.iterdir()))


def download(
    dataset: DataSet | str, root: Path, *, report: Callable[[str], None] = say, wait: bool = False
) -> dict[str, Any]:
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
        What ``SOURCE_FILE`` in ``root`` says, such as ``num_files`` and ``sha256``.

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
    """What is recorded of the set that is there already.

    Raises:
        MedvisionError: If it is another one, incomplete, or something unknown.
    """
    hint = "give a new folder, or train on this one as it is with data.root"
    source = root / SOURCE_FILE
    if not source.is_file():
        raise MedvisionError("the folder is not empty", where=str(root), hint=hint)
    try:
        known: dict[str, Any] = json.loads(source.read_text())
        name, num_files = known["name"], int(known["num_files"])
    except (ValueError, KeyError, TypeError) as fault:
        raise MedvisionError("cannot read the file", where=str(source), hint=hint) from fault
    if name != dataset.name:
        raise MedvisionError(f"the folder holds {name}", where=str(root), hint=hint)
    from medvision.data.discovery.folders import list_images  # imports numpy

    found = len(list_images(root)[0])
    if found != num_files:
        raise MedvisionError(
            f"{found} of the {num_files} files of {dataset.title} are there",
            where=str(root),
            hint="remove the folder to download it again",
        )
    report(f"{dataset.title} is in {root} already: {num_files} files, nothing to download")
    return known


@contextmanager
def _workplace(dataset: DataSet, root: Path, *, wait: bool) -> Iterator[Path]:
    """A hidden folder beside ``root`` for one download at a time.

    Raises:
        MedvisionError: If another process is at it, and nobody is to wait.
    """
    work = root.with_name(f".{root.name}.{dataset.name}.download")
    busy = f"another process is downloading {dataset.title}"
    with sole_writer(root, lock=f"{work.name}.lock", wait=wait, busy=busy):
        work.mkdir(exist_ok=True)
        try:
            yield work
        finally:
            with suppress(OSError):  # it holds a part of the archive, or is gone
                work.rmdir()


def _download(
    dataset: DataSet, url: str, root: Path, work: Path, report: Callable[[str], None]
) -> dict[str, Any]:
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
        source = _source(dataset, sha256=sha256, size_bytes=size_bytes, num_files=num_files)
        text = json.dumps(source, indent=2, ensure_ascii=False)
        write_atomically(arranged / SOURCE_FILE, f"{text}\n")
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
    return source


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
            raise _failed(
                f"the file has another {algorithm} than published: expected {expected},"
                f" found {found}; it was removed",
                url,
                f"run it again; if that does not help, see {dataset.home_page}",
            )
    return path, pooch.file_hash(str(path), alg="sha256")


def _source(dataset: DataSet, **archive: Any) -> dict[str, Any]:
    """What ``SOURCE_FILE`` says."""
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

"""Fetch one file over HTTP, and go on where a connection was cut."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from medvision.files import write_atomically
from medvision.types import MedvisionError

if TYPE_CHECKING:  # requests and rich take a tenth of a second to import
    from requests import Response

CHUNK_BYTES = 1 << 18
TIMEOUT_S = 30.0
"""Longest silence of the server."""
ATTEMPTS = 5
WAIT_S = 1.0
"""Pause before the second attempt; doubled before each further one."""


class CutConnectionError(Exception):
    """The server stopped before the end."""


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
            raise MedvisionError(
                f"the connection was cut {ATTEMPTS} times: {reason}",
                where=url,
                hint=f"{kept / 1e6:.1f} MB are kept: run the same command again to go on",
                exit_code=3,
            )
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
            host = urlsplit(url).hostname
            raise MedvisionError(
                f"{f'no network, or {host} does not answer' if cut else 'cannot fetch the file'}:"
                f" {_reason(fault)}",
                where=url,
                hint=f"connect and run it again, or see {self.home_page}",
                exit_code=3,
            ) from fault
        with response:
            self._refuse_answer(response, url)
            total = _total(response)
            if response.status_code == 206:
                known = (state.get("validator"), state.get("total"), have)
                if known != (_validator(response), total, _first_byte(response)):
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
            raise MedvisionError(
                f"the server answers {status}",
                where=url,
                hint=f"see {self.home_page}: the file may have moved, or ask for a browser",
                exit_code=3,
            )
        if url.startswith("https:") and not response.url.startswith("https:"):
            raise MedvisionError(
                "the server leads to an unprotected address",
                where=response.url,
                hint=f"see {self.home_page}",
                exit_code=3,
            )

    def _take(self, response: Response, url: str, have: int, total: int | None) -> None:
        """Add the body of an answer to what is there, or put it in its place."""
        free = shutil.disk_usage(self.part.parent).free
        if total is not None and free < 2 * total - have:  # the archive, and what comes out of it
            raise MedvisionError(
                f"{2 * total / 1e6:.0f} MB are needed, {free / 1e6:.0f} MB are free",
                where=str(self.part.parent),
                hint="free some, or give another folder",
                exit_code=3,
            )
        with self.part.open("ab" if have else "wb") as file, _progress(have, total) as advance:
            state = {"url": url, "validator": _validator(response), "total": total}
            write_atomically(self._state_file, json.dumps(state))
            for chunk in response.iter_content(CHUNK_BYTES):
                file.write(chunk)
                advance(len(chunk))
            arrived = file.tell()
        if total is not None and arrived != total:
            raise CutConnectionError(f"{arrived} of {total} bytes arrived")


def _validator(response: Response) -> str:
    """What stands for one version of a file; a weak ETag does not say that bytes are equal."""
    tag: str = response.headers.get("ETag", "")
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified", "")


def _total(response: Response) -> int | None:
    """Bytes of the whole file, where the server says so."""
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
    else:
        total = response.headers.get("Content-Length", "")
    return int(total) if total.isdecimal() else None


def _first_byte(response: Response) -> int | None:
    first = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(first[1]) if first else None


def _reason(fault: BaseException) -> str:
    """The innermost cause, without the classes and addresses around it."""
    cause = fault.args[0] if fault.args else fault
    cause = getattr(cause, "reason", cause)
    if isinstance(cause, BaseException) and cause.args and isinstance(cause.args[0], str):
        cause = cause.args[0]
    return re.sub(r"\[Errno -?\d+\] ", "", str(cause).rpartition(": ")[2])


@contextmanager
def _progress(have: int, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal: bytes, rate and time left."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    console = Console(stderr=True)
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=have)
        yield lambda count: progress.advance(task, count)

"""Ledger of every evaluation on a test split, whose number is part of a result."""

import csv
import errno
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from medvision.errors import MedvisionError
from medvision.files import file_errors, is_writable, locked, read_regular
from medvision.run.storage.run_folder import git_state

LEDGER = Path("runs", "test_ledger.csv")
"""Path of the ledger, relative to the working folder of the command."""

COLUMNS = ("time", "git_sha", "config_hash", "split_fingerprint", "metric", "value", "run")

ELSEWHERE = {
    "": ("run_dir", "logger", "audit", "trust"),
    "data": ("root", "splits", "download", "num_workers", "decoded_gb"),
    "trainer": ("accelerator", "memory_format", "log_every_n_steps"),
}
"""Keys that depend on the machine or folder and do not change what is learned."""


def note_test_evaluation(
    *,
    config: Mapping[str, Any],
    split_fingerprint: str,
    metric: str,
    value: float | None,
    run: Path,
) -> int:
    """Add a line to the ledger for an evaluation of a test split.

    Safe for concurrent writers. The commit is that of this code, with ``-dirty`` if it has local
    changes, and blank outside a checkout.

    Args:
        config: Resolved config of the run, as stored in ``config.yaml``.
        split_fingerprint: Fingerprint of the test images, 64 hexadecimal digits.
        metric: Name of the recorded score, such as ``test/dice``.
        value: Its value; None if undefined.
        run: Run folder.

    Returns:
        Number of lines for this test split, including this one.

    Raises:
        MedvisionError: If the file is damaged, not a ledger, or cannot be written.
    """
    git = git_state()
    line = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "git_sha": "" if git["sha"] is None else git["sha"] + "-dirty" * bool(git["dirty"]),
        "config_hash": config_hash(config),
        "split_fingerprint": split_fingerprint,
        "metric": metric,
        "value": "" if value is None else repr(float(value)),
        "run": run.as_posix(),
    }
    with file_errors("cannot record the evaluation of the test split", LEDGER):
        LEDGER.parent.mkdir(exist_ok=True)
        lock = LEDGER.with_name(".test_ledger.lock")
        with locked(lock), LEDGER.open("a+b", buffering=0) as stream:
            stream.seek(0)
            content = stream.read()
            earlier = _parse(content)
            head = b"" if content else _csv(COLUMNS)
            _append(stream, head + _csv(line.values()), size=len(content))
    return 1 + sum(row["split_fingerprint"] == split_fingerprint for row in earlier)


def check_ledger() -> None:
    """Check before an evaluation, or the training before it, that the ledger can be used.

    Raises:
        MedvisionError: If the file is damaged, not a ledger, or cannot be written.
    """
    if not (is_writable(LEDGER.parent) and is_writable(LEDGER)):
        raise MedvisionError(
            "the ledger of test evaluations is read-only",
            where=str(LEDGER),
            hint="start in a writable folder",
        )
    try:
        _parse(read_regular(LEDGER))
    except FileNotFoundError:
        return  # the first evaluation creates it
    except OSError as fault:
        raise MedvisionError(
            f"cannot read the file: {fault.strerror or fault}",
            where=str(LEDGER),
            hint="check its permissions",
        ) from fault


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of the parts of a config that define the model and its training.

    Leaves out the keys in ``ELSEWHERE``, which differ between machines, and every value equal to
    the run's own folder. The name and numbers of the data are included, its location is not: the
    fingerprint of the split identifies the tested images.

    Args:
        config: Plain values, as stored in ``config.yaml``.

    Returns:
        64 hexadecimal digits.
    """
    here = config.get("run_dir")

    def kept(node: Any, path: str) -> Any:
        if isinstance(node, Mapping):
            inside = {key: kept(value, f"{path}.{key}".lstrip(".")) for key, value in node.items()}
            out = ELSEWHERE.get(path, ())
            return {k: v for k, v in inside.items() if k not in out and (here is None or v != here)}
        return [kept(value, path) for value in node] if isinstance(node, list | tuple) else node

    text = json.dumps(kept(config, ""), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _append(stream: IO[bytes], line: bytes, *, size: int) -> None:
    """Append a line to a file of ``size`` bytes, completely or not at all."""
    try:
        written = stream.write(line)
    except OSError:
        stream.truncate(size)
        raise
    if written != len(line):
        stream.truncate(size)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _parse(content: bytes) -> list[dict[str, str]]:
    """Parse the lines of the ledger.

    Raises:
        MedvisionError: If they do not have the format of `note_test_evaluation`.
    """
    if not content:
        return []
    try:
        text = content.decode("utf-8-sig")
        rows = list(csv.reader(io.StringIO(text, newline="")))
    except (UnicodeDecodeError, csv.Error) as fault:
        raise _damaged("not a csv file", 1) from fault
    if tuple(rows[0]) != COLUMNS:
        raise _damaged(f"expected the first line {','.join(COLUMNS)}", 1)
    lines = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(COLUMNS):
            raise _damaged(f"expected {len(COLUMNS)} cells, got {len(cells)}", number)
        lines.append(dict(zip(COLUMNS, cells, strict=True)))
        if not re.fullmatch("[0-9a-f]{64}", lines[-1]["split_fingerprint"]):
            raise _damaged("expected a fingerprint of a split", number)
    if not text.endswith("\n"):
        raise _damaged("the last line is incomplete", len(rows))
    return lines


def _damaged(what: str, number: int) -> MedvisionError:
    return MedvisionError(
        what,
        where=f"{LEDGER}, line {number}",
        hint="fix it, or move the file away: counting then starts again",
    )


def _csv(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()

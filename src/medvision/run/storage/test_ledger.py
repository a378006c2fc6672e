"""Ledger of every evaluation on a test split, whose number is part of a result.

It is kept twice: in the state folder of the user, a file for each test split named by its
fingerprint, so that commands started in any folder count on; and beside the runs, for readers.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from medvision.errors import MedvisionError
from medvision.files import file_errors, is_writable, locked, own_folder, read_regular
from medvision.run.storage.run_folder import git_state

LEDGER = Path("runs", "test_ledger.csv")
"""Path of the ledger, relative to the working folder of the command."""

COLUMNS = ("time", "git_sha", "config_hash", "split_fingerprint", "metric", "value", "run")

WHAT = "cannot record the evaluation of the test split"

SAME = ("time", "config_hash", "metric", "value")
"""Columns that tell an evaluation in one ledger from the others in the other ledger."""

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

    The line goes to both ledgers, and those of both are counted, each evaluation once. Safe for
    concurrent writers. The commit is that of this code, with ``-dirty`` if it has local
    changes, and blank outside a checkout.

    Args:
        config: Resolved config of the run, as stored in ``config.yaml``.
        split_fingerprint: Fingerprint of the test images, 64 hexadecimal digits.
        metric: Name of the recorded score, such as ``test/dice``.
        value: Its value; None if undefined.
        run: Run folder.

    Returns:
        Number of evaluations of this test split, including this one.

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
    beside = {**line, "run": (Path.cwd() / run).as_posix()}
    shared = _shared_ledger(split_fingerprint)
    added = [*([] if shared is None else [(shared, beside)]), (LEDGER, line)]
    counted: Counter[tuple[str, ...]] = Counter()
    with ExitStack() as locks:  # all at once, so that no two evaluations get one number
        for path, _ in added:
            with file_errors(WHAT, path):
                path.parent.mkdir(parents=True, exist_ok=True)
                locks.enter_context(locked(path.with_name(f".{path.stem}.lock")))
        for path, cells in added:
            with file_errors(WHAT, path):
                rows = _add(path, cells)
            found = (row for row in rows if row["split_fingerprint"] == split_fingerprint)
            counted |= Counter(tuple(row[column] for column in SAME) for row in found)
    return counted.total()


def _add(path: Path, line: Mapping[str, str]) -> list[dict[str, str]]:
    """Add a line to a ledger; return all of its lines."""
    with path.open("a+b", buffering=0) as stream:
        stream.seek(0)
        content = stream.read()
        earlier = _parse(content, path)
        head = b"" if content else _csv(COLUMNS)
        _append(stream, head + _csv(line.values()), size=len(content))
    return [*earlier, dict(line)]


def _shared_ledger(split_fingerprint: str) -> Path | None:
    """Ledger of a test split in the state folder of the user; None if there can be none."""
    try:
        path = own_folder("state") / "test_evaluations" / f"{split_fingerprint}.csv"
    except RuntimeError:
        return None
    return path if is_writable(path.parent) and is_writable(path) else None


def times_in_words(times: int) -> str:
    """Say how often a test split has been evaluated, and where the evaluations are listed."""
    shared = _shared_ledger("")
    where = f"{LEDGER}, those of other folders in {shared.parent}" if shared else str(LEDGER)
    return f"this test split has been evaluated {times} times ({where})"


def ledger_note() -> str | None:
    """Note for the summary where evaluations can be counted beside the runs only."""
    if _shared_ledger("") is not None:
        return None
    return (
        f"evaluations of this test split are counted in {LEDGER} only, and those of commands that"
        " are started in other folders are not known: the state folder of the user cannot be"
        " written; set MEDVISION_STATE_DIR to a writable folder"
    )


def check_ledger(split_fingerprint: str | None = None) -> None:
    """Check before an evaluation, or the training before it, that the ledger can be used.

    Args:
        split_fingerprint: Fingerprint of the test images, if known.

    Raises:
        MedvisionError: If a file is damaged, not a ledger, or cannot be written.
    """
    shared = None if split_fingerprint is None else _shared_ledger(split_fingerprint)
    for path in filter(None, (LEDGER, shared)):
        _check(path)


def _check(path: Path) -> None:
    if not (is_writable(path.parent) and is_writable(path)):
        raise MedvisionError(
            "the ledger of test evaluations is read-only",
            where=str(path),
            hint="start in a writable folder",
        )
    try:
        _parse(read_regular(path), path)
    except FileNotFoundError:
        return  # the first evaluation creates it
    except OSError as fault:
        raise MedvisionError(
            f"cannot read the file: {fault.strerror or fault}",
            where=str(path),
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


def _parse(content: bytes, path: Path) -> list[dict[str, str]]:
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
        raise _damaged("not a csv file", path, 1) from fault
    if tuple(rows[0]) != COLUMNS:
        raise _damaged(f"expected the first line {','.join(COLUMNS)}", path, 1)
    lines = []
    for number, cells in enumerate(rows[1:], start=2):
        if len(cells) != len(COLUMNS):
            raise _damaged(f"expected {len(COLUMNS)} cells, got {len(cells)}", path, number)
        lines.append(dict(zip(COLUMNS, cells, strict=True)))
        if not re.fullmatch("[0-9a-f]{64}", lines[-1]["split_fingerprint"]):
            raise _damaged("expected a fingerprint of a split", path, number)
    if not text.endswith("\n"):
        raise _damaged("the last line is incomplete", path, len(rows))
    return lines


def _damaged(what: str, path: Path, number: int) -> MedvisionError:
    return MedvisionError(what, where=f"{path}, line {number}", hint="fix it, or move it away")


def _csv(cells: Iterable[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()

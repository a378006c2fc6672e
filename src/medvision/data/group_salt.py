"""Hide group names, which may be patients, before they reach a run folder."""

from __future__ import annotations

import functools
import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from medvision.data.sample import Sample
from medvision.data.sample_table import SampleTable

_NUM_BYTES = 32
_HASH_DIGITS = 12


def hash_groups(samples: Iterable[Sample]) -> tuple[SampleTable, str | None]:
    """Return the samples with their groups as salted hashes, and a warning or None.

    The salt is made once per user and kept outside every run, so the same group has the same
    hash in all runs of one machine. Where it cannot be kept, it lives as long as the process,
    and the warning says so. An empty group stays empty.

    Returns:
        The samples in their order, each group 12 hexadecimal digits or empty; a warning.
    """
    table = SampleTable.of(samples)
    names, number = table.groups.numbered()
    if not any(names):
        return table, None
    salt, warning = _salt()
    hashed = [_hashed(name, salt) for name in names]
    return table.with_column(groups=map(hashed.__getitem__, number.tolist())), warning


def hash_names(names: Iterable[str]) -> list[str]:
    """Return the salted hash of each name, as `hash_groups` makes them."""
    salt, _ = _salt()
    return [_hashed(name, salt) for name in names]


def _hashed(group: str, salt: bytes) -> str:
    return hashlib.sha256(salt + group.encode()).hexdigest()[:_HASH_DIGITS] if group else ""


def _salt() -> tuple[bytes, str | None]:
    try:
        path = _state_dir() / "group_salt"
        if not path.exists():
            _create(path)
        salt = path.read_bytes()
    except (OSError, RuntimeError) as fault:  # RuntimeError: no home folder
        reason = str(fault)
    else:
        if len(salt) == _NUM_BYTES:
            return salt, None
        reason = f"{path} does not hold {_NUM_BYTES} bytes"
    return _process_salt(), (
        f"the salt for group names cannot be kept ({reason}):"
        " groups in this run's files cannot be matched with those of other runs;"
        " set MEDVISION_STATE_DIR to a folder that can be written"
    )


def _state_dir() -> Path:
    own, state = os.environ.get("MEDVISION_STATE_DIR"), os.environ.get("XDG_STATE_HOME", "")
    if own:
        return Path(own)
    if Path(state).is_absolute():  # the XDG rules say to ignore a relative one
        return Path(state) / "medvision"
    return Path.home() / ".local/state/medvision"


def _create(path: Path) -> None:
    """Make the salt whole or not at all; of two processes that try, the first one's stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(_NUM_BYTES))
        path.hardlink_to(partial)
    except FileExistsError:
        pass
    finally:
        partial.unlink(missing_ok=True)


@functools.cache
def _process_salt() -> bytes:
    return secrets.token_bytes(_NUM_BYTES)

"""Where the results of an audit go: never into the data, never over somebody else's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medvision.audit.check import Audit
from medvision.files import write_atomically
from medvision.types import MedvisionError


def check_out(out: Path, roots: Sequence[Path]) -> None:
    """Refuse a folder inside the data, or one that holds anything but an earlier audit.

    Raises:
        MedvisionError: If it cannot be used.
    """
    place = out.resolve()
    for root in roots:
        if place.is_relative_to(root.resolve()):
            raise MedvisionError(
                "the results would lie inside the data set",
                where=str(out),
                hint="name a folder outside with --out",
            )
    if not out.exists():
        return
    if not out.is_dir():
        raise MedvisionError("is a file", where=str(out), hint="name a new folder with --out")
    if any(out.iterdir()) and not _is_audit(out):
        raise MedvisionError(
            "exists and is not empty", where=str(out), hint="name a new folder with --out"
        )


def write_audit(audit: Audit, out: Path) -> list[Path]:
    """Write ``audit.json`` and ``audit.html``, in the place of earlier ones.

    Args:
        audit: What was found.
        out: Made where it does not exist.

    Returns:
        The files.

    Raises:
        MedvisionError: If the folder cannot be written.
    """
    from medvision.audit.pictures import neighbour_galleries, odd_galleries, pair_galleries
    from medvision.reports.audit_page import audit_page

    content = audit.to_dict()
    page = audit_page(
        content,
        pairs=pair_galleries(audit),
        odd=odd_galleries(audit),
        neighbours=neighbour_galleries(audit),
    )
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    files = {out / "audit.json": text, out / "audit.html": page}
    try:
        out.mkdir(parents=True, exist_ok=True)
        for path, written in files.items():
            write_atomically(path, written)
    except OSError as error:
        raise MedvisionError(
            f"cannot write the audit: {error.strerror}",
            where=str(out),
            hint="name a folder that you may write to with --out",
            exit_code=3,
        ) from error
    return list(files)


def _is_audit(folder: Path) -> bool:
    try:
        stored = json.loads((folder / "audit.json").read_text())
    except (OSError, ValueError):  # no audit, or no JSON: somebody else's folder
        return False
    return isinstance(stored, dict) and {"near_duplicates", "findings"} <= stored.keys()

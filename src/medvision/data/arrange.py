"""Put the images of an unpacked archive where medvision looks for them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from medvision.types import MedvisionError

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
    from medvision.data.folders import list_images  # imports numpy

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
    return MedvisionError(what, where=str(where), hint=hint, exit_code=3)

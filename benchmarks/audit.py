"""Measure the audit: synthetic faults found, false reports, and growth with the data.

    python benchmarks/audit.py faults [--data ROOT ...] [--images 300] [--copies 50]
    python benchmarks/audit.py scale [--counts 1000 10000 100000] [--size-px 64]

`faults` adds copies of every kind and strength and prints recall and precision of the pairs as
Markdown: among phantoms, look-alikes included, or with --data among the images of real folders,
which are only read. Each round adds at most one copy of each image; there are as many rounds as the
number of copies needs. A copy is found if it shares a group with its source. A reported pair is
right if both belong to one source: of real images, which have near-duplicates of their own, only
pairs with a planted copy are counted, and groups that the untouched folder shows are one source.

`scale` draws phantoms and measures seconds and peak memory of reading the files, of the
search for near-duplicates and of the whole audit, each in a process of its own.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import cv2
import numpy as np
from audit_scale import STEPS, measure, scale
from numpy.typing import NDArray
from synthetic_faults.changes import STRENGTHS, Change, changed_file, encode
from synthetic_faults.draws import CLASSES
from synthetic_faults.generate import plant
from synthetic_faults.plan import Plan

from medvision.data.discovery.folders import list_images
from medvision.data.duplicates.search import RELATIONS, find_near_duplicates
from medvision.data.readers.decode import decode, read_bytes
from medvision.data.validation.properties import ImageProperties, Row, image_properties, row_of

TARGETS = {
    "resized": 0.99,
    "recompressed": 0.99,
    "brightness": 0.99,
    "offset": 0.99,
    "noise": 0.99,
    "blurred": 0.99,
    "cropped": 0.95,
    "mirrored_left_right": 0.95,
    "mirrored_up_down": 0.95,
    **dict.fromkeys(
        (
            "burned_in_text",
            "marker_and_arrow",
            "turned",
            "border_on_one_side",
            "equalised",
            "clahe",
        ),
        0.9,
    ),
    **dict.fromkeys(("gamma", "inverted", "screenshot"), 0.9),
    **dict.fromkeys(("cropped_each_side", "half"), 0.8),
}
CHANGES = [(kind, strength) for kind, strengths in STRENGTHS.items() for strength in strengths]
"""Every kind with each of its strengths; a planted copy is known by its place here."""

PICTURED = 6  # missed pairs of each kind, and false pairs, of each round


@dataclass(frozen=True, kw_only=True)
class Round:
    """Images and copies of some of them, one row per image.

    Attributes:
        files: (N,) path of each image.
        facts: N rows.
        source: (N,) row of the source of a copy, -1 for an image that is not a copy.
        change: (N,) index into ``CHANGES``, -1 for an image that is not a copy.
        family: (N,) equal for images that are true near-duplicates.
        all_pairs: If True, pairs of images that are not copies are counted as well.
    """

    files: list[Path]
    facts: ImageProperties
    source: NDArray[np.int64]
    change: NDArray[np.int64]
    family: NDArray[np.int64]
    all_pairs: bool


@dataclass
class Tally:
    """Copies, reported pairs and pairs that share a group, over all rounds."""

    change: list[int]  # of each copy, index into ``CHANGES``
    found: list[bool]  # shares a group with its source
    alone: list[bool]  # is reported as a pair with it
    false: NDArray[np.int64]  # reported pairs of different sources, by change of either image
    pairs: int = 0
    wrong: int = 0
    grouped: int = 0
    belonging: int = 0
    seconds: float = 0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    faults = verbs.add_parser("faults", help="recall and precision per kind and strength")
    faults.add_argument("--data", type=Path, nargs="+", default=[], help="real folders instead")
    faults.add_argument("--names", default="*", help="of the image files of real folders")
    faults.add_argument("--images", type=int, default=300, help="taken of each set")
    faults.add_argument(
        "--copies", type=int, default=50, help="of each kind, its strengths in turn"
    )
    faults.add_argument("--drawn", nargs="+", choices=CLASSES, default=list(CLASSES))
    faults.add_argument("--seed", type=int, default=0)
    faults.add_argument("--pictures", type=Path, help="save missed and false pairs here")
    growth = verbs.add_parser("scale", help="time and memory, and how they grow")
    growth.add_argument("--counts", type=int, nargs="+", default=[1000, 10_000, 100_000])
    growth.add_argument("--size-px", type=int, default=64)
    growth.add_argument("--folder", type=Path, help="keep the phantoms here, or find them here")
    alone = verbs.add_parser("alone", help="one step of scale in this process")
    alone.add_argument("step", choices=STEPS)
    alone.add_argument("root", type=Path)
    given = parser.parse_args()
    if given.verb == "alone":
        print(json.dumps(measure(given.step, given.root)))
        return
    print(f"`python {' '.join([Path(sys.argv[0]).name, *sys.argv[1:]])}`, {_machine()}\n")
    if given.verb == "scale":
        with tempfile.TemporaryDirectory() as scratch:
            scale(given.folder or Path(scratch), given.counts, given.size_px)
        return
    columns: dict[str, list[str]] = {}
    for each in given.data or given.drawn:
        with tempfile.TemporaryDirectory() as scratch:
            name, note, originals, facts, family = (
                _real(each, given.names, given.images, given.seed)
                if isinstance(each, Path)
                else _drawn(each, Path(scratch) / "drawn", given.images, given.seed)
            )
            tally = Tally([], [], [], np.zeros(len(CHANGES), np.int64))
            is_drawn = not isinstance(each, Path)
            for number, changes in enumerate(_rounds(len(originals), given.copies, given.seed)):
                folder = Path(scratch) / f"round_{number}"
                planted = _planted(
                    originals, facts, family, changes, folder, given.seed, all_pairs=is_drawn
                )
                _count(planted, tally, given.pictures and given.pictures / name / str(number))
            columns[name] = _tell(name, note, tally)
    _tell_all(columns)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{date.today():%d %B %Y}; {cores} cores of {model}"


Originals = tuple[str, str, list[Path], ImageProperties, NDArray[np.int64]]
"""Name of a set, a note on it, its files, their properties and families."""


def _drawn(drawn: str, root: Path, images: int, seed: int) -> Originals:
    alike = images // 10
    plan = Plan(
        drawn=drawn,
        train=images - images // 3,
        test=images // 3,
        size_px=160,
        seed=seed,
        look_alikes=alike,
    )
    highest = max(each[2] for each in plant(root / "data", plan).look_alikes)
    files = _images(root / "data", "*")
    note = f"{len(files)} drawn (PNG, 160 px), {alike} of them look-alikes"
    note += f" (correlation up to {highest:.3f})"
    return f"phantoms: {drawn}", note, files, _read(files), np.arange(len(files))


def _real(root: Path, names: str, images: int, seed: int) -> Originals:
    files = _images(root, names)
    chosen = np.random.default_rng(seed).permutation(len(files))[:images]
    files = [files[row] for row in np.sort(chosen).tolist()]
    facts = _read(files)
    untouched = find_near_duplicates(facts.thumbnail, facts.pixel_hash, contents=facts.content)
    note = f"{len(files)} images with {len(np.unique(untouched.groups))} groups of near-duplicates"
    return root.name, note, files, facts, untouched.groups


def _images(root: Path, names: str) -> list[Path]:
    found = map(Path, list_images(root)[0])
    return [root / name for name in found if "masks" not in name.parts and name.match(names)]


def _rounds(images: int, copies: int, seed: int) -> list[NDArray[np.int64]]:
    """Return the changes of each round, at most one for each image."""
    every = [
        CHANGES.index((kind, strengths[k % len(strengths)]))
        for kind, strengths in STRENGTHS.items()
        for k in range(copies)
    ]
    mixed = np.random.default_rng([seed, 1]).permutation(every)
    return np.array_split(mixed, -(-len(mixed) // images))


def _planted(
    originals: list[Path],
    facts: ImageProperties,
    family: NDArray[np.int64],
    changes: NDArray[np.int64],
    folder: Path,
    seed: int,
    *,
    all_pairs: bool,
) -> Round:
    folder.mkdir()
    sources = np.random.default_rng([seed, *changes]).permutation(len(originals))[: len(changes)]
    files = []
    for number, (row, kind) in enumerate(zip(sources, changes, strict=True)):
        change = Change.draw(*CHANGES[kind], np.random.default_rng([seed, row, kind]))
        data, suffix = changed_file(read_bytes(originals[row]), change)
        files.append(folder / f"{number:05d}{suffix}")
        files[-1].write_bytes(data)
    none = np.full(len(originals), -1)
    return Round(
        files=[*originals, *files],
        facts=ImageProperties.joined([facts, _read(files)]),
        source=np.concatenate([none, sources]),
        change=np.concatenate([none, changes]),
        family=np.concatenate([family, family[sources]]),
        all_pairs=all_pairs,
    )


def _read(files: Sequence[Path]) -> ImageProperties:
    def look(path: Path) -> Row:
        return row_of(image_properties(decode(read_bytes(path), where=str(path))))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return ImageProperties.stack(list(pool.map(look, files)))


def _count(planted: Round, tally: Tally, pictures: Path | None) -> None:
    """Search the images of a round, and add what was found."""
    started_s = time.process_time()
    found_pairs = find_near_duplicates(
        planted.facts.thumbnail, planted.facts.pixel_hash, contents=planted.facts.content
    )
    tally.seconds += time.process_time() - started_s
    pairs = np.stack([found_pairs.first, found_pairs.second])
    counted = (planted.source[pairs] >= 0).any(axis=0) | planted.all_pairs
    wrong = counted & (planted.family[found_pairs.first] != planted.family[found_pairs.second])
    copies = np.flatnonzero(planted.source >= 0)
    sources = planted.source[copies]
    found = found_pairs.groups[copies] == found_pairs.groups[sources]
    reported = set(zip(*pairs.tolist(), strict=True))
    ends = np.sort(np.stack([copies, sources]), axis=0)
    tally.change += planted.change[copies].tolist()
    tally.found += found.tolist()
    tally.alone += [end in reported for end in zip(*ends.tolist(), strict=True)]
    for change in range(len(CHANGES)):
        tally.false[change] += (wrong & (planted.change[pairs] == change).any(axis=0)).sum()
    tally.pairs += int(counted.sum())
    tally.wrong += int(wrong.sum())
    tally.grouped += _pairs_of(found_pairs.groups)
    tally.belonging += _pairs_of(found_pairs.groups, planted.family)
    if pictures is None:
        return
    for kind in STRENGTHS:
        mine = np.array([CHANGES[k][0] == kind for k in planted.change[copies]], bool)
        missed = ends[:, mine & ~found].T.tolist()
        words = [f"{CHANGES[k][1]:g}" for k in planted.change[copies][mine & ~found]]
        _picture(pictures / f"{kind}_missed.png", planted, missed, words)
    words = [
        f"{RELATIONS[found_pairs.relation[k]]} {found_pairs.similarity[k]:.4f}"
        for k in np.flatnonzero(wrong)
    ]
    _picture(pictures / "false.png", planted, pairs[:, wrong].T.tolist(), words)


def _tell(name: str, note: str, tally: Tally) -> list[str]:
    """Print the table of one set; return the recall of each kind, and the precision."""
    change, found, alone = map(np.array, (tally.change, tally.found, tally.alone))
    print(
        f"### {name}\n\n{note}; {len(change)} planted copies; near-duplicates found in"
        f" {tally.seconds:.1f} s of CPU\n"
    )
    print(
        "| kind | planted | found | as a pair | recall | target | of each strength | false pairs |"
    )
    print("|---|---|---|---|---|---|---|---|")
    column = []
    for kind, strengths in STRENGTHS.items():
        numbers = [CHANGES.index((kind, strength)) for strength in strengths]
        mine = np.isin(change, numbers)
        recall, target = found[mine].mean(), TARGETS.get(kind, 0)
        each = ", ".join(
            f"{strength:g}: {found[change == number].sum()}/{(change == number).sum()}"
            for strength, number in zip(strengths, numbers, strict=True)
        )
        aim = f"{target or ''}{' MISSED' if recall < target else ''}"
        print(
            f"| {kind} | {mine.sum()} | {found[mine].sum()} | {alone[mine].sum()} | {recall:.3f}"
            f" | {aim} | {each if len(strengths) > 1 else ''} | {tally.false[numbers].sum()} |"
        )
        column.append(f"{recall:.3f}" + (" *" if recall < target else ""))
    precision = 1 - tally.wrong / max(1, tally.pairs)
    print(
        f"\nReported pairs: {tally.pairs}, {tally.wrong} of them false: precision {precision:.4f}."
        f" Of the {tally.grouped} pairs that share a group {tally.belonging} belong together.\n",
        flush=True,
    )
    return [*column, f"{precision:.4f} ({tally.wrong} of {tally.pairs})"]


def _tell_all(columns: dict[str, list[str]]) -> None:
    """Print the recall of each kind in every set, and the precision."""
    print(f"| kind | target | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 2)}")
    rows = [*((kind, TARGETS.get(kind, "")) for kind in STRENGTHS), ("**precision**", 0.99)]
    for k, (kind, target) in enumerate(rows):
        print(f"| {kind} | {target} | {' | '.join(column[k] for column in columns.values())} |")


def _pairs_of(*labels: NDArray[np.int64]) -> int:
    """Number of pairs with all labels equal."""
    _, sizes = np.unique(np.stack(labels), axis=1, return_counts=True)
    return int((sizes * (sizes - 1) // 2).sum())


def _picture(
    path: Path, planted: Round, pairs: Sequence[Sequence[int]], words: Sequence[str]
) -> None:
    """Save the first pairs side by side, one below the other, with a remark on each."""
    rows = []
    for pair, text in list(zip(pairs, words, strict=True))[:PICTURED]:
        both = [cv2.imread(str(planted.files[k]), cv2.IMREAD_GRAYSCALE) for k in pair]
        row = np.hstack([cv2.resize(each, (192, 192)) for each in both])
        cv2.putText(row, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255)
        rows.append(row)
    if rows:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.vstack(rows), ".png"))


if __name__ == "__main__":
    main()

"""Measure the audit: synthetic faults found, false reports, and growth with the data.

    python benchmarks/audit.py faults [--data ROOT ...] [--copies 50] [--pictures FOLDER]
    python benchmarks/audit.py scale [--counts 1000 10000 100000] [--size-px 64]

`faults` adds copies of every kind and strength and prints recall and precision of the pairs as
Markdown: among phantoms, look-alikes included, or with --data among the images of real folders,
which are only read. A copy is found if it shares a group with its source. A reported pair is
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
from synthetic_faults.plan import Plan, copies_of_each

from medvision.data.discovery.folders import list_images
from medvision.data.duplicates.search import RELATIONS, find_near_duplicates
from medvision.data.readers.decode import decode, read_bytes
from medvision.data.validation.properties import ImageProperties, Row, image_properties, row_of

TARGETS = {
    "resized": 0.99,
    "recompressed": 0.99,
    "brightness": 0.99,
    "offset": 0.99,
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

PICTURED = 6  # missed and false pairs of each kind and strength


@dataclass(frozen=True, kw_only=True)
class Planted:
    """Images including copies, with their known properties, one row per image.

    Attributes:
        name: Content of the images.
        files: (N,) path of each image.
        facts: N rows.
        source: (N,) row of the source of a copy, -1 for an image that is not a copy.
        change: (N,) index into ``CHANGES``, -1 for an image that is not a copy.
        family: (N,) equal for images that are true near-duplicates.
        all_pairs: If True, pairs of images that are not copies are counted as well.
        note: How the set was made.
    """

    name: str
    files: list[Path]
    facts: ImageProperties
    source: NDArray[np.int64]
    change: NDArray[np.int64]
    family: NDArray[np.int64]
    all_pairs: bool
    note: str


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    verbs = parser.add_subparsers(dest="verb", required=True)
    faults = verbs.add_parser("faults", help="recall and precision per kind and strength")
    faults.add_argument("--data", type=Path, nargs="+", default=[], help="real folders instead")
    faults.add_argument("--copies", type=int, default=50, help="of each kind and strength")
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
    with tempfile.TemporaryDirectory() as scratch:
        names = given.data or given.drawn
        sets = (
            _among_real(name, Path(scratch), given.copies, given.seed)
            if isinstance(name, Path)
            else _among_phantoms(name, Path(scratch), given.copies, given.seed)
            for name in names
        )
        for planted in sets:
            _tell(planted, given.pictures)


def _machine() -> str:
    model = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((s.split(":")[1].strip() for s in lines if s.startswith("model name")), model)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{date.today():%d %B %Y}; {cores} cores of {model}"


def _among_phantoms(drawn: str, scratch: Path, copies: int, seed: int) -> Planted:
    across, within = copies // 2, copies - copies // 2
    planned = copies_of_each(across=across, in_train=within // 2, in_test=within - within // 2)
    # ten in eleven images are sources, and one in ten is drawn to resemble another
    train = sum(each.across + each.in_train for each in planned) * 11 // 10
    test = sum(each.in_test for each in planned) * 11 // 10
    alike = (train + test) // 10
    plan = Plan(
        drawn=drawn,
        train=train,
        test=test,
        size_px=160,
        seed=seed,
        look_alikes=alike,
        copies=planned,
    )
    root = scratch / drawn / "data"
    root.parent.mkdir()
    truth = plant(root, plan)
    files = [root / name for name in list_images(root)[0] if "masks" not in name.split("/")]
    row = {path.relative_to(root).as_posix(): k for k, path in enumerate(files)}
    source, change = np.full((2, len(files)), -1)
    family = np.arange(len(files))
    for pair in truth.pairs:
        copy = row[pair.copy]
        source[copy] = family[copy] = row[pair.source]
        change[copy] = CHANGES.index((pair.kind, pair.strength))
    highest = max(each[2] for each in truth.look_alikes)
    return Planted(
        name=f"phantoms: {drawn}",
        files=files,
        facts=_read(files),
        source=source,
        change=change,
        family=family,
        all_pairs=True,
        note=f"{len(files) - len(truth.pairs)} drawn (PNG, 160 px), {alike} of them look-alikes"
        f" (correlation up to {highest:.3f}), and {len(truth.pairs)} copies",
    )


def _among_real(root: Path, scratch: Path, copies: int, seed: int) -> Planted:
    found, _ = list_images(root)
    originals = [root / name for name in found if "masks" not in name.split("/")]
    facts = _read(originals)
    untouched = find_near_duplicates(facts.thumbnail, facts.pixel_hash, contents=facts.content)
    copies = min(copies, len(originals) // len(CHANGES))
    rng = np.random.default_rng(seed)
    sources = rng.permutation(len(originals))[: copies * len(CHANGES)]
    changes = np.repeat(np.arange(len(CHANGES)), copies)
    folder = scratch / root.name
    folder.mkdir()
    files = []
    for number, (row, kind) in enumerate(zip(sources, changes, strict=True)):
        change = Change.draw(*CHANGES[kind], np.random.default_rng([seed, number]))
        data, suffix = changed_file(read_bytes(originals[row]), change)
        files.append(folder / f"{number:05d}{suffix}")
        files[-1].write_bytes(data)
    none = np.full(len(originals), -1)
    both = [*originals, *files]
    return Planted(
        name=root.name,
        files=both,
        facts=_read(both),
        source=np.concatenate([none, sources]),
        change=np.concatenate([none, changes]),
        family=np.concatenate([untouched.groups, untouched.groups[sources]]),
        all_pairs=False,
        note=f"{len(originals)} images with {len(np.unique(untouched.groups))} groups of"
        f" near-duplicates and {len(files)} planted copies",
    )


def _read(files: Sequence[Path]) -> ImageProperties:
    def look(path: Path) -> Row:
        return row_of(image_properties(decode(read_bytes(path), where=str(path))))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return ImageProperties.stack(list(pool.map(look, files)))


def _tell(planted: Planted, pictures: Path | None) -> None:
    """Print the table of one set."""
    started_s = time.perf_counter()
    found_pairs = find_near_duplicates(
        planted.facts.thumbnail, planted.facts.pixel_hash, contents=planted.facts.content
    )
    seconds = time.perf_counter() - started_s
    pairs = np.stack([found_pairs.first, found_pairs.second])
    counted = (planted.source[pairs] >= 0).any(axis=0) | planted.all_pairs
    wrong = counted & (planted.family[found_pairs.first] != planted.family[found_pairs.second])
    copies = np.flatnonzero(planted.source >= 0)
    sources = planted.source[copies]
    found = found_pairs.groups[copies] == found_pairs.groups[sources]
    reported = set(zip(*pairs.tolist(), strict=True))
    ends = np.sort(np.stack([copies, sources]), axis=0)
    alone = np.array([end in reported for end in zip(*ends.tolist(), strict=True)])
    print(f"### {planted.name}\n\n{planted.note}; near-duplicates found in {seconds:.1f} s\n")
    print("| kind | strength | planted | found | recall | target | as a pair | false pairs |")
    print("|---|---|---|---|---|---|---|---|")
    for kind, strengths in STRENGTHS.items():
        several = {"all": strengths} if len(strengths) > 1 else {}
        for name, some in {**{f"{s:g}": (s,) for s in strengths}, **several}.items():
            numbers = [CHANGES.index((kind, strength)) for strength in some]
            mine = np.isin(planted.change[copies], numbers)
            false = wrong & np.isin(planted.change[pairs], numbers).any(axis=0)
            print(
                f"| {kind} | {name} | {mine.sum()} | {found[mine].sum()} | {found[mine].mean():.3f}"
                f" | {_aim(kind, found[mine])} | {alone[mine].sum()} | {false.sum()} |"
            )
            if pictures is not None and name != "all":
                stem = pictures / f"{planted.name.replace(': ', '_')}_{kind}_{name}"
                missed = ends[:, mine & ~found].T.tolist()
                _picture(stem, "missed", planted, missed, ["missed"] * len(missed))
                words = [
                    f"{RELATIONS[found_pairs.relation[k]]} {found_pairs.similarity[k]:.4f}"
                    for k in np.flatnonzero(false)
                ]
                _picture(stem, "false", planted, pairs[:, false].T.tolist(), words)
    groups, families = _pairs_of(found_pairs.groups), _pairs_of(found_pairs.groups, planted.family)
    total = int(counted.sum())
    print(
        f"\nReported pairs: {total}, {wrong.sum()} of them false: precision"
        f" {1 - wrong.sum() / max(1, total):.4f}. Of the {groups} pairs that share a group"
        f" {families} belong together: {families / max(1, groups):.4f}; the largest group holds"
        f" {np.bincount(found_pairs.groups).max()}.\n",
        flush=True,
    )


def _aim(kind: str, found: NDArray[np.bool_]) -> str:
    target = TARGETS.get(kind)
    if target is None:
        return ""
    return f"{target:g}" if found.mean() >= target else f"{target:g} MISSED"


def _pairs_of(*labels: NDArray[np.int64]) -> int:
    """Number of pairs with all labels equal."""
    _, sizes = np.unique(np.stack(labels), axis=1, return_counts=True)
    return int((sizes * (sizes - 1) // 2).sum())


def _picture(
    stem: Path,
    what: str,
    planted: Planted,
    pairs: Sequence[Sequence[int]],
    words: Sequence[str],
) -> None:
    """Save the first pairs side by side, one below the other, with a remark on each."""
    rows = []
    for pair, text in list(zip(pairs, words, strict=True))[:PICTURED]:
        both = [cv2.imread(str(planted.files[k]), cv2.IMREAD_GRAYSCALE) for k in pair]
        row = np.hstack([cv2.resize(each, (192, 192)) for each in both])
        cv2.putText(row, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.45, 255)
        rows.append(row)
    if rows:
        stem.parent.mkdir(parents=True, exist_ok=True)
        path = stem.with_name(f"{stem.name}_{what}.png")
        path.write_bytes(encode(np.vstack(rows), ".png"))


if __name__ == "__main__":
    main()

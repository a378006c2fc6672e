"""Groups (patients, videos) divided between splits, and file names that resemble group ids."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from medvision.audit.dataset import AuditedSet, ListedSet
from medvision.audit.finding import CROSSINGS, Finding, findings_of, some_of
from medvision.console import counted
from medvision.data.discovery.index import DICOM_HEADERS
from medvision.data.splits.sequences import is_in_sequences, neighbour_share
from medvision.types import STAGES


def group_findings(data: ListedSet) -> list[Finding]:
    """Report groups with images in more than one split.

    Images without a group or a split are ignored. Group names may be patient names, so groups are
    only counted; the finding lists files, those of test first.
    """
    splits = data.splits
    names = data.samples.groups
    known = np.flatnonzero(~names.equal("") & np.isin(splits, STAGES))
    if not len(known):
        return []
    groups = names.select(known).numbered()[1]
    inside = np.zeros((groups.max() + 1, len(STAGES)), bool)
    for column, stage in enumerate(STAGES):
        inside[groups[splits[known] == stage], column] = True
    torn = inside.sum(axis=1) > 1
    concerned = {stage: known[torn[groups] & (splits[known] == stage)] for stage in ("test", "val")}
    images = [
        f"{len(rows)} of {int((splits == stage).sum())} {stage} images"
        for stage, rows in concerned.items()
        if len(rows)
    ]
    rows = np.concatenate(list(concerned.values()))
    advice = (
        "data.protocol=grouped draws a split that keeps groups together"
        if data.has_classes
        else "fix the given split, or remove it: a drawn split keeps groups together"
    )
    text = (
        f"{some_of(int(torn.sum()), len(torn), 'groups (patients, videos)')} in more than one"
        f" split, with {' and '.join(images)}"
    )
    advice = f"scores on them are too high; {advice}"
    kind = "groups_across_splits"
    if data.compares_two:
        return findings_of(
            data.names(concerned["test"]),
            kind=kind,
            severity="warning",
            text=f"{some_of(int(torn.sum()), len(torn), 'groups (patients, videos)')} in both sets"
            f" by their names, with {len(concerned['test'])} images of {data.set_name(1)}",
            advice="numbers may restart in every set: check if these are the same patients",
        )
    return findings_of(data.names(rows), kind=kind, severity="leak", text=text, advice=advice)


def ungrouped_findings(data: AuditedSet) -> list[Finding]:
    """Report images without a group among grouped ones, unless a note of the reading does."""
    alone = np.flatnonzero(data.samples.groups.equal(""))
    if len(alone) == len(data) or {"data.group_pattern", DICOM_HEADERS} & {*data.grouping}:
        return []
    names = data.samples.groups.numbered()[0]
    where = f" in {' and '.join(data.grouping)}" if data.grouping else ""
    return findings_of(
        data.names(alone),
        kind="images_without_group",
        severity="warning",
        text=f"{some_of(len(alone), len(data), 'images', 'have')} no group (patient, video){where};"
        f" the others are in {counted(len([*filter(None, names)]), 'group')}",
        advice="each counts as a group of its own and may share a patient with images of another"
        " split: fill in the group",
    )


def group_numbers(data: ListedSet) -> dict[str, int] | None:
    """Entry ``groups`` of audit.json: numbers only, None if no image has a group."""
    known = np.flatnonzero(~data.samples.groups.equal(""))
    if not len(known):
        return None
    groups, splits = data.samples.groups.select(known).numbered()[1], data.splits[known]
    inside = [np.unique(groups[splits == stage]) for stage in STAGES]
    crossing = {
        f"{of}_images_in_{into}": int(np.isin(groups[splits == of], groups[splits == into]).sum())
        for of, into in CROSSINGS
    }
    return {
        "groups": len(np.unique(groups)),
        "images": len(known),
        "groups_across_splits": int((np.bincount(np.concatenate(inside), minlength=1) > 1).sum()),
        **crossing,
    }


WORDS = (
    *("patient", "person", "subject", "participant", "donor", "pat", "subj", "sub", "pt"),
    *("case", "study", "exam", "video", "vid", "sequence", "seq", "clip", "scan", "slide"),
    *("volume", "vol", "series"),
)
"""Numbered entities, the widest first: a patient may have several studies, a study several
series."""

MIN_SHARE = 0.2
"""Smallest share of the images whose names must match a pattern."""

_MIN_GROUPS = 8  # for a pattern without a word
_MAX_LARGEST = 0.25  # share of the files in the largest group, for a pattern without a word
_MIN_REPEATED = 0.3  # share of the files with a repeated number, for a pattern without a word
_MIN_REPEATED_INSIDE = 0.1  # the same within a class, where numbering does not restart
_LETTERED = re.compile(r"(.*\d)[_-]?([A-Za-z])")
_MAX_LETTERS = 6  # different last letters
_SEPARATORS = re.compile(r"[_\-. ()/]+")
_DATE = re.compile(r"(?:19|20)\d\d(?:[01]\d(?:[0-3]\d)?)?")
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0[1-9]|1[0-2])", r"(?:0[1-9]|[12]\d|3[01])"
_MIN_DATES = 0.95  # share of the numbers of this form that are dates
_NOBODY = frozenset({"batch", "col", "epoch", "fold", "page", "patch", "row", "tile"})


def keys_of(pattern: str, paths: Sequence[str]) -> list[str]:
    """Return the text that a pattern's group captures in each path, empty without a match.

    Same rule as ``data.group_pattern``.
    """
    search = re.compile(pattern).search
    return [(match.group(1) or "") if (match := search(path)) else "" for path in paths]


def word_patterns(paths: Sequence[str]) -> list[str]:
    """Return patterns of numbered words shared by several files, the widest word first.

    Args:
        paths: Relative paths with forward slashes.
    """
    one_of = "|".join(WORDS)
    find = re.compile(rf"(?<![A-Za-z])({one_of})([_\- ]?)\d+(?![A-Za-z\d])", re.IGNORECASE).finditer
    spellings = Counter((m.group(1), m.group(2)) for path in paths for m in find(path))
    patterns = []
    for (word, gap), count in spellings.most_common():
        pattern = rf"({word}{gap}\d+)"
        if count >= MIN_SHARE * len(paths) and _shared(paths, pattern):
            patterns.append((WORDS.index(word.lower()), pattern))
    return [pattern for _, pattern in sorted(patterns, key=lambda found: found[0])]


def prefix_patterns(paths: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return patterns of numbered name prefixes shared by many files.

    Args:
        paths: As for `word_patterns`.
        classes: Class of each path; files of other classes do not support a pattern.
    """
    # A name repeated in several folders, such as image(1), counts once: numbering restarts there.
    tails = {_tail(path, name): name for path, name in zip(paths, classes, strict=True)}
    families: defaultdict[tuple[str, ...], list[tuple[list[str], str]]] = defaultdict(list)
    for tail, name in tails.items():
        fields, gaps = _SEPARATORS.split(tail), _SEPARATORS.findall(tail)
        families[(*map(_kind, fields), *gaps)].append((fields, name))
    patterns = []
    for shape, members in families.items():
        if len(members) >= MIN_SHARE * len(paths):
            cuts = [fields for fields, _ in members]
            depth = _depth(cuts, [name for _, name in members])
            if depth:
                patterns.append(_pattern(cuts, list(shape[len(cuts[0]) :]), depth))
    return patterns


def letter_patterns(paths: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the pattern of numbers that several files share but for a last letter.

    ``Image_01L`` and ``Image_01R`` may be two eyes of one person, ``pat12a`` and ``pat12b`` two
    visits.

    Args:
        paths: As for `word_patterns`.
        classes: Class of each path; numbers must be shared within a class, where numbering does
            not restart.
    """
    matches = [_LETTERED.fullmatch(PurePosixPath(path).stem) for path in paths]
    found = [(m.group(1), m.group(2), c) for m, c in zip(matches, classes, strict=True) if m]
    letters = sorted({letter for _, letter, _ in found})
    sizes = np.array(list(Counter((number, c) for number, _, c in set(found)).values()))
    repeated = int(sizes[sizes > 1].sum())
    enough = len(found) >= MIN_SHARE * len(paths) and len(sizes) > 1
    if not enough or len(letters) > _MAX_LETTERS or repeated < _MIN_REPEATED * len(found):
        return []
    return [rf"(?:^|/)([^/]*\d)[_-]?[{''.join(letters)}]\."]


def _shared(paths: Sequence[str], pattern: str) -> bool:
    """Return True if several names share a number, and numbers differ between names."""
    found = zip(keys_of(pattern, paths), paths, strict=True)
    names = {(key, _name(path, key)) for key, path in found if key}
    sizes = np.array(list(Counter(key for key, _ in names).values()))
    repeated = int(sizes[sizes > 1].sum())
    return len(sizes) > 1 and repeated >= _MIN_REPEATED_INSIDE * sizes.sum()


def _name(path: str, key: str) -> str:
    """Return the file name if it contains the number, so `image(1)` in two folders is one name."""
    stem = PurePosixPath(path).stem
    return stem if key in stem else path


def _tail(path: str, name: str) -> str:
    """Return the path below the class or image folder, without the extension.

    Folders whose name is repeated in the file name are omitted.
    """
    parts = PurePosixPath(path).with_suffix("").parts
    folders = [part.lower() for part in parts[:-1]]
    for folder in (name.lower(), "images"):
        if folder in folders:
            parts = parts[folders.index(folder) + 1 :]
            break
    folders = [part for part in parts[:-1] if not parts[-1].startswith(part)]
    return "/".join([*folders, parts[-1]]).rstrip("_-. ()")


def _kind(field: str) -> str:
    if field.isdigit():
        return "9"
    return "a" if field.isalpha() or not field else "m"


def _depth(fields: list[list[str]], classes: Sequence[str]) -> int:
    """Return the number of fields that form a patient's id, 0 for none."""
    best = 0
    for depth in range(1, len(fields[0])):
        if not any(map(str.isdigit, fields[0][depth - 1])) or _no_id(fields, depth):
            continue
        keys = ["\0".join(row[:depth]) for row in fields]
        if not _looks_like_groups(keys, classes):
            continue
        parents: defaultdict[str, set[str]] = defaultdict(set)
        for row in fields:
            parents[row[depth - 1]].add("\0".join(row[: depth - 1]))
        # A number that restarts below each parent counts its scans, not further patients.
        exclusive = sum(len(above) == 1 for above in parents.values()) >= 0.9 * len(parents)
        if not best or exclusive:
            best = depth
    return best


def _no_id(fields: list[list[str]], depth: int) -> bool:
    """Return True if the field completes a date, or its word excludes a patient id."""
    if any(part.rstrip("0123456789").lower() in _NOBODY for part in fields[0][:depth]):
        return True
    starts = range(max(0, depth - 3), depth)
    return any(all(_DATE.fullmatch("".join(row[k:depth])) for row in fields) for k in starts)


def _looks_like_groups(keys: Sequence[str], classes: Sequence[str]) -> bool:
    sizes = Counter(keys)
    in_class = Counter(zip(keys, classes, strict=True))
    per_class = Counter(name for _, name in in_class)
    repeated, inside = (
        sum(count for count in counts.values() if count > 1) for counts in (sizes, in_class)
    )
    return (
        len(sizes) >= _MIN_GROUPS
        and max(sizes.values()) <= _MAX_LARGEST * len(keys)
        and repeated >= _MIN_REPEATED * len(keys)
        and inside >= _MIN_REPEATED_INSIDE * len(keys)
        and max(per_class.values()) > 1  # else the number denotes the class
    )


def _pattern(fields: list[list[str]], gaps: list[str], depth: int) -> str:
    parts = [_field_pattern({row[k] for row in fields}) for k in range(depth)]
    inside = "".join(
        part + _escaped(gap) for part, gap in zip(parts, [*gaps[: depth - 1], ""], strict=True)
    )
    return rf"(?:^|/)({inside}){_escaped(gaps[depth - 1])}"


def _field_pattern(values: set[str]) -> str:
    if len(values) == 1:
        return _escaped(next(iter(values)))
    if all(value.isdigit() for value in values):
        return r"\d+"
    words = {match.group(1) for v in values if (match := re.fullmatch(r"([A-Za-z]+)\d+", v))}
    if len(words) == 1 and all(re.fullmatch(r"[A-Za-z]+\d+", value) for value in values):
        return rf"{words.pop()}\d+"
    return r"[^/_\-. ()]+"


def _escaped(text: str) -> str:
    """Return the text as a pattern, with minimal escaping."""
    return re.sub(r"([.()\[\]+*?^$|{}\\])", r"\\\1", text)


_MAX_HINTS = 2


def name_hint_findings(data: ListedSet) -> list[Finding]:
    """Report numbers shared by several file names that may identify patients or videos.

    Only images without a group are considered. Each hint proposes a ``data.group_pattern``; it is
    never a leak, because numbering may restart in every class, split or data set.
    """
    alone = np.flatnonzero(data.samples.groups.equal(""))
    if len(alone) < max(2, MIN_SHARE * len(data)):
        return []
    paths = list(data.samples.paths.select(alone))
    classes = list(data.samples.targets.select(alone)) if data.has_classes else [""] * len(alone)
    findings: list[Finding] = []
    covered = np.zeros(len(alone), bool)
    patterns = [
        *word_patterns(paths),
        *letter_patterns(paths, classes),
        *prefix_patterns(paths, classes),
    ]
    for pattern in patterns:
        keys = np.array(keys_of(pattern, paths), np.str_)
        fresh = (keys != "") & ~covered
        if fresh.sum() >= MIN_SHARE * len(alone) and len(findings) < _MAX_HINTS:
            findings.append(_hint(data, alone, pattern, keys, paths))
            covered |= keys != ""
    return findings


def date_findings(data: ListedSet) -> list[Finding]:
    """Ask about dates that several file names share, such as 2019-03-14 or 20190314.

    A date alone identifies no patient, so it is never used as a hint to one.
    """
    alone = np.flatnonzero(data.samples.groups.equal(""))
    paths = list(data.samples.paths.select(alone))
    for gap in ("", "-", "_", r"\."):
        pattern = rf"(?<!\d)({_YEAR}{gap}{_MONTH}{gap}{_DAY})(?!\d)"
        keys = np.array(keys_of(pattern, paths), np.str_)
        like = keys_of(rf"(?<!\d)(\d{{4}}{gap}\d\d{gap}\d\d)(?!\d)", paths)
        days, counts = np.unique(keys[keys != ""], return_counts=True)
        repeated = int(counts[counts > 1].sum())
        found, numbers = int(counts.sum()), sum(map(bool, like))
        if len(days) > 1 and found >= MIN_SHARE * len(data) and repeated >= _MIN_REPEATED * found:
            if found < _MIN_DATES * numbers:  # numbers, of which some look like dates
                continue
            return [
                Finding(
                    kind="dates_in_names",
                    severity="note",
                    text=f"the file names contain dates: '{pattern}' makes {len(days)} groups of"
                    f" {found} of the {len(data)} images",
                    count=found,
                    files=tuple(data.names(alone[_repeated(keys)])),
                    advice="a date identifies no patient: if the images of one day are of one"
                    f" examination, set data.group_pattern='{pattern}'",
                )
            ]
    return []


def _hint(
    data: ListedSet,
    alone: NDArray[np.intp],
    pattern: str,
    keys: NDArray[np.str_],
    paths: Sequence[str],
) -> Finding:
    splits = data.splits[alone]
    links, rows = _links(keys, splits)
    narrower = _with_next_word(pattern, keys, paths)
    aside = ""
    if narrower is not None:
        fewer, fewer_rows = _links(narrower[1], splits)
        if len(fewer_rows) < len(rows) / 2:
            wide = pattern
            pattern, keys = narrower
            aside = (
                f"; the number alone, '{wide}', would link {links or 'no test image to train'},"
                " so numbering seems to restart for each kind"
            )
            links, rows = fewer, fewer_rows
    matched = np.flatnonzero(keys != "")
    groups = len(np.unique(keys[matched]))
    text = (
        f"the file names may identify patients or videos: '{pattern}' makes {groups} groups of"
        f" {len(matched)} of the {len(data)} images"
    )
    if (splits != "").any():
        text += f"; if so, it links {links}" if links else ", none of them in two splits"
    files = tuple(data.names(alone[rows if len(rows) else _repeated(keys)]))
    return Finding(
        kind="unused_ids_in_names",
        severity="warning",
        text=text + aside,
        count=len(files),
        files=files,
        advice="check the source of the files, because numbers may restart in every class or split;"
        f" if they identify patients, set data.group_pattern='{pattern}', so that drawn splits keep"
        " each patient together",
    )


def _links(keys: NDArray[np.str_], splits: NDArray[np.str_]) -> tuple[str, NDArray[np.intp]]:
    """Describe groups of test and val that are also in train; return their images, test first."""
    trained = np.unique(keys[(splits == "train") & (keys != "")])
    parts, rows = [], []
    for split in ("test", "val"):
        held = np.flatnonzero((splits == split) & (keys != ""))
        torn = held[np.isin(keys[held], trained)]
        if len(torn):
            parts.append(
                f"{len(np.unique(keys[torn]))} of the {len(np.unique(keys[held]))} groups of"
                f" {split} ({len(torn)} of {int((splits == split).sum())} images) to train"
            )
            rows.append(torn)
    return " and ".join(parts), np.concatenate(rows) if rows else np.zeros(0, np.intp)


def _with_next_word(
    pattern: str, keys: NDArray[np.str_], paths: Sequence[str]
) -> tuple[str, NDArray[np.str_]] | None:
    """Return the pattern extended by the word that follows it, if nearly all names have one.

    ``person1_virus_6`` and ``person1_bacteria_1`` may be two persons.
    """
    if not pattern.endswith(r"\d+)"):
        return None
    wider = pattern[:-1] + r"_[A-Za-z]+)"
    found = np.array(keys_of(wider, paths), np.str_)
    if (found != "").sum() < 0.9 * (keys != "").sum():
        return None
    words = np.unique([key.rsplit("_", 1)[1] for key in found[found != ""]])
    return (wider, found) if 2 <= len(words) <= 10 else None


def _repeated(keys: NDArray[np.str_]) -> NDArray[np.intp]:
    """Return the rows of keys shared by several images, the most frequent key first."""
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    sizes = np.where(keys != "", counts[which], 0)
    rows = np.flatnonzero(sizes > 1)
    return rows[np.lexsort((rows, which[rows], -sizes[rows]))]


def sequence_findings(data: AuditedSet) -> list[Finding]:
    """Report that neighbours in the list of files show neighbouring pictures, as frames of a video.

    See `neighbour_share`.
    """
    properties = data.properties
    found = neighbour_share(properties.thumbnail, properties.pixel_hash, list(data.samples.paths))
    if found is None or not is_in_sequences(*found):
        return []
    share, chance = found
    known = not data.samples.groups.equal("").all()
    return [
        Finding(
            kind="sequences",
            severity="note" if known else "warning",
            text="the most similar image is the one before or after it in the list for"
            f" {100 * share:.0f} % of the images, by chance for {100 * chance:.1f} %: they may be"
            " frames of videos or slices of series",
            count=round(share * len(data)),
            advice=""
            if known
            else "a random split would put neighbouring frames into train and test: name the videos"
            " or series with data.group_pattern or in the column group of splits.csv, or find them"
            " from the pictures with data.group_by=sequence",
        )
    ]

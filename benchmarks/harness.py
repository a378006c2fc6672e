"""Shared parts of the benchmarks: environments of peers, taking turns, tables, and RESULTS.md.

Ratios are formed within a round, in which every candidate has its turn, and the median of them is
shown: what slows the whole machine for a while then slows both sides of a ratio.
"""

import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "RESULTS.md"
PEERS = HERE / ".peers"

Results = dict[str, dict[str, list[float]]]

_SHOWN = ("torch", "pytorch-lightning", "timm", "torchvision", "monai")


def peer_python(name: str, *requirements: str) -> Path:
    """The Python of an environment that holds a peer, made the first time.

    Args:
        name: Of its folder under ``benchmarks/.peers``.
        *requirements: What pip installs there.
    """
    folder = PEERS / name
    python, done = folder / "bin/python", folder / ".installed"
    if done.is_file() and done.read_text() == "\n".join(requirements):
        return python
    print(f"making the environment of {name}: {' '.join(requirements)}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    beside = Path(sys.executable).with_name("uv")
    uv = str(beside) if beside.is_file() else shutil.which("uv")
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    install = pip if uv is None else [uv, "pip", "install", "--quiet", "--python", str(python)]
    subprocess.run([*install, *requirements], check=True)
    done.write_text("\n".join(requirements))
    return python


def run_json(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Run a program to its end and return the last line of its output, which is JSON.

    Raises:
        SystemExit: If it fails; its output is shown.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, cwd=cwd, env={**os.environ, **(env or {})}, capture_output=True, text=True
    )
    if done.returncode != 0:
        tail = "\n".join([*done.stdout.splitlines()[-5:], *done.stderr.splitlines()[-15:]])
        raise SystemExit(f"error: {' '.join(words)} ended with {done.returncode}\n{tail}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def take_turns(
    candidates: Mapping[str, Callable[[], Mapping[str, float]]], *, runs: int
) -> Results:
    """Measure A B C A B C ..., and return the figures of each candidate in order."""
    found: Results = {name: {} for name in candidates}
    for turn in range(runs):
        for name, measure in candidates.items():
            figures = measure()
            for figure, value in figures.items():
                found[name].setdefault(figure, []).append(float(value))
            shown = ", ".join(f"{figure} {value:.4g}" for figure, value in figures.items())
            print(f"  {turn + 1}/{runs} {name}: {shown}", flush=True)
    return found


def ratios(
    results: Results, name: str, *, base: str, figure: str, better: str = "higher"
) -> list[float]:
    """Ratio of a candidate's figure to another's, in each round."""
    pairs = zip(results[name][figure], results[base][figure], strict=True)
    return [own / other if better == "higher" else other / own for own, other in pairs]


def median_table(
    results: Results, *, base: str | Sequence[str], figures: Sequence[str], better: str = "higher"
) -> list[str]:
    """Markdown: for each candidate median (lowest-highest) of each figure and times the bases.

    Args:
        results: As `take_turns` gave them.
        base: Candidates to compare with: the ratio by which they are better, median of the rounds.
        figures: Columns.
        better: ``higher`` for rates, ``lower`` for times and memory.
    """
    bases = [base] if isinstance(base, str) else list(base)
    heads = [f"{figure} | " + " | ".join(f"x {name}" for name in bases) for figure in figures]
    lines = ["| | " + " | ".join(heads) + " |"]
    lines.append("|" + "---|" * (1 + len(figures) * (1 + len(bases))))
    for name, found in results.items():
        cells = []
        for figure in figures:
            values = found.get(figure, [])
            cells.append(spread(values) if values else "")
            for other in bases:
                known = values and figure in results[other]
                of = {"base": other, "figure": figure, "better": better}
                cells.append(
                    f"{statistics.median(ratios(results, name, **of)):.2f}" if known else ""
                )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def spread(values: Sequence[float]) -> str:
    """Median (lowest-highest), three digits each."""
    middle = _digits(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({_digits(min(values))}-{_digits(max(values))})"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def append_results(title: str, lines: Iterable[str], *, command: str) -> None:
    """Add a section to RESULTS.md: what was run, on which machine, with which versions, when."""
    section = [
        "",
        f"## {title}",
        "",
        f"{datetime.datetime.now(tz=datetime.UTC).date():%-d %B %Y}; {machine()}; {versions()}.",
        "",
        f"`{command}`",
        "",
        *lines,
    ]
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write("\n".join(section) + "\n")
    print(f"added to {RESULTS.relative_to(ROOT)}: {title}")


def machine() -> str:
    """Cores, processor, what it multiplies bfloat16 with, memory."""
    words = _cpu_words()
    name = words.get("model name", platform.processor() or platform.machine())
    flags = words.get("flags", "").split()
    known = {"amx_bf16": "AMX-BF16", "avx512_bf16": "AVX512-BF16", "avx512f": "AVX-512"}
    unit = next((shown for flag, shown in known.items() if flag in flags), "no bfloat16")
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} core{'' if cores == 1 else 's'} of an {name} ({unit}), {memory_gb:.0f} GB"


def versions() -> str:
    """Versions of what is compared, in medvision's environment."""
    found = [f"Python {platform.python_version()}"]
    for name in _SHOWN:
        try:
            found.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:  # an extra that is not installed
            continue
    return ", ".join(found)


def command_line() -> str:
    """Command line of the user, without the folder of the environment."""
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT) if script.is_relative_to(ROOT) else script.name
    words = [w for w in sys.argv[1:] if w != "--append"]
    named = [f"{Path(w).name.upper()}" if Path(w).is_absolute() else w for w in words]
    return " ".join(["python", str(shown), *named])


def _cpu_words() -> dict[str, str]:
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return {}
    lines = [line.partition(":") for line in path.read_text().splitlines()]
    return {key.strip(): value.strip() for key, _, value in lines if key.strip()}

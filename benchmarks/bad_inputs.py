"""The catalogue of broken and of unusual but valid folders, read by medvision and by its peers.

`python benchmarks/bad_inputs.py` makes the folders of tests/run/test_bad_folders.py that images and
masks alone can show (tables of samples are medvision's own), and lets each be read for an epoch as
in peers/bad_inputs.py. It prints a Markdown table of what the user sees, and counts.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent / "tests"
sys.path[:0] = [str(TESTS / "run"), str(TESTS / "support")]

from test_bad_folders import NUM_IMAGES, SMALL, SOUND, SPOILT, Folder  # noqa: E402

from faults import attempt  # noqa: E402
from medvision.run import main as train  # noqa: E402

PEERS = ("smp", "monai", "template")
FEW = ("experiment=polyp_unet", "trainer.max_epochs=1", "model.base_channels=2")
LONGEST = 80


def folders(base: Path) -> dict[str, Path]:
    """Create every folder, by its name in the catalogue."""
    made = {}
    cases = {name: spoil for name, (spoil, _) in SPOILT.items() if not name.startswith("csv")}
    for number, (name, spoil) in enumerate((cases | SOUND).items()):
        folder = Folder(base / f"{number:02d}" / "set")
        spoil(folder)
        made[name] = folder.root
    return made


def ours(root: Path) -> str:
    """Output that a user of medvision sees."""
    work = root.parent / "work"
    work.mkdir()

    def program() -> int:
        os.environ["MEDVISION_CACHE_DIR"] = str(work / "cache")
        os.environ["MEDVISION_STATE_DIR"] = str(work / "state")
        return train([*SMALL, *FEW, f"data.root={root}"])

    ended = attempt(program, work, work)
    if ended.code:
        return _one_line([line.replace(str(root), "ROOT") for line in ended.errors], ended.code)
    notes = [line for line in ended.out.splitlines() if line.startswith("note: ")]
    about = [n for n in notes if re.search(r"EXIF orientation|masks are empty|SKIPPED", n)]
    return f"says: {_short(about[0][6:])}" if about else "reads it"


def _one_line(errors: list[str], code: int) -> str:
    if code == 2 and len(errors) == 1:
        return f"one line: {_short(errors[0][7:])}"
    return f"code {code}, {len(errors)} lines"


def theirs(found: dict[str, object]) -> str:
    """Output that a user of a peer sees."""
    said, code = str(found["said"]).strip(), found["code"]
    if code is None:
        return "blocks"
    if code == 0:
        count, wrong = map(int, re.findall(r"read (\d+) wrong (\d+)$", said)[0])
        left = f" {count} of {NUM_IMAGES}" if count != NUM_IMAGES else ""
        pairs = f", {wrong} with the mask of another image" if wrong else ""
        return f"reads{left or ' it'}{pairs}, says nothing"
    if int(code) < 0:
        return f"killed by signal {-int(code)}"
    lines = said.splitlines()
    where = "names the file" if re.search(r"c(\\n|\n)?03", said) else "names no file"
    raised = [m[1] for line in lines if (m := re.match(r"([\w.]*(?:[Ee]rror|Exception))\b", line))]
    return f"traceback of {len(lines)} lines, {where}: {raised[-1]}"


def _short(text: str) -> str:
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def kind(words: str) -> str:
    """The first words of a cell, for counting."""
    if words.startswith("traceback"):
        return (
            "a traceback that names the file"
            if "names the file" in words
            else ("a traceback that names no file")
        )
    if words.startswith("reads"):
        return "read, nothing said"
    return words.split(":")[0]


def main() -> None:
    """Read all of them, and print."""
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        made = folders(base)
        train([*SMALL, *FEW, "data.num_images=24", f"run_dir={base / 'imported'}"])
        os.environ.pop("MEDVISION_RUN_DIR", None)
        table = {name: [ours(root)] for name, root in made.items()}
        for peer in PEERS:
            out = base / f"{peer}.json"
            command = [sys.executable, str(HERE / "peers" / "bad_inputs.py"), peer, str(out)]
            subprocess.run([*command, *map(str, made.values())], check=True, capture_output=True)
            found = json.loads(out.read_text())
            for name, root in made.items():
                table[name].append(theirs(found[str(root)]))
    for title, cases in (("spoilt", SPOILT), ("odd but sound", SOUND)):
        print(f"\n| {title} | medvision | {' | '.join(PEERS)} |\n|---|---|{'---|' * len(PEERS)}")
        rows = {name: cells for name, cells in table.items() if name in cases}
        for name, cells in rows.items():
            print(f"| {name} | {' | '.join(cells)} |")
        print()
        for number, who in enumerate(("medvision", *PEERS)):
            counts = Counter(kind(cells[number]) for cells in rows.values())
            print(f"{who}: {', '.join(f'{n} {words}' for words, n in counts.most_common())}")


if __name__ == "__main__":
    main()

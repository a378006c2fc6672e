"""The commands on the pages of the documentation.

Blocks of a page marked ``bash`` and ``python`` run one after the other in an empty folder. A block
that cannot run here has ``<!-- not run: REASON -->`` on the line before. A block with a title is
written to the file of that name.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
TITLE = re.compile(r'\w+ title="([\w./-]+)"')
NOT_RUN = re.compile(r"<!-- not run: (.+) -->")


@dataclass(frozen=True)
class Block:
    """Block of code on a page; ``reason`` says why it is not run."""

    language: str
    text: str
    reason: str | None


def blocks(text: str) -> list[Block]:
    """Find the fenced blocks of a page."""
    found: list[Block] = []
    lines = iter(text.splitlines())
    before = ""
    for line in lines:
        if line.startswith("```"):
            inside = []
            for code in lines:
                if code.startswith("```"):
                    break
                inside.append(code)
            marked = NOT_RUN.fullmatch(before)
            reason = marked[1] if marked else None
            found.append(Block(line.removeprefix("```").strip(), "\n".join(inside), reason))
        before = line
    return found


PAGES = {
    path.relative_to(DOCS).as_posix(): blocks(path.read_text(encoding="utf-8"))
    for path in sorted(DOCS.rglob("*.md"))
}


def runnable(page: str) -> list[Block]:
    """Blocks of a page that are run."""
    return [
        block
        for block in PAGES[page]
        if (block.language in ("bash", "python") or TITLE.fullmatch(block.language))
        and block.reason is None
    ]


def test_a_page_is_in_the_navigation_and_the_other_way_round() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    named = set(re.findall(r"[\w/]+\.md", text[text.index("\nnav:") :]))
    hooks = (DOCS / "hooks.py").read_text(encoding="utf-8")
    generated = set(re.findall(r'^        "([\w/]+\.md)": ', hooks, re.MULTILINE))
    assert named == set(PAGES) | generated


def test_every_command_is_run_or_says_why_not() -> None:
    """Commands outside of blocks marked ``bash`` would be shown but never run."""
    unmarked = [
        (page, block.text)
        for page, found in PAGES.items()
        for block in found
        if block.language not in ("bash", "python")
        and re.search(r"^\s*(\$ )?(medvision|make|pip|torchrun) ", block.text, re.MULTILINE)
        and not page.startswith(("reference", "reliability", "security", "architecture"))
    ]
    assert unmarked == []


def test_blocks_are_found_with_their_reasons() -> None:
    text = "a\n```bash\nx\ny\n```\n<!-- not run: no TPU -->\n```bash\nz\n```\n```yaml\nk: 1\n```\n"
    assert blocks(text) == [
        Block("bash", "x\ny", None),
        Block("bash", "z", "no TPU"),
        Block("yaml", "k: 1", None),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if runnable(page)])
def test_the_commands_of_a_page_work(page: str, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    environment: Mapping[str, str] = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MEDVISION_STATE_DIR": str(tmp_path / "state"),
        "MEDVISION_CACHE_DIR": str(tmp_path / "cache"),
    }
    for block in runnable(page):
        if title := TITLE.fullmatch(block.language):
            file = work / title[1]
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{block.text}\n", encoding="utf-8")
            continue
        start = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [
            sys.executable, "-W", "ignore", "-c",
        ]  # fmt: skip
        done = subprocess.run(
            [*start, block.text], cwd=work, env=environment, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


def test_every_quoted_message_is_one_of_the_program() -> None:
    source = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("src/**/*.py"))
    source = re.sub(r"""["']\s*\n\s*f?["']""", "", source)  # literals of several lines
    page = (DOCS / "manual/errors.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^`(.+)`\n:", page, re.MULTILINE)
    parts = [part.strip() for message in quoted for part in message.split("...")]
    of_libraries = ("unrecognized arguments:", "Missing option")
    assert [part for part in parts if part not in source and part not in of_libraries] == []
    assert len(quoted) > 10


def test_the_navigation_is_valid_yaml_without_addresses() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["strict"] is True
    assert config["theme"]["font"] is False
    assert "http" not in text


def test_relative_links_lead_to_files_of_the_repository() -> None:
    """They work where no site is built; docs/hooks.py leads some of them to generated pages."""
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
    links = [
        (page, link)
        for page in [*pages, *(DOCS / name for name in PAGES)]
        for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
        if "://" not in link
    ]
    assert [found for found in links if not (found[0].parent / found[1]).exists()] == []
    assert len(links) > 50


def test_the_readme_has_at_most_1300_words() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1300

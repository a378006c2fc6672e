"""Install commands that pages and messages name, and the name and version of the distribution."""

import re
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import medvision
from medvision.errors import install_command

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PAGES = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.ipynb")]
SOURCES = [*ROOT.glob("src/**/*.py"), *ROOT.glob("conf/**/*.yaml"), *ROOT.glob("benchmarks/**/*")]
INSTALLS = re.compile(r"(?<![-\w])pip install +(.*)")


def lines_with_install() -> Iterator[tuple[Path, str]]:
    """Every `pip install ...` that a user can read, with its file."""
    for path in [*PAGES, *SOURCES]:
        if path.suffix in {".md", ".ipynb", ".py", ".yaml"}:
            for match in INSTALLS.finditer(path.read_text()):
                yield path, match[1]


def test_no_page_or_message_installs_the_other_project_with_this_name() -> None:
    found = list(lines_with_install())
    assert found, "the collector found no install command at all"
    wrong = [
        (path, text) for path, text in found if re.match(r"['\"]?medvision(?!-lightning)", text)
    ]
    assert not wrong


def test_every_named_extra_exists() -> None:
    extras = set(PROJECT["optional-dependencies"])
    named = {
        name
        for _, text in lines_with_install()
        for group in re.findall(r"\.\[([^\]{]+)\]", text)
        for name in group.split(",")
    }
    named |= set(re.findall(r"install_command\([\"']([^\"']+)", _all_sources()))
    assert {"dicom", "onnx", "streaming"} <= named <= extras


def test_the_command_in_messages_installs_an_extra_from_a_checkout() -> None:
    assert install_command("onnx") == "pip install -e '.[onnx]' (in the medvision checkout)"


def test_the_distribution_has_its_own_name_and_version() -> None:
    assert PROJECT["name"] == "medvision-lightning"
    assert "version" not in PROJECT
    assert metadata.version("medvision-lightning") == medvision.__version__


def _all_sources() -> str:
    return "\n".join(path.read_text() for path in SOURCES if path.suffix == ".py")

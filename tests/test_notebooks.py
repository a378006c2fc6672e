import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

EXECUTE = """
import sys
import nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], as_version=4)
place = {"metadata": {"path": sys.argv[2]}}
NotebookClient(notebook, timeout=240, kernel_name="python3", resources=place).execute()
outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
print("TEXT", " ".join(output.get("text", "") for output in outputs))
print("PICTURES", sum("image/png" in output.get("data", {}) for output in outputs))
"""


def test_notebooks_hold_the_output_of_a_complete_run() -> None:
    assert NOTEBOOKS
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text())["cells"]
        runs = [cell["execution_count"] for cell in cells if cell["cell_type"] == "code"]
        assert runs == [*range(1, len(runs) + 1)], path.name
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        assert not [output for output in outputs if output["output_type"] == "error"]
        assert any("image/png" in output.get("data", {}) for output in outputs)
        text = json.dumps([output.get("text", "") for output in outputs])
        assert not re.search(r"/(home|root|work|tmp)/", text), path.name


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", EXECUTE, str(path), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "95 % interval" in done.stdout
    assert "PICTURES 1" in done.stdout

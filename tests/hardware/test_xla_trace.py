from pathlib import Path

import pytest

from medvision.hardware.xla_trace import VARIABLE, Trigger, read_triggers, take_triggers

TORCH = "/opt/venv/lib/python3.11/site-packages/torch/functional.py"


def block(kind: str, cause: str, *frames: str) -> str:
    """One analysis in the format of torch-xla 2.9."""
    mark = f"{kind} Analysis:"
    lines = [
        "=" * 80,
        f"{kind} Cause",
        f"  {cause}",
        "Graph Info: ",
        "  Graph Hash: cfd4424943106f0129737cb0d71c99ec",
        "  Number of Graph Inputs: 2",
        "  Number of Graph Outputs: 1",
        "Python Frame Triggered Execution: ",
        *(f"  {frame}" for frame in frames),
        "-" * 80,
        "=" * 80,
    ]
    return "\n" + "".join(f"{mark} {line}\n" for line in lines)


READING = "most likely user code trying to access tensor value before torch_xla.sync"
STEP_END = "torch_xla.sync in parallel loader at step end"

AFTER = """
Computation hash: d6b9bb35ddb0ba84dc4a08597f75aea9

Post Compilation Analysis: =====================================================================
Post Compilation Analysis: Graph input size: 0.000046 GB
Post Compilation Analysis: Compiled program size: 0.000000 GB
Post Compilation Analysis: =====================================================================
"""

TEXT = (
    block(
        "Compilation",
        READING,
        f"_unique_impl ({TORCH}:946)",
        "<lambda> (/opt/python/lib/python3.11/functools.py:12)",
        "run_code (<frozen runpy>:88)",
        "training_step (/home/me/my project/task (new).py:11)",
        "<module> (/home/me/train.py:17)",
        "..........",
    )
    + AFTER
    + block("Execution", READING, f"_unique_impl ({TORCH}:946)")
    + block("Execution", STEP_END, "advance (/home/me/loop.py:3)")
)


def test_a_trigger_is_named_by_the_innermost_line_outside_the_libraries() -> None:
    assert read_triggers(TEXT) == [
        Trigger(kind="compilation", read=True, place="training_step (task (new).py:11)"),
        Trigger(kind="execution", read=True, place=""),
        Trigger(kind="execution", read=False, place="advance (loop.py:3)"),
    ]


@pytest.mark.parametrize("text", ["", AFTER, "no word of torch-xla\n"])
def test_a_text_without_a_cause_has_no_trigger(text: str) -> None:
    assert read_triggers(text) == []


def test_a_truncated_analysis_is_read_up_to_its_end() -> None:
    end = TEXT.index("training_step (/home")
    assert read_triggers(TEXT[:end]) == [Trigger(kind="compilation", read=True, place="")]


def test_triggers_are_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "triggers.txt"
    monkeypatch.setenv(VARIABLE, str(file))
    assert take_triggers() == []  # torch-xla has written nothing yet
    file.write_text(TEXT)
    assert len(take_triggers()) == 3
    assert file.read_text() == ""
    assert take_triggers() == []
    with file.open("a") as appended:
        appended.write(block("Execution", STEP_END))
    assert [trigger.kind for trigger in take_triggers()] == ["execution"]


def test_there_are_no_triggers_without_a_trace_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert take_triggers() == []

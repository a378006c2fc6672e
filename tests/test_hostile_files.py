"""Untrusted files must not execute code; each payload here would leave a trace."""

from __future__ import annotations

import contextlib
import json
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from medvision.cli import program
from medvision.console import cell, in_one_line
from medvision.data.discovery.splits_csv import read_splits
from medvision.errors import MedvisionError
from medvision.files import check_stored
from medvision.inference.load import load_network
from medvision.inference.model_card import ModelCard
from medvision.models import AlexNet, SmpSegmenter, TimmClassifier, UNet
from medvision.models.matching import SizeLimit, read_tensors
from medvision.run import main
from medvision.run.config.compatibility import check_class_names
from medvision.run.storage.resume import find_state
from medvision.run.training.build import read_checkpoint
from medvision.run.training.results import print_scores

SMALL = ("trainer=cpu", "logger=csv", "data.image_size=32", "data.num_workers=0", "audit=skip")


class Payload:
    """Code that a pickle runs when it is read."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    """File that exists once a payload has run."""
    return tmp_path / "trace"


@pytest.fixture
def ends_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], trace: Path
) -> Callable[..., str]:
    """Run a command that must refuse a file; check that nothing ran and return the error line."""
    workplace = tmp_path / "workplace"
    workplace.mkdir()
    monkeypatch.chdir(workplace)

    def run(*arguments: str, code: int = 2, lines: int = 1) -> str:
        if arguments[0] == "train.py":
            resumes = arguments[1].startswith("resume=")
            ended = main([*([] if resumes else SMALL), *arguments[1:]])
        else:
            monkeypatch.setattr(sys, "argv", list(arguments))
            with pytest.raises(SystemExit) as end:
                program.main()
            ended = int(end.value.code or 0)
        printed = capfd.readouterr().err
        assert ended == code, printed
        assert not trace.exists()
        assert "Traceback" not in printed
        assert printed.count("\n") == lines
        return printed

    return run


def pickled(trace: Path) -> bytes:
    return pickle.dumps(Payload(trace))


def in_a_checkpoint(path: Path, trace: Path, finished: Path) -> None:
    """A real checkpoint with a payload beside its tensors."""
    content = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    torch.save({**content, "extra": Payload(trace)}, path)


def in_the_storage(path: Path, trace: Path, finished: Path) -> None:
    """A real checkpoint whose list of tensors is replaced by a payload."""
    with (
        zipfile.ZipFile(finished / "checkpoints" / "best.ckpt") as source,
        zipfile.ZipFile(path, "w") as made,
    ):
        for name in source.namelist():
            data = pickled(trace) if name.endswith("data.pkl") else source.read(name)
            made.writestr(name, data)


def bare(path: Path, trace: Path, finished: Path) -> None:
    """Only a payload, in the format of old checkpoints."""
    path.write_bytes(pickled(trace))


CHECKPOINTS = [in_a_checkpoint, in_the_storage, bare]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One image."""
    path = tmp_path / "image.png"
    cv2.imwrite(str(path), np.full((40, 40, 3), 90, np.uint8))
    return path


def test_the_payload_would_leave_a_trace(tmp_path: Path, trace: Path, finished: Path) -> None:
    """Read without ``weights_only``, each of them runs."""
    for make in CHECKPOINTS:
        make(tmp_path / "bad.ckpt", trace, finished)
        with contextlib.suppress(Exception):  # of a file that is not a checkpoint, once it has run
            torch.load(tmp_path / "bad.ckpt", weights_only=False)
        assert trace.exists()
        trace.unlink()


@pytest.fixture
def run_folder(tmp_path: Path, finished: Path) -> Path:
    """Copy of a finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


COMMANDS = [
    ("medvision", "predict", "BAD", "IMAGE", "--out", "out"),
    ("medvision", "predict", "RUN", "IMAGE", "--out", "out"),
    ("medvision", "export", "BAD", "--format", "onnx"),
    ("medvision", "export", "RUN", "--format", "safetensors"),
    ("medvision", "evaluate", "RUN"),
    ("train.py", "experiment=polyp_unet", "model.base_channels=4", "ckpt_path=BAD"),
    ("train.py", "experiment=polyp_unet", "model.base_channels=4", "model.weights=BAD"),
]


def commands_and_checkpoints() -> list[Any]:
    """Each command and each kind of checkpoint at least once; the other pairs are slow tests."""
    return [
        pytest.param(
            make,
            command,
            id=f"{make.__name__}-{' '.join(command)}",
            marks=[] if make is in_a_checkpoint or command is COMMANDS[0] else pytest.mark.slow,
        )
        for make in CHECKPOINTS
        for command in COMMANDS
    ]


@pytest.mark.parametrize(("make", "command"), commands_and_checkpoints())
def test_no_command_runs_code_in_a_checkpoint(
    ends_with: Callable[..., str],
    run_folder: Path,
    trace: Path,
    finished: Path,
    data: Path,
    make: Callable[..., None],
    command: tuple[str, ...],
) -> None:
    bad = run_folder / "checkpoints" / "best.ckpt"
    make(bad, trace, finished)
    names = {"BAD": bad, "RUN": run_folder, "IMAGE": data}
    words = [
        next((w.replace(name, str(path)) for name, path in names.items() if name in w), w)
        for w in command
    ]
    assert str(run_folder) in ends_with(*words)


@pytest.mark.parametrize("part", ["data", "loss", "task", "trainer"])
def test_no_class_that_a_config_names_is_built(
    ends_with: Callable[..., str], run_folder: Path, trace: Path, part: str
) -> None:
    path = run_folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[part]["callback"] = {"_target_": "pathlib.Path.touch", "self": str(trace)}
    path.write_text(yaml.safe_dump(config))
    line = ends_with("medvision", "evaluate", str(run_folder))
    assert "names pathlib.Path.touch, which must not be built from a file" in line


def test_no_class_that_a_config_names_is_built_to_resume(
    ends_with: Callable[..., str], run_folder: Path, trace: Path
) -> None:
    path = run_folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config["callbacks"]["mine"] = {"_target_": "pathlib.Path.touch", "self": str(trace)}
    path.write_text(yaml.safe_dump(config))
    summary = json.loads((run_folder / "summary.json").read_text())
    (run_folder / "summary.json").write_text(json.dumps({**summary, "status": "interrupted"}))
    line = ends_with("train.py", f"resume={run_folder}")
    assert "pathlib.Path.touch" in line


@pytest.mark.parametrize(
    "name", ["os.system", "torch.hub.load", "medvision.models.matching.read", "builtins.eval", ""]
)
def test_only_networks_of_the_list_are_rebuilt(
    ends_with: Callable[..., str],
    tmp_path: Path,
    finished: Path,
    data: Path,
    trace: Path,
    name: str,
) -> None:
    content = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    card = content["medvision"]
    card["model"] = {"name": name, "arguments": {"command": f"touch {trace}"}}
    torch.save(content, tmp_path / "bad.ckpt")
    state = content["state_dict"].items()
    tensors = {k.removeprefix("model."): v.contiguous() for k, v in state}
    save_file(tensors, tmp_path / "bad.safetensors", metadata={"medvision": json.dumps(card)})
    for file in ("bad.ckpt", "bad.safetensors"):
        line = ends_with("medvision", "predict", str(tmp_path / file), str(data), "--out", "out")
        assert file in line


def test_an_onnx_file_reads_no_other_file(
    ends_with: Callable[..., str], tmp_path: Path, finished: Path, data: Path
) -> None:
    """ONNX tensors may be in other files, whose names may be any path."""
    import onnx
    from onnx import TensorProto, helper

    (tmp_path / "secret").write_bytes(np.full(3 * 32 * 32, 7, np.float32).tobytes())
    (tmp_path / "models").mkdir()
    card = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["medvision"]
    outside = TensorProto(name="weight", data_type=TensorProto.FLOAT, dims=[1, 3, 32, 32])
    outside.data_location = TensorProto.EXTERNAL
    entry = outside.external_data.add()
    entry.key, entry.value = "location", "../secret"
    shape = ["batch", 3, 32, 32]
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["pixels", "weight"], ["sum"]),
            helper.make_node("ReduceMean", ["sum"], ["logits"], keepdims=1),
        ],
        "outside",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [outside],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 10
    helper.set_model_props(proto, {"medvision": json.dumps(card)})
    path = tmp_path / "models" / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    assert onnx.load(path, load_external_data=False).graph.initializer[0].external_data
    line = ends_with("medvision", "predict", str(path), str(data), "--out", "out")
    assert "cannot be read as ONNX" in line


def test_names_cannot_write_into_a_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: tuple[str, ...]
) -> None:
    """Names of folders and files may contain HTML; `/` cannot be part of a name."""
    hostile = "<img src=x onerror=alert(1)>"
    rng = np.random.default_rng(0)
    for name in (hostile, "plain"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for k in range(12):
            pixels = rng.integers(0, 255, (32, 32), dtype=np.uint8)
            cv2.imwrite(str(tmp_path / "set" / name / f"<b onclick='x'>{k}.png"), pixels)
    monkeypatch.chdir(tmp_path)
    kept = [o for o in small if "num_images" not in o]
    overrides = [
        "experiment=chest_xray_cnn",
        f"data.root={tmp_path / 'set'}",
        "data.val_fraction=0.2",
    ]
    assert main([*kept, *overrides]) == 0
    (page,) = tmp_path.glob("runs/*/*/report.html")
    text = page.read_text()
    assert hostile not in text
    assert "<b onclick" not in text
    assert "&lt;img src=x onerror=alert(1)&gt;" in text


def grown(path: Path, finished: Path, *, shared: bool) -> None:
    """A real checkpoint whose tensors are far larger in memory than in the file."""
    method = zipfile.ZIP_STORED if shared else zipfile.ZIP_DEFLATED
    with (
        zipfile.ZipFile(finished / "checkpoints" / "best.ckpt") as source,
        zipfile.ZipFile(path, "w", method) as made,
    ):
        for name in source.namelist():
            made.writestr(name, source.read(name) + bytes(4_000_000) * name.endswith("/data/0"))
        if shared:  # one part under many names
            first = made.getinfo(source.namelist()[0])
            largest = max(made.infolist(), key=lambda part: part.file_size)
            for number in range(50):
                again = zipfile.ZipInfo(f"{first.filename}.{number}")
                again.header_offset, again.CRC = largest.header_offset, largest.CRC
                again.file_size = again.compress_size = largest.file_size
                made.filelist.append(again)
            made._didModify = True


@pytest.mark.parametrize("shared", [False, True], ids=["compressed", "shared"])
def test_a_checkpoint_that_would_fill_the_memory_is_refused_before_it_is_loaded(
    tmp_path: Path,
    finished: Path,
    run_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    shared: bool,
) -> None:
    bad = tmp_path / "bad.ckpt"
    grown(bad, finished, shared=shared)
    torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    loaded: list[Path] = []
    monkeypatch.setattr(torch, "load", lambda path, **_: loaded.append(path))
    with pytest.raises(ValueError, match="its parts are larger than the file"):
        check_stored(bad)
    for read in (
        lambda: load_network(bad),
        lambda: read_checkpoint(bad, max_epochs=99),
        lambda: read_tensors(bad, where="model.weights"),
    ):
        with pytest.raises(MedvisionError):
            read()
    for name in ("best", "last", "previous"):
        shutil.copy(bad, run_folder / "checkpoints" / f"{name}.ckpt")
    with pytest.raises(MedvisionError, match="damaged"):
        find_state(run_folder)
    assert loaded == []


def test_checkpoints_of_pytorch_are_accepted(tmp_path: Path, finished: Path) -> None:
    check_stored(finished / "checkpoints" / "best.ckpt")
    for number, new_format in enumerate((True, False)):
        path = tmp_path / f"{number}.pt"
        torch.save({"a": torch.zeros(3)}, path, _use_new_zipfile_serialization=new_format)
        check_stored(path)


def with_card(path: Path, finished: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A real checkpoint whose card a stranger has changed."""
    content = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)
    change(content["medvision"])
    torch.save(content, path)
    return path


def test_a_small_checkpoint_of_a_network_of_gigabytes_is_refused_before_it_is_built(
    tmp_path: Path, finished: Path
) -> None:
    def grow(card: dict[str, Any]) -> None:
        card["model"]["arguments"]["base_channels"] = 4096  # half a terabyte

    bad = with_card(tmp_path / "bad.ckpt", finished, grow)
    with pytest.raises(MedvisionError, match=r"the network takes more than 20\d MB"):
        load_network(bad)


def test_a_run_whose_config_asks_for_a_network_of_gigabytes_is_not_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    before = Path(__file__).parent / "fixtures" / "run_before" / "interrupted"
    run = Path(shutil.copytree(before, tmp_path / "run"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["base_channels"] = 4096
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    assert main([f"resume={run}"]) == 2
    line = capsys.readouterr().err
    assert "the network takes more than 20" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    "build",
    [
        lambda: UNet(base_channels=1),
        lambda: AlexNet(version=2012),
        lambda: TimmClassifier(name="vit_tiny_patch16_224"),
        lambda: SmpSegmenter(encoder="tu-tf_efficientnet_lite0"),
    ],
    ids=["UNet", "AlexNet", "timm", "smp"],
)
def test_a_network_is_little_larger_than_its_weights_and_drawn_alike_under_the_limit(
    tmp_path: Path, build: Callable[[], torch.nn.Module]
) -> None:
    (tmp_path / "weights").touch()
    torch.manual_seed(0)
    expected = build().state_dict()
    limit = SizeLimit(tmp_path / "weights", where="weights")
    limit.most_bytes = 10**9
    torch.manual_seed(0)
    with limit:
        found = build().state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in found.values())
    assert 0.9 * size < limit.num_bytes < 2 * size
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_size", 1_000_000),
        ("num_parameters", 10**30),
        ("mean", [1e300, 0.5, 0.5]),
        ("std", [float("inf")] * 3),
        ("threshold", 2),
        ("value_range", [0.0, 1e300]),
        ("class_names", [str(k) for k in range(100_000)]),
        ("class_names", ["a", "x" * 20_000]),
        ("class_names", ["a", "=cmd|' /C calc'!A0"]),
        ("class_names", ["a", "-2+3+cmd|' /C calc'!A0"]),
        ("class_names", ["a", "@SUM(1)"]),
        ("class_names", ["a", "b\nerror: c"]),
        ("eval_transforms", {"Resize": {"height": 1_000_000, "width": 1_000_000}}),
        ("eval_transforms", {"Affine": {"scale": {"x": [1e9, 1e9]}}}),
        ("eval_transforms", {"TextImage": {"font_path": "/dev/zero"}}),
        ("architecture", "x" * 20_000),
    ],
)
def test_a_card_with_a_value_that_no_model_has_is_refused(
    tmp_path: Path, finished: Path, key: str, value: object
) -> None:
    card = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["medvision"]
    with pytest.raises(MedvisionError, match=f"invalid {key} in the model card"):
        ModelCard.from_dict({**card, key: value}, where="bad.ckpt")
    for arguments in ({"base_channels": 10**9}, {"a": {"b": [10**9]}}, {"a": "x" * 20_000}, []):
        model = {**card["model"], "arguments": arguments}
        with pytest.raises(MedvisionError, match="invalid arguments in the model card"):
            ModelCard.from_dict({**card, "model": model}, where="bad.ckpt")


@pytest.mark.parametrize("name", ["=1+1", "+x", "-x", "@x", "a\nb"])
def test_a_class_whose_name_is_a_formula_or_two_lines_is_not_trained(name: str) -> None:
    with pytest.raises(MedvisionError, match=r"the class name .* (formula|line break)") as error:
        check_class_names(["healthy", name])
    assert str(error.value).isprintable()
    check_class_names(["healthy", "grade +", "a=b", "'"])


def test_a_path_that_is_a_formula_is_refused_in_a_table(tmp_path: Path) -> None:
    (tmp_path / "splits.csv").write_text("path\n=cmd|' /C calc'!A0.png\n")
    with pytest.raises(MedvisionError, match="would be a formula in a spreadsheet"):
        read_splits(tmp_path / "splits.csv")
    (tmp_path / "splits.csv").write_text("path,target\n-x/1.png,-1.5\n")
    assert [sample.target for sample in read_splits(tmp_path / "splits.csv")] == ["-1.5"]


def test_names_are_printed_in_one_line_and_without_markup() -> None:
    assert in_one_line("a\nb\x1b[2J") == "a\\nb\\x1b[2J"
    assert cell("[red]a[/]\n") == "\\[red]a\\[/]\\n"


def test_scores_of_a_summary_from_a_stranger_are_printed_in_one_line_each(
    finished_brain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    summary = json.loads((finished_brain / "summary.json").read_text())
    summary["experiment"] = "[/x]\nowned"
    summary["metrics"]["test/[/y]\nerror: owned"] = 0.5
    print_scores(summary)
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.strip().startswith(("owned", "error:"))]


def test_errors_of_onnx_runtime_do_not_reach_the_screen(
    tmp_path: Path, finished: Path, data: Path, ends_with: Callable[..., str]
) -> None:
    """A network that fails on every image; ONNX Runtime would print a line of its own."""
    from onnx import TensorProto, helper

    card = torch.load(finished / "checkpoints" / "best.ckpt", weights_only=True)["medvision"]
    shape = helper.make_tensor("shape", TensorProto.INT64, [1], [7])
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["pixels", "shape"], ["logits"]),
        ],
        "fails",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)],
        [shape],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    proto.ir_version = 10
    helper.set_model_props(proto, {"medvision": json.dumps(card)})
    (tmp_path / "bad.onnx").write_bytes(proto.SerializeToString())
    words = ("medvision", "predict", str(tmp_path / "bad.onnx"), str(data), "--out", "out")
    printed = ends_with(*words, code=1, lines=2)
    assert "the network fails on an image" in printed
    assert "error: 1 of 1 image could not be processed" in printed

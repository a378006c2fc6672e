"""Each layout is read alike by inspect, audit, training, evaluation and prediction."""

from collections.abc import Callable
from pathlib import Path

import pytest

from layouts import LAYOUTS
from medvision.audit.check import audit
from medvision.audit.dataset import scan
from medvision.data.discovery.description import inspect_folder
from medvision.data.discovery.keys import parse_keys
from medvision.data.discovery.splits_csv import read_splits
from medvision.data.readers.annotations import container
from medvision.errors import MedvisionError
from medvision.inference import load_model, predict_files
from medvision.run import main
from medvision.run.evaluation.evaluate import choose_target, evaluate_run
from medvision.run.storage.saved_run import StoredRun

EXPERIMENTS = {"segmentation": "polyp_unet", "classification": "chest_xray_cnn"}


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYOUTS)
def test_every_command_reads_a_layout_alike(
    tmp_path: Path, name: str, train: Callable[..., Path], small: tuple[str, ...]
) -> None:
    layout = LAYOUTS[name]
    root = layout.draw(tmp_path / "set")
    keys, options = list(layout.keys), (f"data.root={root}", "model.base_channels=4")
    experiment = f"experiment={EXPERIMENTS[layout.task]}"
    if layout.refused:
        for call in (lambda: list(inspect_folder(root, parse_keys([]))), lambda: scan(root)):
            with pytest.raises(MedvisionError, match=layout.refused):
                call()
        assert main([*small, experiment, *options]) == 2
    given = parse_keys(keys)
    shown = "\n".join(inspect_folder(root, given))
    assert f"{layout.task}, {layout.count} images" in shown
    found = scan(root, keys=given.folder, reading=given.reading)
    assert (found.task, len(found), found.faults) == (layout.task, layout.count, ())
    audit(found, started=0.0)
    run = train(experiment, *options, "trainer.max_epochs=1", "data.split_seed=1", *keys)
    listed = {s.path: s.target for s in read_splits(run / "splits.csv")}
    assert listed == {sample.path: sample.target for sample in found.samples}
    summary = evaluate_run(run)
    assert summary["evaluated"]["largest_difference"] <= 1e-6
    other = layout.draw(tmp_path / "other")
    target = choose_target(StoredRun.read(run), other, None, given.given)
    assert sum(map(len, target.data.tables.values())) in (layout.count, len(listed))
    files = list(dict.fromkeys(root / container(sample.path) for sample in found.samples))[:3]
    done = predict_files(load_model(run), files, out=tmp_path / "predicted")
    assert (done.num_done, done.failures) == (layout.count if layout.arrays else 3, [])

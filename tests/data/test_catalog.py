import dataclasses
import re
import subprocess
import sys
from urllib.parse import urlsplit

import pytest
import yaml

from medvision.data.download.catalog import CATALOG, find, list_text, needs_account, text_of
from medvision.errors import MedvisionError
from medvision.run.config.store import CONF

SETS = list(CATALOG.values())
DIGITS = {"sha256": 64, "md5": 32}


@pytest.mark.parametrize("dataset", SETS, ids=list(CATALOG))
def test_every_data_set_is_described_with_its_download(dataset) -> None:  # noqa: ANN001
    assert CATALOG[dataset.name] is dataset
    assert re.fullmatch(r"[a-z][a-z0-9_]+", dataset.name)
    assert dataset.title
    assert dataset.citation
    assert dataset.num_images is None or dataset.num_images > 0
    assert urlsplit(dataset.home_page).scheme == "https"
    # either an automatic download with a layout, or manual steps
    assert (dataset.url is None) == bool(dataset.steps) != bool(dataset.layout)
    if dataset.url is not None:
        assert urlsplit(dataset.url).scheme == "https"
        assert dataset.size_mb is not None
    if dataset.checksum is not None:
        algorithm, digits = dataset.checksum.split(":")
        assert re.fullmatch(rf"[0-9a-f]{{{DIGITS[algorithm]}}}", digits)
    if dataset.task == "segmentation" and dataset.layout:
        assert set(dataset.layout) == {"images", "masks"}


def test_the_data_sets_of_the_experiments_are_in_the_catalogue() -> None:
    wanted = {"kvasir_seg", "hyper_kvasir", "cvc_clinicdb", "chest_xray", "brain_mri"}
    assert wanted <= set(CATALOG)
    assert {"cvc_clinicdb", "brain_mri"} <= {n for n in CATALOG if CATALOG[n].url is None}


def test_the_catalogue_is_read_only() -> None:
    with pytest.raises(TypeError):
        CATALOG["mine"] = SETS[0]  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        SETS[0].url = "https://elsewhere"  # type: ignore[misc]


def test_an_unknown_name_suggests_the_nearest_one() -> None:
    assert find("mednist").title == "MedNIST"
    with pytest.raises(MedvisionError) as unknown:
        find("Kvasir-SEG", where="data.download")
    assert str(unknown.value) == (
        "unknown public data set Kvasir-SEG (data.download); did you mean kvasir_seg?"
    )
    with pytest.raises(MedvisionError, match="choose from kvasir_seg, hyper_kvasir, "):
        find("imagenet")


def test_a_data_set_that_needs_an_account_lists_numbered_steps_with_the_users_folder() -> None:
    error = needs_account(CATALOG["brain_mri"], "data/mri")
    assert str(error) == (
        "Brain tumour classification, MRI (Sartaj) cannot be downloaded automatically"
        " (https://www.kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri);"
        " 1. sign in to Kaggle and download the archive from the home page;"
        " 2. unpack it and put its folders Training and Testing into data/mri"
    )
    assert error.exit_code == 2


def test_the_list_shows_every_set_with_its_terms() -> None:
    text = list_text()
    for dataset in SETS:
        for fact in (dataset.name, dataset.title, dataset.licence, dataset.home_page):
            assert fact in text
    assert "kvasir_seg         segmentation     1000 images  46 MB" in text
    assert (
        "cvc_clinicdb       segmentation      612 images  size not stated, manual download" in text
    )


def test_the_description_of_a_data_set_contains_all_its_properties() -> None:
    lines = text_of(CATALOG["cvc_clinicdb"]).splitlines()
    assert lines[0] == "CVC-ClinicDB"
    assert "  archive    see the steps" in lines
    assert lines[-1] == "  2. unpack it into ROOT, with its folders Original and Ground Truth"
    kvasir = text_of(CATALOG["kvasir_seg"])
    assert "  checksum   sha256:03b30e21" in kvasir
    assert "neither is an external test set for the other" in kvasir


def test_every_config_that_downloads_names_a_set_of_its_task() -> None:
    configs = {path.stem: yaml.safe_load(path.read_text()) for path in CONF.glob("data/*.yaml")}
    downloading = {name: node for name, node in configs.items() if node.get("download")}
    assert {"kvasir_seg", "hyper_kvasir", "cvc_clinicdb"} <= set(downloading)
    for name, node in downloading.items():
        assert node["download"] == node["name"] == name
        assert node["root"] == f"data/{name}"
        bases = {"polyps": "segmentation"}
        (base,) = node["defaults"]
        assert bases.get(base, base.removeprefix("folder_")) == CATALOG[name].task


def test_reading_the_catalogue_imports_no_heavy_package() -> None:
    code = (
        "import sys, medvision.data.download.catalog, medvision.data.download.download;"
        "print([m for m in ('numpy', 'torch', 'pooch', 'requests', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"

"""Catalogue of public data sets: addresses, sizes, licences and citations.

Every address, licence, size, count and checksum is stated by the home page, by the archive that
hosts the data set or by a project that verifies it on every download; a value that none of them
states is None. This module imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from medvision.errors import MedvisionError, did_you_mean

_SIMULA = "https://datasets.simula.no"
_PAIRS = MappingProxyType({"images": "images", "masks": "masks"})


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Public data set.

    Attributes:
        name: Name on the command line, and of its config if it has one.
        title: Name given by its authors.
        task: Task it is used for.
        home_page: Address of the authors' description.
        licence: Short terms of use.
        citation: Publication to cite.
        num_images: Number of images, excluding masks.
        size_mb: Size of the archive; 10^6 bytes, rounded; None if not stated.
        url: Address of the archive; None if an account is needed.
        checksum: ``algorithm:hexadecimal digits`` of the archive, in pooch's format; None if not
            published.
        steps: Manual steps if an account is needed, with the destination of the files.
        layout: Source folder in the archive, by the end of its path, for each folder of the root;
            an empty name is the root itself.
        note: Remark for comparing results on it.
    """

    name: str
    title: str
    task: Literal["segmentation", "classification"]
    home_page: str
    licence: str
    citation: str
    num_images: int
    size_mb: int | None = None
    url: str | None = None
    checksum: str | None = None
    steps: tuple[str, ...] = ()
    layout: Mapping[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def size(self) -> str:
        """Size of the archive as text."""
        return "size not stated" if self.size_mb is None else f"{self.size_mb} MB"


_SETS = (
    DataSet(
        name="kvasir_seg",
        title="Kvasir-SEG",
        task="segmentation",
        home_page=f"{_SIMULA}/kvasir-seg/",
        licence="research and education only",
        citation="Jha et al., Kvasir-SEG: A Segmented Polyp Dataset, MMM 2020,"
        " https://doi.org/10.1007/978-3-030-37734-2_37",
        num_images=1000,
        size_mb=46,
        url=f"{_SIMULA}/downloads/kvasir-seg.zip",
        checksum="sha256:03b30e21d584e04facf49397a2576738fd626815771afbbf788f74a7153478f7",
        layout={"images": "Kvasir-SEG/images", "masks": "Kvasir-SEG/masks"},
        note="hyper_kvasir holds the same images: neither is an external test set for the other",
    ),
    DataSet(
        name="hyper_kvasir",
        title="HyperKvasir, segmented images",
        task="segmentation",
        home_page=f"{_SIMULA}/hyper-kvasir/",
        licence="CC BY 4.0",
        citation="Borgli et al., HyperKvasir, a comprehensive multi-class image and video dataset"
        " for gastrointestinal endoscopy, Scientific Data 7, 283 (2020),"
        " https://doi.org/10.1038/s41597-020-00622-y",
        num_images=1000,
        size_mb=46,
        url=f"{_SIMULA}/downloads/hyper-kvasir/hyper-kvasir-segmented-images.zip",
        layout={"images": "segmented-images/images", "masks": "segmented-images/masks"},
        note="kvasir_seg holds the same images: neither is an external test set for the other",
    ),
    DataSet(
        name="cvc_clinicdb",
        title="CVC-ClinicDB",
        task="segmentation",
        home_page="https://polyp.grand-challenge.org/CVCClinicDB/",
        licence="research and education only",
        citation="Bernal et al., WM-DOVA maps for accurate polyp highlighting in colonoscopy,"
        " Computerized Medical Imaging and Graphics 43 (2015),"
        " https://doi.org/10.1016/j.compmedimag.2015.02.007",
        num_images=612,
        steps=(
            "get the archive from the home page, or with an account from"
            " https://www.kaggle.com/datasets/balraj98/cvcclinicdb",
            "unpack it and put the files of the folder Original into ROOT/images",
            "put the files of the folder Ground Truth into ROOT/masks",
        ),
        note="frames of 29 videos: neighbouring frames look alike, so a random split is optimistic",
    ),
    DataSet(
        name="kvasir_instrument",
        title="Kvasir-Instrument",
        task="segmentation",
        home_page=f"{_SIMULA}/kvasir-instrument/",
        licence="research and education only",
        citation="Jha et al., Kvasir-Instrument: Diagnostic and Therapeutic Tool Segmentation"
        " Dataset in Gastrointestinal Endoscopy, MMM 2021,"
        " https://doi.org/10.1007/978-3-030-67835-7_19",
        num_images=590,
        size_mb=170,
        url=f"{_SIMULA}/downloads/kvasir-instrument.zip",
        layout=_PAIRS,
    ),
    DataSet(
        name="chest_xray",
        title="Chest X-rays of children, normal or pneumonia (Kermany)",
        task="classification",
        home_page="https://data.mendeley.com/datasets/rscbjbr9sj/2",
        licence="CC BY 4.0",
        citation="Kermany et al., Identifying Medical Diagnoses and Treatable Diseases by"
        " Image-Based Deep Learning, Cell 172 (2018), https://doi.org/10.1016/j.cell.2018.02.010;"
        " data: https://doi.org/10.17632/rscbjbr9sj.2",
        num_images=5856,
        size_mb=1236,
        url="https://data.mendeley.com/public-files/datasets/rscbjbr9sj/files/"
        "f12eaf6d-6023-432f-acc9-80c9d7393433/file_downloaded",
        layout={"train": "chest_xray/train", "test": "chest_xray/test"},
    ),
    DataSet(
        name="brain_mri",
        title="Brain tumour classification, MRI (Sartaj)",
        task="classification",
        home_page="https://www.kaggle.com/datasets/sartajbhuvaji/brain-tumor-classification-mri",
        licence="not stated; see the home page",
        citation="Bhuvaji et al., Brain Tumor Classification (MRI), Kaggle 2020,"
        " https://doi.org/10.34740/KAGGLE/DSV/1183165",
        num_images=3264,
        size_mb=93,
        steps=(
            "sign in to Kaggle and download the archive from the home page",
            "unpack it and put its folders Training and Testing into ROOT",
        ),
        note="many test images are copies of training images: see docs/explanation/public_sets.md",
    ),
    DataSet(
        name="kather_texture",
        title="Textures in colorectal cancer histology (Kather)",
        task="classification",
        home_page="https://zenodo.org/records/53169",
        licence="CC BY 4.0",
        citation="Kather et al., Multi-class texture analysis in colorectal cancer histology,"
        " Scientific Reports 6, 27988 (2016), https://doi.org/10.1038/srep27988;"
        " data: https://doi.org/10.5281/zenodo.53169",
        num_images=5000,
        size_mb=258,
        url="https://zenodo.org/records/53169/files/Kather_texture_2016_image_tiles_5000.zip",
        checksum="sha256:936d0b95ae0f04f1f7b18a2b7e8c55776c3e887d102f645bcee752d1a6626a32",
        layout={"": "Kather_texture_2016_image_tiles_5000"},
    ),
    DataSet(
        name="mednist",
        title="MedNIST",
        task="classification",
        home_page="https://docs.monai.io/en/stable/apps.html",
        licence="CC BY-SA 4.0",
        citation="Bradley J. Erickson, Mayo Clinic, gathered from TCIA, the RSNA Bone Age"
        " Challenge and the NIH Chest X-ray dataset",
        num_images=58954,
        size_mb=59,
        url="https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/"
        "MedNIST.tar.gz",
        checksum="md5:0bc7306e7427e00ad1c5526a6677552d",
        layout={"": "MedNIST"},
        note="six easily distinguished kinds of pictures: a first exercise, not a benchmark",
    ),
)

CATALOG: Mapping[str, DataSet] = MappingProxyType({dataset.name: dataset for dataset in _SETS})
"""Public data sets by name."""


def find(name: str, *, where: str | None = None) -> DataSet:
    """Return the data set with this name.

    Args:
        name: Key of ``CATALOG``.
        where: Argument or config key with the name, for the message.

    Raises:
        MedvisionError: If the name is unknown.
    """
    if name in CATALOG:
        return CATALOG[name]
    raise MedvisionError(
        f"unknown public data set {name}",
        where=where,
        hint=did_you_mean(name, CATALOG, otherwise=f"choose from {', '.join(CATALOG)}"),
    )


def needs_account(dataset: DataSet, root: str) -> MedvisionError:
    """Return the error with the manual steps for a data set that needs an account."""
    steps = [f"{n}. {step.replace('ROOT', root)}" for n, step in enumerate(dataset.steps, 1)]
    return MedvisionError(
        f"{dataset.title} cannot be downloaded automatically",
        where=dataset.home_page,
        hint="; ".join(steps),
    )


def list_text() -> str:
    """Format all data sets with terms and home page, for a screen of 80 columns."""
    width = max(map(len, CATALOG))
    lines = []
    for dataset in CATALOG.values():
        size = dataset.size if dataset.url else f"{dataset.size}, manual download"
        lines += [
            f"{dataset.name:<{width}}  {dataset.task:<14}  {dataset.num_images:>5} images  {size}",
            f"{'':<{width}}  {dataset.title}; licence: {dataset.licence}",
            f"{'':<{width}}  {dataset.home_page}",
        ]
    return "\n".join(lines)


def text_of(dataset: DataSet) -> str:
    """Format all properties of a data set, one per line."""
    facts = {
        "task": dataset.task,
        "images": str(dataset.num_images),
        "size": dataset.size,
        "licence": dataset.licence,
        "home page": dataset.home_page,
        "archive": dataset.url or "see the steps",
        "checksum": dataset.checksum or "not published; SHA-256 is recorded",
        "citation": dataset.citation,
        "note": dataset.note,
    }
    steps = [f"  {number}. {step}" for number, step in enumerate(dataset.steps, 1)]
    known = [f"  {name:<10} {fact}" for name, fact in facts.items() if fact]
    return "\n".join([dataset.title, *known, *steps])

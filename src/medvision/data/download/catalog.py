"""Catalogue of public data sets: addresses, sizes, licences and citations.

Every address, licence, size, count and checksum is stated by the home page, by the archive that
hosts the data set, by the publication or by a project that verifies it on every download; a value
that none of them states is None or empty. This module imports nothing heavy.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from medvision.errors import MedvisionError, did_you_mean

_SIMULA = "https://datasets.simula.no"
_GET = ("get the archive from the home page", "unpack it into ROOT")
_LUNGS = (
    "Jaeger et al., Two public chest X-ray datasets for computer-aided screening of pulmonary"
    " diseases, Quantitative Imaging in Medicine and Surgery 4 (2014),"
    " https://doi.org/10.3978/j.issn.2223-4292.2014.11.20"
)
_PAIRS = MappingProxyType({"images": "images", "masks": "masks"})


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """Public data set.

    Attributes:
        name: Name on the command line, and of its config if it has one.
        title: Name given by its authors.
        task: Task it is used for.
        home_page: Address of the authors' description.
        licence: Short terms of use; empty if they are not known for certain.
        citation: Publication to cite.
        num_images: Number of images, excluding masks; None if not known for certain.
        size_mb: Size of the archive; 10^6 bytes, rounded; None if not stated.
        url: Address of the archive; None if an account is needed.
        checksum: ``algorithm:hexadecimal digits`` of the archive, in pooch's format; None if not
            published.
        steps: Manual steps if an account is needed, with the destination of the files.
        layout: Source folder in the archive, by the end of its path, for each folder of the root;
            an empty name is the root itself.
        note: Remark for comparing results on it.
        groups: Images that belong together, such as those of a patient, where published.
        faults: Known faults of the set.
        keys: Keys that read it as its authors ship it, besides ``data.root``.
    """

    name: str
    title: str
    task: Literal["segmentation", "classification"]
    home_page: str
    licence: str
    citation: str
    num_images: int | None
    size_mb: int | None = None
    url: str | None = None
    checksum: str | None = None
    steps: tuple[str, ...] = ()
    layout: Mapping[str, str] = field(default_factory=dict)
    note: str = ""
    groups: str = ""
    faults: str = ""
    keys: tuple[str, ...] = ()

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
            "unpack it into ROOT, with its folders Original and Ground Truth",
        ),
        note="frames of 29 videos: neighbouring frames look alike, so a random split is optimistic",
        groups="29 video sequences of consecutive frames",
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
    DataSet(
        name="cvc_colondb",
        title="CVC-ColonDB",
        task="segmentation",
        home_page="https://polyp.grand-challenge.org/Databases/",
        licence="",
        citation="Bernal et al., Towards automatic polyp detection with a polyp appearance model,"
        " Pattern Recognition 45 (2012), https://doi.org/10.1016/j.patcog.2012.03.002",
        num_images=380,
        steps=_GET,
        groups="short colonoscopy videos, in the order of the numbers; their ends are not published"
        " with the files",
        faults="neighbouring frames are nearly identical, some with different outlines",
    ),
    DataSet(
        name="etis_larib",
        title="ETIS-Larib Polyp DB",
        task="segmentation",
        home_page="https://polyp.grand-challenge.org/EtisLarib/",
        licence="",
        citation="Silva et al., Toward embedded detection of polyps in WCE images for early"
        " diagnosis of colorectal cancer, International Journal of Computer Assisted Radiology and"
        " Surgery 9 (2014), https://doi.org/10.1007/s11548-013-0926-3",
        num_images=196,
        steps=_GET,
        keys=(
            "data.images=ETIS-LaribPolypDB",
            "data.masks=GroundTruth",
            r"data.mask_pattern=^(\d+)$",
            r"data.mask_template=p\1",
        ),
    ),
    DataSet(
        name="polypgen",
        title="PolypGen, single frames",
        task="segmentation",
        home_page="https://doi.org/10.7303/syn26376615",
        licence="",
        citation="Ali et al., A multi-centre polyp detection and segmentation dataset for"
        " generalisability assessment, Scientific Data 10, 75 (2023),"
        " https://doi.org/10.1038/s41597-023-01981-y",
        num_images=None,
        steps=_GET,
        groups="six centres, in the names of the folders",
        keys=(
            "data.images=data_C*/images_C*",
            "data.masks=data_C*/masks_C*",
            "data.mask_suffix=_mask",
        ),
    ),
    DataSet(
        name="isic_2018",
        title="ISIC 2018 task 1, boundaries of skin lesions",
        task="segmentation",
        home_page="https://challenge.isic-archive.com/data/#2018",
        licence="",
        citation="Codella et al., Skin Lesion Analysis Toward Melanoma Detection 2018,"
        " https://arxiv.org/abs/1902.03368; Tschandl et al., The HAM10000 dataset, Scientific Data"
        " 5, 180161 (2018), https://doi.org/10.1038/sdata.2018.161",
        num_images=2594,
        steps=_GET,
        keys=(
            "data.images=*_Training_Input",
            "data.masks=*_Training_GroundTruth",
            "data.mask_suffix=_segmentation",
        ),
    ),
    DataSet(
        name="ph2",
        title="PH2",
        task="segmentation",
        home_page="https://www.fc.up.pt/addi/ph2%20database.html",
        licence="",
        citation="Mendonca et al., PH2 - A dermoscopic image database for research and"
        " benchmarking, EMBC 2013, https://doi.org/10.1109/EMBC.2013.6610779",
        num_images=200,
        steps=_GET,
        keys=(
            "data.images=*/IMD*/IMD*_Dermoscopic_Image",
            "data.masks=*/IMD*/IMD*_lesion",
            "data.mask_suffix=_lesion",
        ),
    ),
    DataSet(
        name="drive",
        title="DRIVE, vessels of the retina",
        task="segmentation",
        home_page="https://drive.grand-challenge.org/",
        licence="",
        citation="Staal et al., Ridge-based vessel segmentation in color images of the retina, IEEE"
        " Transactions on Medical Imaging 23 (2004), https://doi.org/10.1109/TMI.2004.825627",
        num_images=40,
        steps=_GET,
        keys=(
            "data.images=*/images",
            "data.masks=*/1st_manual",
            r"data.mask_pattern=(\d+)_(training|test)",
            r"data.mask_template=\1_manual1",
            "data.roi=*/mask",
        ),
    ),
    DataSet(
        name="chase_db1",
        title="CHASE_DB1, vessels of the retina",
        task="segmentation",
        home_page="https://blogs.kingston.ac.uk/retinal/chasedb1/",
        licence="",
        citation="Fraz et al., An ensemble classification-based approach applied to retinal blood"
        " vessel segmentation, IEEE Transactions on Biomedical Engineering 59 (2012),"
        " https://doi.org/10.1109/TBME.2012.2205687",
        num_images=28,
        steps=_GET,
        groups="14 children, both eyes of each",
        keys=("data.annotator=1stHO", r"data.group_pattern=(Image_\d+)"),
    ),
    DataSet(
        name="stare",
        title="STARE, vessels of the retina",
        task="segmentation",
        home_page="https://cecas.clemson.edu/~ahoover/stare/",
        licence="",
        citation="Hoover et al., Locating blood vessels in retinal images by piecewise threshold"
        " probing of a matched filter response, IEEE Transactions on Medical Imaging 19 (2000),"
        " https://doi.org/10.1109/42.845178",
        num_images=20,
        steps=(*_GET, "unpack each file with gunzip"),
        keys=("data.images=stare-images", "data.masks=labels-*", "data.annotator=ah"),
    ),
    DataSet(
        name="hrf",
        title="High-Resolution Fundus, vessels of the retina",
        task="segmentation",
        home_page="https://www5.cs.fau.de/research/data/fundus-images/",
        licence="CC BY 4.0",
        citation="Budai et al., Robust Vessel Segmentation in Fundus Images, International Journal"
        " of Biomedical Imaging (2013), https://doi.org/10.1155/2013/154860",
        num_images=45,
        steps=_GET,
        keys=("data.images=images", "data.masks=manual1", "data.roi=mask"),
    ),
    DataSet(
        name="montgomery",
        title="Montgomery County chest X-rays, lungs",
        task="segmentation",
        home_page="https://lhncbc.nlm.nih.gov/LHC-downloads/dataset.html",
        licence="",
        citation=_LUNGS,
        num_images=138,
        steps=_GET,
        keys=(
            "data.images=*/CXR_png",
            "data.masks=*/ManualMask",
            "data.mask_merge=union",
        ),
    ),
    DataSet(
        name="shenzhen",
        title="Shenzhen chest X-rays, lungs",
        task="segmentation",
        home_page="https://lhncbc.nlm.nih.gov/LHC-downloads/dataset.html",
        licence="",
        citation=f"{_LUNGS}; masks: Stirenko et al., Chest X-Ray Analysis of Tuberculosis by Deep"
        " Learning with Segmentation and Augmentation, https://arxiv.org/abs/1803.01199",
        num_images=662,
        steps=(*_GET, "the masks are a set of their own: unpack them into ROOT/mask"),
        faults="some images have no mask",
        keys=(
            "data.images=CXR_png",
            "data.masks=mask",
            "data.mask_suffix=_mask",
            "data.on_error=skip",
        ),
    ),
    DataSet(
        name="busi",
        title="Breast ultrasound images (BUSI)",
        task="segmentation",
        home_page="https://scholar.cu.edu.eg/?q=afahmy/pages/dataset",
        licence="",
        citation="Al-Dhabyani et al., Dataset of breast ultrasound images, Data in Brief 28 (2020),"
        " https://doi.org/10.1016/j.dib.2019.104863",
        num_images=780,
        steps=_GET,
        groups="600 patients, not named in the files",
        faults="many near-duplicates; data.protocol=grouped keeps them together",
        keys=("data.task=segmentation",),
        note="without data.task it is read as the classes benign, malignant and normal",
    ),
    DataSet(
        name="dsb_2018",
        title="Data Science Bowl 2018, nuclei (BBBC038)",
        task="segmentation",
        home_page="https://bbbc.broadinstitute.org/BBBC038",
        licence="",
        citation="Caicedo et al., Nucleus segmentation across imaging experiments: the 2018 Data"
        " Science Bowl, Nature Methods 16 (2019), https://doi.org/10.1038/s41592-019-0612-7",
        num_images=670,
        steps=(*_GET[:1], "unpack stage1_train into ROOT"),
        faults="one mask file per nucleus; they are combined",
    ),
    DataSet(
        name="glas",
        title="GlaS, glands in colon histology (Warwick-QU)",
        task="segmentation",
        home_page="https://warwick.ac.uk/fac/cross_fac/tia/data/glascontest/",
        licence="",
        citation="Sirinukunwattana et al., Gland segmentation in colon histology images: The GlaS"
        " challenge contest, Medical Image Analysis 35 (2017),"
        " https://doi.org/10.1016/j.media.2016.08.008",
        num_images=165,
        steps=_GET,
        keys=("data.instances=true",),
        note="testA and testB, in the file names, are both the test split",
    ),
    DataSet(
        name="lgg_mri",
        title="Lower-grade gliomas in brain MRI (Buda)",
        task="segmentation",
        home_page="https://www.kaggle.com/datasets/mateuszbuda/lgg-mri-segmentation",
        licence="",
        citation="Buda et al., Association of genomic subtypes of lower-grade gliomas with shape"
        " features automatically extracted by a deep learning algorithm, Computers in Biology and"
        " Medicine 109 (2019), https://doi.org/10.1016/j.compbiomed.2019.05.002",
        num_images=3929,
        steps=_GET,
        groups="110 patients, in the names of the folders",
        keys=("data.task=segmentation", "data.group_pattern=(TCGA_[^/]+)/"),
    ),
    DataSet(
        name="ham10000",
        title="HAM10000, pigmented skin lesions",
        task="classification",
        home_page="https://doi.org/10.7910/DVN/DBW86T",
        licence="CC BY-NC 4.0",
        citation="Tschandl et al., The HAM10000 dataset, a large collection of multi-source"
        " dermatoscopic images of common pigmented skin lesions, Scientific Data 5, 180161 (2018),"
        " https://doi.org/10.1038/sdata.2018.161",
        num_images=10015,
        steps=(*_GET, "leave HAM10000_metadata.csv as the only table in ROOT"),
        groups="lesions, in the column lesion_id of the table",
    ),
    DataSet(
        name="medmnist",
        title="MedMNIST v2, each of its 2-D sets",
        task="classification",
        home_page="https://medmnist.com/",
        licence="CC BY 4.0; DermaMNIST CC BY-NC 4.0",
        citation="Yang et al., MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D"
        " biomedical image classification, Scientific Data 10, 41 (2023),"
        " https://doi.org/10.1038/s41597-022-01721-8",
        num_images=None,
        steps=(
            "put the npz file of one set into ROOT",
            "several in ROOT: set data.images=NAME.npz",
        ),
        faults="ChestMNIST has several labels per image, which are not read",
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
        count = "" if dataset.num_images is None else f"{dataset.num_images:>5} images"
        lines += [
            f"{dataset.name:<{width}}  {dataset.task:<14}  {count:<12}  {size}".rstrip(),
            f"{'':<{width}}  {dataset.title}; licence: {dataset.licence or 'see the home page'}",
            f"{'':<{width}}  {dataset.home_page}",
        ]
        if dataset.keys:
            lines.append(f"{'':<{width}}  keys: {' '.join(map(shlex.quote, dataset.keys))}")
    return "\n".join(lines)


def text_of(dataset: DataSet) -> str:
    """Format all properties of a data set, one per line."""
    facts = {
        "task": dataset.task,
        "images": "" if dataset.num_images is None else str(dataset.num_images),
        "size": dataset.size,
        "licence": dataset.licence or "see the home page",
        "home page": dataset.home_page,
        "archive": dataset.url or "see the steps",
        "checksum": dataset.checksum or "not published; SHA-256 is recorded",
        "citation": dataset.citation,
        "groups": dataset.groups,
        "faults": dataset.faults,
        "keys": " ".join(map(shlex.quote, dataset.keys)),
        "note": dataset.note,
    }
    steps = [f"  {number}. {step}" for number, step in enumerate(dataset.steps, 1)]
    known = [f"  {name:<10} {fact}" for name, fact in facts.items() if fact]
    return "\n".join([dataset.title, *known, *steps])

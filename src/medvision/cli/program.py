"""Commands and their arguments; slow imports wait until a command needs them."""

import functools
import itertools
import sys
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import medvision
from medvision.command_line import medvision_command, training
from medvision.console import unread_output
from medvision.errors import MedvisionError, printable
from medvision.types import RESEARCH_ONLY

data_app = typer.Typer(help="List and download public data sets; pack a folder into shards.")


GroupPattern = Annotated[
    str | None,
    typer.Option(help=r"regular expression for the patient in a path, such as '(person\d+)_'"),
]
MaskSuffix = Annotated[str, typer.Option(help="suffix of the mask names, such as _mask")]
Keys = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE...", help="keys of a training, such as data.mask_suffix=_mask"
    ),
]
Splits = Annotated[
    Path | None, typer.Option(metavar="CSV", help="table of splits, anywhere on the disk")
]
NumClasses = Annotated[
    int | None,
    typer.Option(
        min=2,
        max=255,
        help="classes in the masks, including the background",
        show_default="2",
    ),
]
"""Options that several commands have."""

MEGABYTE = 10**6


@data_app.command("list")
def data_list() -> None:
    """List the public data sets: name, task, size, licence and home page."""
    from medvision.console import print_line
    from medvision.data.download.catalog import list_text

    for line in list_text().splitlines():
        print_line(line)


@data_app.command("download")
def data_download(
    name: Annotated[str, typer.Argument(metavar="NAME", help="see `medvision data list`")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="new folder for the data set")],
) -> None:
    """Download a data set, verify it and arrange it for medvision."""
    from medvision.console import counted, print_line
    from medvision.data.download.catalog import find, text_of
    from medvision.data.download.download import download

    for line in text_of(find(name)).splitlines():
        print_line(line)
    done = download(name, root, report=print_line)
    where = root.expanduser()
    files = counted(done["num_files"], "file")
    print_line(f"{files} in {where}; SHA-256 of the download {done['sha256']}")


@data_app.command("phantoms")
def data_phantoms(
    name: Annotated[Literal["polyps", "chest_xray", "brain_mri"], typer.Argument(metavar="NAME")],
    root: Annotated[Path, typer.Option(metavar="DIR", help="new folder for the images")],
    num_images: Annotated[int, typer.Option(min=1, help="number of images")] = 120,
    size_px: Annotated[int, typer.Option(min=16, max=2048, help="height and width")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="seed of the drawing")] = 0,
) -> None:
    """Draw polyps, chest_xray or brain_mri phantoms as files, to try commands on a folder."""
    from medvision.console import counted, print_line
    from medvision.data.phantoms.folder import write_phantoms

    write_phantoms(name, root, num_images=num_images, size_px=size_px, seed=seed)
    print_line(f"{counted(num_images, 'drawn image')} in {root}; no patient is shown")


@data_app.command("inspect")
def data_inspect(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="folder of a data set")],
    keys: Keys = None,
    splits: Splits = None,
) -> None:
    """Print what a folder is read as, and the commands to audit it and to train on it."""
    from medvision.console import print_line
    from medvision.data.discovery.description import inspect_folder
    from medvision.data.discovery.keys import parse_keys
    from medvision.metrics.agreement import annotator_agreement

    _refuse_shards(root, "inspect reads a folder of images", hint="inspect the folder before it")
    given = parse_keys(keys or [], splits=splits)
    compare = functools.partial(annotator_agreement, num_classes=given.reading.num_classes or 2)
    for line in inspect_folder(root, given, typed=keys or [], agreement=compare):
        print_line(line)


@data_app.command(
    "shard",
    help="Pack a folder into WebDataset tar files that training reads from disk or network. Files"
    " are stored unchanged, and the folder is not modified. The shards contain the file names and"
    " groups, including any patient identifiers in them.",
)
def data_shard(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="class folders, or images + masks")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="folder for the shards, new or empty")],
    keys: Keys = None,
    task: Annotated[
        Literal["segmentation", "classification"] | None,
        typer.Option(help="default: from the layout of the folder"),
    ] = None,
    shard_mb: Annotated[int, typer.Option(min=1, help="largest size of a shard, in MB")] = 256,
    group_pattern: GroupPattern = None,
    mask_suffix: MaskSuffix = "",
    splits: Splits = None,
    num_classes: NumClasses = None,
    color: Annotated[
        list[str] | None,
        typer.Option(metavar="R,G,B", help="colour of a class in the masks; repeat for each class"),
    ] = None,
    value_range: Annotated[
        tuple[float, float] | None,
        typer.Option(help="values shown as black and white, for files of more than 8 bits"),
    ] = None,
    on_error: Annotated[
        Literal["fail", "skip"],
        typer.Option(help="fail on an unusable file, or skip and report it"),
    ] = "fail",
) -> None:
    """Create the shards, and print their number and the command to train on them."""
    from medvision.cli.screen import SHARD_OPTIONS, options_in_errors, with_options
    from medvision.console import counted, print_line, progress_bar
    from medvision.data.discovery.keys import parse_keys
    from medvision.data.shards.create import make_shards

    color_map = [_color(text) for text in color or []] or None
    given = parse_keys(
        keys or [],
        task=task,
        group_pattern=group_pattern,
        mask_suffix=mask_suffix,
        num_classes=num_classes if color_map is None else len(color_map),
        color_map=color_map,
        value_range=value_range,
        splits=splits,
    )
    if given.group_by is not None:
        raise MedvisionError(
            "shards hold the groups of files that name them",
            where="data.group_by",
            hint="give it to the training on the shards",
        )
    with progress_bar() as advance, options_in_errors(SHARD_OPTIONS):
        made = make_shards(
            root,
            out,
            keys=given.folder,
            reading=given.reading,
            splits=given.splits,
            shard_bytes=shard_mb * MEGABYTE,
            group_pattern=given.group_pattern,
            on_error=on_error,
            advance=advance,
        )
    manifest = made.manifest
    for note in manifest.notes:
        print_line(f"note: {with_options(note, SHARD_OPTIONS)}")
    print_line(
        f"{counted(len(manifest.shards), 'shard')}, {counted(manifest.num_images, 'image')}"
        f"{' with masks' if manifest.has_masks else ''},"
        f" {made.num_bytes / MEGABYTE:.1f} MB"
    )
    print_line(f"train on them: {training('experiment=NAME', f'data.root={made.out}')}")


def _color(text: str) -> tuple[int, int, int]:
    parts = text.split(",")
    if len(parts) != 3 or not all(p.strip().isdecimal() and int(p) < 256 for p in parts):
        raise MedvisionError(
            f"{text} is not a valid colour",
            where="--color",
            hint="give red,green,blue from 0 to 255",
        )
    red, green, blue = (int(part) for part in parts)
    return red, green, blue


app = typer.Typer(
    help=f"Train, check and compare 2-D medical-image models. {RESEARCH_ONLY}",
    add_completion=False,
)
app.add_typer(data_app, name="data")

ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Base of typer's usage errors: newer releases carry their own click inside."""


INTERRUPTED = 130
"""Exit code that typer makes of Ctrl-C."""


MOST_FAILURES = 20
"""Unreadable files named one by one; the table of results names them all."""


@app.callback(invoke_without_command=True)
def _no_verb(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="print the version and exit")] = False,
) -> None:
    """Print the help when no verb is given, or the version."""
    if version:
        typer.echo(f"medvision {medvision.__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="Train and test a model; the same as `python train.py` in a checkout.",
)
def train(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...")] = None,
) -> None:
    """Pass the overrides to the Hydra program."""
    from medvision.run import main as train_main

    raise typer.Exit(train_main(arguments or []))


def _trust(packages: list[str] | None) -> list[str] | None:
    """Let the run name classes of these packages."""
    from medvision.registry import trust

    trust(packages or [])
    return packages


Trust = Annotated[
    list[str] | None,
    typer.Option(
        "--trust",
        metavar="PACKAGE",
        callback=_trust,
        is_eager=True,
        expose_value=False,
        help="your own package with classes of the run; may be repeated",
    ),
]


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="run, .ckpt, .onnx, ...")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE_OR_FOLDER...")],
    out: Annotated[Path, typer.Option(help="folder for the results, new or empty")],
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="write foreground probabilities as PNG too")
    ] = False,
    overlays: Annotated[bool, typer.Option(help="write the image with contours")] = True,
    tta: Annotated[bool, typer.Option("--tta", help="average over mirrored images")] = False,
    explain: Annotated[
        bool, typer.Option("--explain", help="write Grad-CAM heat maps (classifiers)")
    ] = False,
    format: Annotated[  # noqa: A002  the option's name
        Literal["coco", "labelme"] | None,
        typer.Option(help="also write the masks as polygons that annotation tools open"),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="images per batch")] = 8,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="write into a folder that is not empty")
    ] = False,
    trust: Trust = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Predict masks or classes of new images of any size; write overlays and a table."""
    from medvision.console import counted, print_line, progress_bar
    from medvision.hardware import keep_freed_memory
    from medvision.inference import load_model, predict_files
    from medvision.inference.load import unfinished_note

    for path in images:
        _refuse_shards(path, "predict reads image files", hint="unpack them first: tar -xf SHARD")
    keep_freed_memory()
    loaded = load_model(model)
    print_line(f"{loaded!r}")
    if (unfinished := unfinished_note(model)) is not None:
        print_line(f"note: {unfinished}")
    if loaded.card.synthetic:
        print_line("note: the model learned from phantoms; its results on real images mean nothing")
    with progress_bar(transient=False) as advance:
        done = predict_files(
            loaded,
            images,
            out=out,
            probabilities=probabilities,
            overlays=overlays,
            tta=tta,
            explain=explain,
            shapes_format=format,
            batch_size=batch_size,
            overwrite=overwrite,
            advance=functools.partial(advance, "predict"),
        )
    for note in done.notes:
        print_line(f"note: {note}")
    if done.num_done:
        rate = done.num_done / done.seconds if done.seconds else 0
        print_line(
            f"{counted(done.num_done, 'image')} in {done.seconds:.1f} s, {rate:.1f} images/s"
        )
    print_line(RESEARCH_ONLY)
    print_line(str(out))
    if not done.failures:
        return
    total = done.num_done + len(done.failures)
    for path, reason in done.failures[:MOST_FAILURES]:
        sys.stderr.write(printable(f"not processed: {path}: {reason}\n"))
    sys.stderr.write(
        f"error: {len(done.failures)} of {counted(total, 'image')} could not be processed"
        f" ({out / 'predictions.csv'}, column error); fix or remove them\n"
    )
    raise typer.Exit(1)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a finished run")],
    keys: Keys = None,
    data: Annotated[
        str | None, typer.Option(metavar="ROOT", help="another data set of the same kind")
    ] = None,
    split: Annotated[
        Literal["test", "val", "all"] | None,
        typer.Option(help="test, val or all; default: test, or all if ROOT has no split"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="default: RUN/evaluation/...")] = None,
    conventions: Annotated[
        bool,
        typer.Option(
            "--conventions", help="also score the predictions by the conventions of other tools"
        ),
    ] = False,
    accelerator: Annotated[
        str | None, typer.Option(help="cpu, gpu, tpu or tpu_rehearsal; default: that of the run")
    ] = None,
    splits: Splits = None,
    trust: Trust = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Evaluate a finished run on its test images or on another data set."""
    from medvision.data.discovery.keys import parse_keys
    from medvision.run.evaluation.evaluate import evaluate_run

    given = parse_keys(keys or [], splits=None if splits is None else str(splits)).given
    summary = evaluate_run(
        run,
        root=data,
        split=split,
        out=out,
        conventions=conventions,
        accelerator=accelerator,
        keys=given,
    )
    if conventions and summary.get("conventions"):
        from medvision.cli.screen import print_conventions

        print_conventions(summary["conventions"])


@app.command()
def export(
    model: Annotated[Path, typer.Argument(metavar="RUN|MODEL", help="a run folder or a .ckpt")],
    format: Annotated[  # noqa: A002  the option's name
        Literal["onnx", "safetensors", "web"],
        typer.Option(help="file format; web: a folder with a page that runs the model"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="default: beside the checkpoint; for web a new folder")
    ] = None,
    images: Annotated[
        list[Path] | None, typer.Option(help="images for the check; default: test images")
    ] = None,
    ort: Annotated[
        Path | None,
        typer.Option(help="web: folder or .tgz of onnxruntime-web; default: fetch it once"),
    ] = None,
    trust: Trust = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Export a model to ONNX, safetensors or a web page; compare its outputs with the original."""
    from medvision.console import print_line
    from medvision.export import default_name, export_model

    if format == "web":
        from medvision.export.web import export_page

        if out is None:
            raise MedvisionError(
                "expected a folder for the page", where="--out", hint="add --out DIR, a new folder"
            )
        export_page(model, out=out, runtime=ort, images=images or [], report=print_line)
        return
    if ort is not None:
        raise MedvisionError("--ort is for --format web", where="--ort", hint="remove it")
    out = out or default_name(model, format)
    export_model(model, format=format, out=out, images=images or [], report=print_line)


@app.command()
def serve(
    models: Annotated[
        list[Path], typer.Argument(metavar="RUN|MODEL [RUN2]", help="two are shown side by side")
    ],
    address: Annotated[
        str, typer.Option(help="address to listen on; other than this machine's own need a token")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one")] = 8501,
    save: Annotated[
        Path, typer.Option(metavar="DIR", help="folder for corrected masks, as training pairs")
    ] = Path("corrections"),
    largest_mb: Annotated[int, typer.Option(min=1, help="largest uploaded file, in MB")] = 64,
    trust: Trust = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Try models in the browser: an app on this machine. Needs the extra `app`."""
    from medvision.app.server import serve as serve_app
    from medvision.console import print_line

    serve_app(
        models, address=address, port=port, save=save, largest_mb=largest_mb, report=print_line
    )


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN RUN...")],
    out: Annotated[Path, typer.Option(help="folder for the page and tables")] = Path("comparison"),
    trust: Trust = None,  # noqa: ARG001  its callback has read it
) -> None:
    """Compare runs on the same test images, with confidence intervals and p-values."""
    from medvision.comparison import compare as comparing
    from medvision.console import print_line

    comparing.print_comparison(comparing.compare(runs, out=out))
    print_line(str(out))


@app.command()
def audit(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="class folders, or images + masks")],
    keys: Keys = None,
    against: Annotated[
        Path | None,
        typer.Option(metavar="ROOT2", help="test set to compare with ROOT, its training set"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="default: audit/<name of ROOT>, with --against audit/<ROOT>-against-<ROOT2>",
        ),
    ] = None,
    group_pattern: GroupPattern = None,
    mask_suffix: MaskSuffix = "",
    num_classes: NumClasses = None,
    splits: Splits = None,
) -> None:
    """Check a data set for duplicates, leaks, contradicting labels and shortcuts."""
    from medvision.audit import check
    from medvision.audit.dataset import scan
    from medvision.audit.report import check_out, write_audit
    from medvision.cli.screen import AUDIT_OPTIONS, options_in_errors, print_audit
    from medvision.console import print_line, progress_bar
    from medvision.data.discovery.description import reading_lines
    from medvision.data.discovery.keys import anchored, parse_keys

    given = parse_keys(
        keys or [],
        group_pattern=group_pattern,
        mask_suffix=mask_suffix,
        num_classes=num_classes,
        splits=splits,
    )
    roots = [root] if against is None else [root, against]
    for path in roots:
        _refuse_shards(
            path,
            "the audit reads a folder of images",
            hint="audit the folder they were made from; a training on shards includes the audit",
        )
    started = time.perf_counter()
    names = [path.expanduser().resolve().name or "root" for path in roots]
    audited = None
    if out is None:  # named after the folders: others may have the same names
        out = Path("audit") / "-against-".join(names)
        audited = [anchored(path, given.folder)[0] or path for path in roots]
    check_out(out, [path.expanduser() for path in roots], audited=audited)
    with progress_bar() as advance:
        advance("read", 0, None)
        with options_in_errors(AUDIT_OPTIONS):
            data = scan(
                root,
                against=against,
                group_pattern=given.group_pattern,
                group_by=given.group_by,
                splits=given.splits,
                keys=given.folder,
                reading=given.reading,
                num_classes=given.reading.num_classes or 2,
                advance=functools.partial(advance, "read"),
            )
        advance("compare", 0, None)
        found = check.audit(data, started=started)
        files = write_audit(found, out)
    for index in data.indices:
        for line in reading_lines(index):
            print_line(line)
    print_audit(found)
    for path in files:
        print_line(str(path))
    raise typer.Exit(found.exit_code)


def _refuse_shards(path: Path, what: str, *, hint: str) -> None:
    """Raise an error if a command that reads plain files is given shards."""
    from medvision.data.shards.location import holds_shards

    if holds_shards(path.expanduser()):
        raise MedvisionError(f"{what}, got shards", where=str(path), hint=hint)


def main() -> None:
    """Run the command; every error is one line, with the exit code of its kind."""
    from medvision.run.quick_imports import defer_unused

    defer_unused()
    with unread_output():
        code = _code()
    sys.exit(code)


def _refuse_empty(arguments: list[str]) -> None:
    """Raise an error for an empty argument, which would be read as the current folder."""
    for before, argument in itertools.pairwise(["", *arguments]):
        if not argument and before != "--mask-suffix":
            raise MedvisionError(
                "an argument is empty",
                where="command line",
                hint="give a value; is a variable of the shell not set?",
            )


def _code() -> int:
    try:
        _refuse_empty(sys.argv[1:])
        code = int(app(standalone_mode=False) or 0)
        sys.stdout.flush()
    except ClickException as error:
        message = " ".join(error.format_message().split()).rstrip(".").replace("Value error, ", "")
        path = str(getattr(getattr(error, "ctx", None), "command_path", ""))
        command = " ".join([medvision_command(), *path.rpartition("medvision")[2].split()])
        hint = f"see {command} --help"
        if message == "Missing option '--out'":
            hint = f"name a new folder, such as --out results; {hint}"
        sys.stderr.write(f"error: {message} (command line); {hint}\n")
        return 2
    except Exception as error:
        from medvision.run.processes.errors import report

        return report(error)
    if code == INTERRUPTED and sys.argv[1] != "train":  # which has reported it itself
        sys.stderr.write("interrupted\n")
    return code

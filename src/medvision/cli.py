"""The ``medvision`` command: argument parsing only, each verb one call."""

import sys
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Train, check and compare 2-D medical-image models. For research use only.",
    add_completion=False,
)


ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")
"""Base of typer's usage errors: newer releases carry their own click inside."""


@app.callback(invoke_without_command=True)
def _no_verb(context: typer.Context) -> None:
    """Print the help when no verb is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    help="Train, test and write a run folder, as `python train.py` does in a checkout.",
)
def train(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE...")] = None,
) -> None:
    """Hand the overrides to the one Hydra program."""
    from medvision.run import main as train_main

    raise typer.Exit(train_main(arguments or []))


def main() -> None:
    """Run the command; usage errors are one line with exit code 2."""
    try:
        code = app(standalone_mode=False)
    except ClickException as error:
        message = error.format_message().rstrip(".")
        sys.stderr.write(f"error: {message} (command line); see medvision --help\n")
        code = 2
    sys.exit(code)

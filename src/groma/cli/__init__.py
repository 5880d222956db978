"""The command line: `groma ask`, `groma train` and so on. The only place that knows tyro.

    arguments --tyro--> a frozen dataclass, one class a command --its run()--> exit status
    GromaError -> one sentence on standard error, status 2; Ctrl-C -> 130; a fault of ours -> 1

Nothing heavy is imported before a command runs, so that `--help` is instant.
"""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import tyro

from groma.cli.arguments import spell_out_regions
from groma.cli.bench import Bench
from groma.cli.boundary import guarded
from groma.cli.curate import Curate
from groma.cli.data import Data
from groma.cli.evaluate import Evaluate
from groma.cli.label import Label
from groma.cli.models import Convert, Export, ExportLanguage, Info, Init
from groma.cli.output import version_line, write_line
from groma.cli.pictures import Ask, Describe, Locate, Regions
from groma.cli.serve import Serve
from groma.cli.train import Train, run_training

COMMANDS = (
    Annotated[Ask, tyro.conf.subcommand("ask")]
    | Annotated[Locate, tyro.conf.subcommand("locate")]
    | Annotated[Describe, tyro.conf.subcommand("describe")]
    | Annotated[Regions, tyro.conf.subcommand("regions")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Data, tyro.conf.subcommand("data")]
    | Annotated[Curate, tyro.conf.subcommand("curate")]
    | Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Label, tyro.conf.subcommand("label")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[Convert, tyro.conf.subcommand("convert")]
    | Annotated[Init, tyro.conf.subcommand("init")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[ExportLanguage, tyro.conf.subcommand("export-language")]
    | Annotated[Info, tyro.conf.subcommand("info")]
)
"""Every command; the class says what it takes, its `run` does it."""

DESCRIPTION = "Groma: ask about a picture, get phrases tied to boxes. `groma COMMAND --help` explains a command."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: What follows `groma`; None: the process's own.

    Returns:
        0; 1 for a fault of this program; 2 for something the user can mend; 130 after Ctrl-C.
    """
    return guarded(_dispatch, list(sys.argv[1:] if arguments is None else arguments))


def _dispatch(arguments: list[str]) -> int:
    match arguments:
        case ["--version" | "-V"]:
            write_line(version_line())
            return 0
        case ["train", recipe, *rest] if not recipe.startswith("-"):
            return run_training(recipe, rest)  # its flags are the recipe's fields: tyro needs the recipe first
    return parse(arguments).run()


def parse(arguments: list[str]) -> Any:
    """Arguments -> the command they name, of COMMANDS; exits with status 2 if they name none."""
    return tyro.cli(
        COMMANDS,
        prog="groma",
        description=DESCRIPTION,
        args=spell_out_regions(arguments),
        config=(tyro.conf.OmitSubcommandPrefixes,),
    )

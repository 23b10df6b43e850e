"""``finetune``: the commands together, and errors turned into exit codes."""

from __future__ import annotations

import sys

import click

from finetune_pipeline import __version__
from finetune_pipeline.cli.ask_data import ask_data
from finetune_pipeline.cli.check import check
from finetune_pipeline.cli.export import export
from finetune_pipeline.cli.output import DONE, ERROR, problem
from finetune_pipeline.cli.report import report
from finetune_pipeline.cli.run import run
from finetune_pipeline.cli.schema import schema
from finetune_pipeline.cli.show import show
from finetune_pipeline.cli.ui import ui
from finetune_pipeline.findings import FindingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """From raw examples to a fine-tuned model that is proven better.

    Exit codes: 0 done, 1 error, 2 a gate said no.
    """


for command in (check, run, report, ask_data, show, schema, ui, export):
    cli.add_command(command)


def main() -> None:
    """Entry point. Known errors become one readable message; bugs keep their traceback. Both exit with 1."""
    try:
        code = cli.main(prog_name="finetune", standalone_mode=False)
    except click.exceptions.Abort:
        problem("stopped")
        sys.exit(ERROR)
    except click.ClickException as error:
        error.show()
        sys.exit(ERROR)
    except FindingsError as error:
        problem(str(error))
        sys.exit(ERROR)
    sys.exit(code if isinstance(code, int) else DONE)


if __name__ == "__main__":
    main()

"""``finetune``: the commands together, and errors turned into exit codes."""

from __future__ import annotations

import difflib
import importlib
import sys

import click

from finetune_pipeline import __version__
from finetune_pipeline.cli.output import DONE, ERROR, problem, words_of
from finetune_pipeline.findings import FindingsError

COMMANDS = (
    "check",
    "advise",
    "plan",
    "run",
    "report",
    "review",
    "ask-data",
    "judge",
    "show",
    "schema",
    "ui",
    "export",
    "rollback",
    "serve",
    "forget",
    "automate",
)
"""Each is the function of this name (- is _) in the module of this name, imported when it is asked for: `check` starts in a third
of the time that `run`, which needs Dagster, takes."""


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        function = name.replace("-", "_")
        command: click.Command = getattr(importlib.import_module(f"finetune_pipeline.cli.{function}"), function)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and (near := difflib.get_close_matches(args[0], COMMANDS, 1, 0.5)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {near[0]!r}?")
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """From raw examples to a fine-tuned model that is proven better.

    Exit codes: 0 done, 1 error, 2 a gate said no.
    """


def main() -> None:
    """Entry point. Known errors, a full disk and an MLflow that is away become one readable message; bugs keep their
    traceback. Both exit with 1."""
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
    except Exception as error:
        words = words_of(error)
        if words is None:
            raise
        problem(words)
        sys.exit(ERROR)
    sys.exit(code if isinstance(code, int) else DONE)


if __name__ == "__main__":
    main()

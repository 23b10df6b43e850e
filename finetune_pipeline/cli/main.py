"""``finetune``: the command group, and the mapping from errors to exit codes."""

import ast
import builtins
import difflib
import importlib
import keyword
import re
import sys
from pathlib import Path

import click

from finetune_pipeline import __version__
from finetune_pipeline.cli.output import DONE, failure, json_only, noticed, problem, usable_streams

COMMANDS = {
    "init": "tickets.csv",
    "try": "tickets.csv",
    "check": "tickets",
    "advise": "tickets --measure",
    "plan": "tickets --calls-per-month 100000",
    "run": "tickets --stage data",
    "list": "--json",
    "report": "tickets --ask-data --to requests",
    "review": "tickets --page review.html",
    "show": "tickets",
    "ui": "--dagster-port 3001",
    "export": "tickets --for vllm --to model",
    "rollout": "tickets --step",
    "rollback": "tickets --reason 'wrong refunds'",
    "serve": "tickets --port 8001",
    "forget": "tickets --user u17",
    "automate": "tickets --on",
    "doctor": "--json",
    "docs": "training",
    "mcp": "--allow-runs",
}
"""Each names a function and its module (a keyword or built-in name of Python gets a trailing _), and has the arguments of an
example. A module is imported when its command is called, because most take seconds."""

GONE = {
    "ladder": "finetune advise TASK --measure",
    "ask-data": "finetune report TASK --ask-data",
    "costs": "finetune plan TASK --costs",
    "versus": "finetune report TASK --versus",
    "cluster": "ray start --head",
    "schema": "finetune show --schema task.yaml",
    "verify": "finetune export TASK --verify URL",
}
"""What to use instead of commands of the last release."""


def _function(command: str) -> str:
    return command + "_" * (keyword.iskeyword(command) or hasattr(builtins, command))


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        function = _function(name)
        command: click.Command = getattr(importlib.import_module(f"finetune_pipeline.cli.{function}"), function)
        command.epilog = f"Example: finetune {name} {COMMANDS[name]}"
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in GONE:
            ctx.fail(f"`finetune {args[0]}` is gone: use `{GONE[args[0]]}`")
        if args and args[0] not in COMMANDS and (suggestions := difflib.get_close_matches(args[0], COMMANDS, 1, 0.5)):
            ctx.fail(f"No such command {args[0]!r}. Did you mean {suggestions[0]!r}?")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands in ``--help``, read from their source."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in COMMANDS])


def _summary(command: str) -> str:
    """The start of the command's docstring, up to a period, colon or semicolon, without importing it."""
    function = _function(command)
    for node in ast.parse(Path(__file__).with_name(f"{function}.py").read_text("utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return re.split(r"[.:;](?: |$)", " ".join((ast.get_docstring(node) or "").split()))[0]
    raise LookupError(f"there is no function {function} in {function}.py")


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
def cli() -> None:
    """From raw examples to a fine-tuned model that is proven better.

    Exit codes: 0 done, 1 error, 2 a gate said no.
    """


def main() -> None:
    """Entry point. Known errors, outside faults and Ctrl-C become one readable message; bugs keep their traceback. All
    exit with 1. With ``--json`` standard output is one JSON document, whatever happens."""
    usable_streams()
    with noticed(), json_only("--json" in sys.argv[1:]) as answer:
        try:
            code = cli.main(prog_name="finetune", standalone_mode=False)
            answer.code = code if isinstance(code, int) else DONE
        except SystemExit:  # click: the reader of our output closed the pipe
            pass
        except BaseException as error:
            message = failure(error)
            if message is None:
                raise
            problem(message)
    sys.exit(answer.code)


if __name__ == "__main__":
    main()

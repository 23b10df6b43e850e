"""``finetune advise`` ends with a command: one for every decision, which the command line takes."""

import shlex

import pytest

from finetune_pipeline.baseline.decision import DECISIONS
from finetune_pipeline.cli.advise import NEXT, next_command
from finetune_pipeline.cli.main import cli


def test_every_decision_has_a_command() -> None:
    assert NEXT.keys() == DECISIONS.keys()


@pytest.mark.parametrize("decision", DECISIONS)
def test_the_command_is_one_that_the_command_line_takes(decision: str) -> None:
    program, name, *arguments = shlex.split(next_command(decision, "tickets"))
    command = cli.get_command(cli.make_context(program, [], resilient_parsing=True), name)
    assert program == "finetune" and command is not None
    assert command.make_context(name, arguments).params["task"] == "tickets"


def test_what_a_run_would_not_ship_is_exported_or_costed() -> None:
    assert next_command("simple", "tickets") == "finetune run tickets"
    assert next_command("simple", "tickets", run_ships_it=False) == "finetune export tickets --simple --to DIR"
    assert next_command("retrieve", "tickets", run_ships_it=False) == "finetune plan tickets --costs"
    assert next_command("fine_tune", "tickets", run_ships_it=False) == "finetune run tickets"

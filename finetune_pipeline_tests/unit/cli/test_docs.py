"""The documentation is part of the wheel, and what messages cite is there."""

import ast
import itertools
import re
import zipfile
from pathlib import Path
from typing import Any

import click

from finetune_pipeline.cli.docs import pages
from finetune_pipeline.cli.main import GONE, cli
from finetune_pipeline_tests import wheel

PACKAGE = wheel.ROOT / "finetune_pipeline"


def texts(path: Path) -> list[str]:
    """Every string of a module that is no docstring."""
    tree = ast.parse(path.read_text("utf-8"))
    strings = [node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)]
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in strings
    ]


def test_the_wheel_holds_every_page_as_it_is(tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel.build(tmp_path)) as built:
        packed = {name: built.read(name) for name in built.namelist() if name.startswith("finetune_pipeline/docs/")}
    there = {f"finetune_pipeline/docs/{page.name}": page.read_bytes() for page in (wheel.ROOT / "docs").glob("*.md")}
    assert packed == there and "finetune_pipeline/docs/guide.md" in packed


def test_messages_cite_pages_that_every_installation_has() -> None:
    cited: dict[str, list[str]] = {"file": [], "page": []}
    for path in PACKAGE.rglob("*.py"):
        for text in texts(path):
            cited["file"] += re.findall(r"\bdocs/\w+\.md", text)
            cited["page"] += re.findall(r"finetune docs (\w+)", text)
    assert cited["file"] == [] and len(cited["page"]) > 5
    assert set(cited["page"]) <= pages().keys()


_PLACEHOLDER = "\N{BULLET}"


def sentences(path: Path) -> list[str]:
    """Every string of a module that is no docstring, with a mark in place of each value."""
    if path.suffix == ".md":
        return [path.read_text("utf-8")]
    tree = ast.parse(path.read_text("utf-8"))
    docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    joined = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
    parts = {part for node in joined for part in node.values}
    plain = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [
        *(str(node.value) for node in plain if node not in docstrings and node not in parts),
        *("".join(str(getattr(part, "value", "")) if isinstance(part, ast.Constant) else _PLACEHOLDER for part in node.values)
          for node in joined),
    ]  # fmt: skip


def command_problems(text: str) -> list[str]:
    """What is wrong with the commands that a text cites, in backticks or behind a colon."""
    problems = []
    context = click.Context(cli)
    for cited in re.findall(r"(?:`|: )finetune ([^`:;,()]+)", " ".join(text.split())):
        name, *arguments = re.sub(r"['\"\\]", "", cited).split()
        if _PLACEHOLDER in name or name.startswith(("-", "[")) or not name.islower():
            continue
        command = cli.get_command(context, name)
        if command is None:
            problems += [] if name in GONE else [f"no command: finetune {cited}"]
            continue
        options = {option: param for param in command.params for option in (*param.opts, *param.secondary_opts)}
        for argument, value in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
            option, _, given = argument.strip("[](),.").partition("=")
            if not option.startswith("--") or option == "--help":
                continue
            value = (given or value).strip("[](),.")
            if option not in options:
                problems.append(f"no option {option}: finetune {cited}")
            elif isinstance(options[option].type, click.Choice) and value.islower() and _PLACEHOLDER not in value:
                wrong = set(value.split("|")) - set(options[option].type.choices)
                problems += [f"no choice {value} of {option}: finetune {cited}"] if wrong else []
    return problems


def test_commands_that_messages_and_pages_cite_exist_with_their_options() -> None:
    assert command_problems("run `finetune run t --stage logs`, `finetune rum t`, `finetune plan t --cost`") == [
        "no choice logs of --stage: finetune run t --stage logs",
        "no command: finetune rum t",
        "no option --cost: finetune plan t --cost",
    ]
    files = [*PACKAGE.rglob("*.py"), *(wheel.ROOT / "docs").glob("*.md"), wheel.ROOT / "README.md"]
    texts_of = {file: sentences(file) for file in files}
    problems = {
        f"{file.name}: {problem}"
        for file, found in texts_of.items()
        for text in found
        for problem in command_problems(text)
    }
    assert problems == set()
    assert sum(text.count("`finetune ") for found in texts_of.values() for text in found) > 200


def test_a_page_is_printed_and_a_wrong_name_is_corrected(finetune: Any) -> None:
    listed = finetune("docs", "--json").json["pages"]
    assert [page["name"] for page in listed] == list(pages()) and listed[0]["title"] == "Guide"
    assert all(Path(page["file"]).is_file() for page in listed)
    printed = finetune("docs", "docs/training.md").stdout
    assert printed.strip() == (wheel.ROOT / "docs/training.md").read_text("utf-8").strip()
    wrong = finetune("docs", "trainings")
    assert wrong.returncode == 1 and "fix: use training" in wrong.stderr

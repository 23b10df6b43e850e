"""The documentation is part of the wheel, and what messages cite is there."""

import ast
import re
import zipfile
from pathlib import Path
from typing import Any

from finetune_pipeline.cli.docs import pages
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


def test_a_page_is_printed_and_a_wrong_name_is_corrected(finetune: Any) -> None:
    listed = finetune("docs", "--json").json["pages"]
    assert [page["name"] for page in listed] == list(pages()) and listed[0]["title"] == "Guide"
    assert all(Path(page["file"]).is_file() for page in listed)
    printed = finetune("docs", "docs/training.md").stdout
    assert printed.strip() == (wheel.ROOT / "docs/training.md").read_text("utf-8").strip()
    wrong = finetune("docs", "trainings")
    assert wrong.returncode == 1 and "fix: use training" in wrong.stderr

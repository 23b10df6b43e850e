"""`finetune try` ends with an answer: what the rows are worth, and what to do next."""

import random
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.cli.try_ import init_command
from finetune_pipeline_tests.unit.data.rows import random_text

WORDS = {"billing": "invoice", "delivery": "parcel", "login": "password"}


def answers(kind: str, rows: int, rng: random.Random) -> list[tuple[str, str]]:
    """Texts with labels that one word gives away (easy), that only the order of two words does (order), or nothing (none)."""
    made = []
    for i in range(rows):
        label = rng.choice(list(WORDS))
        text = random_text(i, 8).split()
        if kind == "easy" or (kind == "half" and rng.random() < 0.6):
            text.insert(rng.randrange(8), WORDS[label])
        made.append((" ".join(text), label))
    return made


@pytest.mark.parametrize(
    ("kind", "rows", "first", "next_step"),
    [
        (
            "easy",
            900,
            "Worth it, and without a language model: TF-IDF and logistic regression reaches ",
            "--simple --to DIR",
        ),
        ("half", 900, "It needs a language model: TF-IDF and logistic regression reaches ", "finetune advise TASK"),
        ("half", 330, "It needs a language model, and about 170 rows more: ", "finetune advise TASK"),
        ("none", 900, "Nothing here to learn: ", "If a person can tell the answer"),
        ("none", 40, "Too few rows to say what they are worth.", "Collect about "),
    ],
)
def test_try_says_what_the_rows_are_worth(
    tmp_path: Path, finetune: Any, kind: str, rows: int, first: str, next_step: str
) -> None:
    lines = [f"{text},{label}" for text, label in answers(kind, rows, random.Random(5))]
    file = tmp_path / "tickets.csv"
    file.write_text("\n".join(["text,label", *lines]) + "\n", "utf-8")
    output = finetune("try", file).stdout
    *_, answer, then, kept, command = (line for line in output.splitlines() if line)
    assert answer.startswith(first), output
    assert next_step in then and kept == "Nothing was kept."
    assert command == f"next: finetune init {file}"


def test_the_command_reads_the_files_as_they_were_tried() -> None:
    options = {"text": None, "answer": ("brand", "price in $"), "sheet": "May", "encoding": None}
    command = init_command([Path("my offers.csv")], options)
    assert command == "finetune init 'my offers.csv' --answer brand --answer 'price in $' --sheet May"

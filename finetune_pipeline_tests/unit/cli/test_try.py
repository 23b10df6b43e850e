"""`finetune try` ends with an answer: what the rows are worth, and what to do next."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from finetune_pipeline.cli.init import draft_lines
from finetune_pipeline.cli.try_ import init_command, rows_to_skip_training
from finetune_pipeline.data.draft.draft import draft
from finetune_pipeline.evaluation.statistics.multiple_testing import shared_confidence
from finetune_pipeline.evaluation.statistics.proportions import wilson_interval
from finetune_pipeline_tests.unit.data.rows import make_spec, random_text

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
            "`finetune run` then trains nothing, and ships it",
        ),
        (
            "easy",
            520,
            "Worth it, and without a language model: ",
            " rows are enough for that; with fewer it may train.",
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
    assert "finetune advise tickets" in output or "finetune advise" not in output.replace("finetune advise TASK", "")
    assert command == f"next: finetune init {file}"


def test_validation_rows_that_show_a_simple_model_to_be_enough() -> None:
    """A run with 38 of 38 right on validation trained all the same, though it was said to train nothing."""
    spec = make_spec()
    rows = rows_to_skip_training(spec, 1.0)
    assert 700 <= rows <= 760 and rows_to_skip_training(spec, 0.95) > 2 * rows
    shares = shared_confidence(spec.gates.confidence, 12)
    assert (
        wilson_interval(rows // 10, rows // 10, shares)[0] >= spec.baseline.ceiling > wilson_interval(60, 60, shares)[0]
    )


def test_the_command_reads_the_files_as_they_were_tried() -> None:
    options = {"text": None, "answer": ("brand", "price in $"), "sheet": "May", "encoding": None}
    command = init_command([Path("my offers.csv")], options)
    assert command == "finetune init 'my offers.csv' --answer brand --answer 'price in $' --sheet May"


def test_rows_that_cannot_be_encoded_are_not_called_worth_it(tmp_path: Path, finetune: Any) -> None:
    """The bundled model's template leaves out tools, and no simple model answers with calls."""
    tool = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "properties": {}}}}
    rows = []
    for i in range(120):
        call = {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": json.dumps({"day": i % 3})},
        }
        turns = [
            {"role": "user", "content": f"{random_text(i, 5)} on day {i % 3}?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
        ]
        rows.append({"messages": turns, "tools": [tool]})
    file = tmp_path / "calls.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    done = finetune("try", file, "--json")
    assert done.returncode == 2 and done.json["worth"]["kind"] == "unknown", done.json["worth"]
    assert done.json["worth"]["sentence"].startswith("What the rows are worth cannot be said before the problems above")


def shown(tmp_path: Path, columns: list[str], rows: list[list[str]]) -> str:
    """What is said of the draft of a table."""
    file = tmp_path / "table.csv"
    file.write_text("".join(",".join(row) + "\n" for row in [columns, *rows]), "utf-8")
    task, problems = draft([("raw/table.csv", file)])
    assert task is not None, problems
    return "\n".join(draft_lines(task))


def test_candidates_for_the_label_are_shown_with_scores_and_a_command_for_several(tmp_path: Path) -> None:
    rng = random.Random(3)
    rows = [[f"{text} {'big' if i % 2 else 'small'}", label, "xl" if i % 2 else "xs", rng.choice("123")]
            for i, (text, label) in enumerate(answers("easy", 300, rng))]  # fmt: skip
    text = shown(tmp_path, ["message", "my queue", "size", "priority"], rows)
    assert "text: message; answer: " in text and "  priority" in text and "nothing to learn from the text" in text
    assert [line.count("nothing to learn") for line in text.splitlines() if "always answering" in line] == [0, 0, 1]
    assert "several as one JSON object: --answer '" in text and '"my queue"' in text.rpartition("--answer")[2]
    assert "table.csv: csv, 300 rows" in text


def test_several_labels_in_one_cell_are_said_to_be_a_list(tmp_path: Path) -> None:
    rng = random.Random(4)
    rows = []
    for i in range(200):
        labels = sorted({rng.choice(list(WORDS)), rng.choice(list(WORDS))})
        rows.append([f"{random_text(i, 6)} {' '.join(WORDS[label] for label in labels)}", ";".join(labels)])
    assert "tags holds several labels with `;` between them" in shown(tmp_path, ["text", "tags"], rows)


@pytest.mark.parametrize("by_people", [False, True])
def test_a_models_log_is_not_taken_for_rows_of_people(tmp_path: Path, finetune: Any, by_people: bool) -> None:
    rows = [
        {
            "id": f"r{i}",
            "timestamp": "2026-11-01T10:00:00Z",
            "input": text,
            "output": label,
            "model_version": "gpt-large",
        }
        for i, (text, label) in enumerate(answers("easy", 120, random.Random(5)))
    ]
    if by_people:
        rows = [{"text": row["input"], "label": row["output"]} for row in rows]
    file = tmp_path / "mails.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    output = finetune("try", file).stdout
    assert ("These files are a model's log" in output) is not by_people
    assert output.rstrip().endswith(f"next: finetune init {file}" + ("" if by_people else " --allowed"))

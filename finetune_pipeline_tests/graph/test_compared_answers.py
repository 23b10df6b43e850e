"""What people compared blind in a rollout of free text trains a second stage in the real graph, and is forgotten with its user."""

import json
from pathlib import Path
from typing import Any

from finetune_pipeline_tests.graph.project import LORA, Project, rows

VERSIONS = {"champion": "colours:1", "model_version": "colours:2"}
WORST = ("equal", "neither")


def logged(i: int, text: str, answer: str, second: str, **more: Any) -> list[dict[str, Any]]:
    """The lines of a question that both models answered."""
    row = {"id": f"r{i}", "timestamp": f"2026-05-01T10:{i // 60:02}:{i % 60:02}Z", "input": text, "user": f"u{i}"}
    shadow = {**VERSIONS, "output": second, "champion_output": answer, "seconds": 0.1, "champion_seconds": 0.1}
    return [{**row, "output": answer, "model_version": "colours:1", **more}, {**row, "shadow": shadow}]


def decide(project: Project) -> None:
    """Review all pairs as a file: short answers are better; two rows have no better one."""
    sheet = project.root / "sheet.jsonl"
    process = project.finetune("review", "colours", "--what", "flagged", "--table", str(sheet), "--items", "500")
    assert process.returncode == 0, process.stderr
    lines = [json.loads(line) for line in sheet.read_text().splitlines()]
    for line, no_better in zip(lines, [*WORST, *[""] * len(lines)], strict=False):
        shorter = min(("first", "second"), key=lambda side: len(line[side]))
        line |= {"decision": no_better or shorter, "reviewer": "Ada"}
    sheet.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    taken = project.finetune("review", "colours", "--what", "flagged", "--items", "500", "--take", str(sheet), "--json")
    assert json.loads(taken.stdout)["taken"] == len(lines) == 104, taken.stderr


def test_compared_answers_train_a_second_stage_until_a_user_is_forgotten(tmp_path: Path) -> None:
    logs = {"judging_share": 0.0, "max_family_share": 1.0, "settle_seconds": 0, "sample_share": 0.0}
    training = {**LORA, "refine": {"method": "dpo"}}
    project = Project(tmp_path, training=training, logs=logs, output={"kind": "text"}, data={"min_examples": 60})
    raw = [{"prompt": row["text"], "completion": f"It is {row['label']}"} for row in rows(120)]
    project.write_rows(raw)
    (project.folder / "logs").mkdir(exist_ok=True)
    served = project.folder / "logs" / "served.jsonl"
    texts = [f"{row['text']} pair" for row in rows(102, seed=77)]
    lines = [
        line
        for i, text in enumerate(texts)
        for line in logged(i, text, *(("red", "It is red, dear user") if i % 2 else ("It is blue, dear user", "blue")))
    ]
    lines += logged(
        102, raw[0]["prompt"], raw[0]["completion"], "red"
    )  # dislikes what a training row answers, or judges
    lines += logged(103, f"{texts[10]} again", "mail ann@example.com", "mail ann@example.com and bob@example.com")
    served.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    decide(project)

    code, output = project.run()
    assert code in (0, 2) and "steps" in output, output
    facts = project.facts("preference_rows")
    assert facts["unused"] == {"compared_equally_good": 1, "compared_none_acceptable": 1}
    assert (facts["logged"], facts["compared"], facts["kept"], facts["pairs"]) == (102, 102, 101, 101)
    assert sum(facts["left_out"].values()) == 1 and set(facts["left_out"]) <= {
        "like_judging_row",
        "pair_against_training",
    }
    path = project.artifact("preference_rows") / "preferences.jsonl"
    pairs = [json.loads(line) for line in path.read_text().splitlines()]
    assert all(len(pair["chosen"]) < len(pair["rejected"]) for pair in pairs), "no side is swapped"
    assert {tuple(pair["versions"]) for pair in pairs} == {("colours:1", "colours:2"), ("colours:2", "colours:1")}
    (scrubbed,) = (pair for pair in pairs if pair["log"] == "r103")
    assert scrubbed["rejected"] == "mail [EMAIL_1] and [EMAIL_2]"
    training_facts = project.facts("adapter")["refinement"]["training"]
    assert (training_facts["method"], training_facts["rows"]) == ("dpo", 101)

    refined = project.artifact("adapter")
    forgotten = project.finetune("forget", "colours", "--user", "u5", "--user", "u6", "--json")
    assert forgotten.returncode == 0, forgotten.stderr
    result = json.loads(forgotten.stdout)
    assert result["adapters"] == [refined.name] and not path.exists()
    assert '"r5"' not in "".join(file.read_text() for file in (project.folder / "logs").glob("*.jsonl"))
    code, output = project.run()
    assert code in (0, 2) and "steps" in output, output
    facts = project.facts("preference_rows")
    assert (facts["compared"], facts["kept"]) == (100, 99)
    assert project.facts("adapter")["refinement"] == {"too_few": "99 pairs; a second stage with dpo needs 100"}

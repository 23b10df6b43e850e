"""Rows that repeat what models are asked besides the task are left out without being asked for."""

import json
from pathlib import Path

import yaml

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.evaluation.ability.items import suite
from finetune_pipeline.pipeline import PIPELINE
from finetune_pipeline.spec import load_task
from finetune_pipeline.steps.run_inputs import collect_run_inputs
from finetune_pipeline_tests.unit.data.rows import random_text, read_lines

SPEC = {"name": "task", "description": "t", "system_prompt": "Answer.", "output": {"kind": "text"}}


def cleaned(folder: Path, rows: list[dict[str, str]], **sections: object) -> tuple[dict[str, int], list[str]]:
    """(facts of the clean examples, which file each row left out repeats)."""
    (folder / "task/raw").mkdir(parents=True)
    (folder / "task/raw/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own_item = {"query": f"Which own? {random_text(7)}", "choices": ["a", "b"], "gold": 0}
    (folder / "task/blob").write_text(json.dumps(own_item) + "\n")
    (folder / "task/own.jsonl").symlink_to(folder / "task/blob")
    (folder / "task/task.yaml").write_text(yaml.safe_dump({**SPEC, **sections}))
    task, store = load_task(folder / "task"), ArtifactStore(folder / "store")
    artifact = PIPELINE.run_to("clean_examples", task, collect_run_inputs(task, None, store), store)["clean_examples"]
    findings = [f for row in read_lines(artifact.folder / "quarantine.jsonl") for f in row["findings"]]
    repeated = [f["message"] for f in findings if f["rule"] == "data.benchmark_contamination"]
    return dict(artifact.facts), [message.split("benchmark ")[1].split(" (line")[0] for message in repeated]


def test_training_on_the_shipped_suite_is_found(tmp_path: Path) -> None:
    """All items as training rows: their question, or their text as what is asked."""
    items = suite()
    answers = [i.choices[i.right] if i.choices else "yes" for i in items]
    rows = [{"prompt": i.prompt or i.text or "", "completion": a} for i, a in zip(items, answers, strict=True)]
    ours = [{"prompt": random_text(i), "completion": "fine"} for i in range(30)]
    facts, files = cleaned(tmp_path, [*rows, *ours])
    assert facts["kept"] == 30 and facts["benchmark_rows"] == len(rows) and set(files) == {"ability/suite.jsonl"}


def test_only_rows_of_what_is_asked_are_found(tmp_path: Path) -> None:
    """The file is a link to one without a suffix, as downloaded data sets lie in caches."""
    items = [{"query": f"Which other? {random_text(i)}", "choices": ["a", "b"], "gold": 0} for i in range(6)]
    (tmp_path / "task/bench").mkdir(parents=True)
    (tmp_path / "task/bench/pick.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    rows = [{"prompt": f"Which own? {random_text(7)}", "completion": "a"}, {"prompt": suite()[0].prompt, "completion": "5"},
            {"prompt": f"Which other? {random_text(5)}", "completion": "a"}]  # fmt: skip
    ability = {"suite": False, "files": ["own.jsonl", "bench/*.jsonl"]}
    facts, files = cleaned(tmp_path, rows, ability=ability)
    assert sorted(files) == ["ability/bench/pick.jsonl", "ability/own.jsonl"] and facts["kept"] == 1

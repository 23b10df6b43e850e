"""Tasks of lm-evaluation-harness, one of each kind, with rows of their own, for tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

WORDS = ("billing", "invoice", "month", "export", "login", "refund")
CHOICES: dict[str, Any] = {
    "task": "pick",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "pick.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}} ",
    "doc_to_choice": "choices",
    "doc_to_target": "{{right}}",
    "metric_list": [{"metric": m, "aggregation": "mean", "higher_is_better": True} for m in ("acc", "acc_norm")],
}
ENDING: dict[str, Any] = {
    "task": "ending",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "ending.jsonl"}},
    "test_split": "test",
    "output_type": "loglikelihood",
    "doc_to_text": "{{context}}",
    "doc_to_target": "{{' ' + ending}}",
    "metric_list": [
        {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
    ],
}
TEXTS: dict[str, Any] = {
    "task": "texts",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "texts.jsonl"}},
    "test_split": "test",
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False}],
}
WRITING: dict[str, Any] = {
    "task": "writing",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "writing.jsonl"}},
    "test_split": "test",
    "num_fewshot": 2,
    "fewshot_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["s", "\n"], "max_gen_toks": 6, "do_sample": False},
    "filter_list": [
        {"name": "first", "filter": [{"function": "regex", "regex_pattern": "(\\w+)"}, {"function": "take_first"}]}
    ],
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}
ROWS: dict[str, list[dict[str, Any]]] = {
    "pick": [
        {"question": f"ticket {i} says: my {w} is wrong, so", "choices": [*WORDS[:4]], "right": i % 4}
        for i, w in enumerate(WORDS * 4)
    ],
    "ending": [{"context": f"where is the {w} of this", "ending": WORDS[i % 6]} for i, w in enumerate(WORDS * 2)],
    "texts": [{"text": f"please refund the {w}\nand the second payment of {i}"} for i, w in enumerate(WORDS)],
    "writing": [{"question": f"charged {w} this", "answer": "month"} for w in WORDS],
}


def write_task(folder: Path, config: Mapping[str, Any], rows: Iterable[Mapping[str, Any]] | None = None) -> Path:
    """The task file of `config` in `folder`, and its rows beside it where the config names one file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = str(config["task"])
    lines = ROWS.get(name, []) if rows is None else rows
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines), "utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
    return path

"""Tasks in the format of lm-evaluation-harness, one per output type, with their rows."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

WORDS = ("billing", "invoice", "month", "export", "login", "refund")


def _task(name: str, output_type: str, text: str, target: str, **more: Any) -> dict[str, Any]:
    return {
        "task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": f"{name}.jsonl"}},
        "test_split": "test", "output_type": output_type, "doc_to_text": text, "doc_to_target": target, **more,
    }  # fmt: skip


def _metric(name: str, aggregation: str = "mean", higher_is_better: bool = True) -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher_is_better}


CHOICES = _task(
    *("pick", "multiple_choice", "{{question}} ", "{{right}}"),
    doc_to_choice="choices",
    metric_list=[_metric("acc"), _metric("acc_norm")],
)
ENDING = _task(
    *("ending", "loglikelihood", "{{context}}", "{{' ' + ending}}"),
    metric_list=[_metric("perplexity", "perplexity", False), _metric("acc")],
)
TEXTS = _task(
    *("texts", "loglikelihood_rolling", "", "{{text}}"), metric_list=[_metric("bits_per_byte", "bits_per_byte", False)]
)
FIRST_WORD = {"function": "regex", "regex_pattern": "(\\w+)"}
WRITING = _task(
    *("writing", "generate_until", "{{question}}", "{{answer}}"),
    num_fewshot=2,
    fewshot_split="test",
    generation_kwargs={"until": ["s", "\n"], "max_gen_toks": 6, "do_sample": False},
    filter_list=[{"name": "first", "filter": [FIRST_WORD, {"function": "take_first"}]}],
    metric_list=[_metric("exact_match")],
)
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
    """Write a task's YAML file and its rows (by default :data:`ROWS`). Returns the path of the YAML file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = str(config["task"])
    rows = ROWS.get(name, []) if rows is None else rows
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(dict(config), sort_keys=False), "utf-8")
    return path

"""The two prediction jobs: every prompt of the baseline on validation, and every compared model on the sealed test."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.evaluation.baseline import build_shots
from finetune_pipeline.evaluation.generation import Answer, generate_and_score, shared_length
from finetune_pipeline.evaluation.predictions import write_predictions
from finetune_pipeline.models.chat import encode_answer, encode_prompt
from finetune_pipeline.models.loading import load_for_prediction, load_tokenizer, pick_device
from finetune_pipeline.progress import tell

Turn = dict[str, str]


def prompt_messages(example: Example, turns: Sequence[Mapping[str, str]]) -> list[Turn]:
    """System prompt, then the in-context turns, then the example's own turns before its answer."""
    own = example.prompt_messages
    system = [m for m in own[:1] if m["role"] == "system"]
    return [*system, *(dict(t) for t in turns), *own[len(system):]]


def shot_turns(examples: Sequence[Example], ids: Sequence[str]) -> list[Turn]:
    """User and assistant turns of the chosen examples, in the order given."""
    by_id = {e.id: e for e in examples}
    return [dict(m) for i in ids for m in by_id[i].messages if m["role"] != "system"]


def _limited(path: str, limit: int | None) -> list[Example]:
    examples = read_examples(Path(path))
    return sorted(examples, key=lambda e: e.id)[:limit] if limit is not None else examples


class _Asker:
    """Puts sets of prompts to models, keeping the last model loaded."""

    def __init__(self, job: Mapping[str, Any], examples: Sequence[Example], sets: int) -> None:
        self.job, self.examples = job, examples
        self.total, self.done, self.began = sets * len(examples), 0, time.monotonic()
        self.loaded: tuple[str, Any, Any] | None = None

    def ask(self, name: str, model_path: str, turns: Sequence[Mapping[str, str]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(prediction rows, facts) of one model prompted in one way."""
        if self.loaded is None or self.loaded[0] != model_path:
            self.loaded = None  # let the memory go before the next one is loaded
            folder = Path(model_path)
            self.loaded = (model_path, load_for_prediction(folder, pick_device()), load_tokenizer(folder))
        _, model, tokenizer = self.loaded
        asked = [prompt_messages(e, turns) for e in self.examples]
        prompts = [encode_prompt(tokenizer, m) for m in asked]
        labels = [encode_answer(tokenizer, asked[0], label) for label in self.job["labels"]] if asked else []
        answers = generate_and_score(model, tokenizer, prompts, labels, max_new_tokens=self.job["max_new_tokens"],
                                     batch_size=self.job["batch_size"], tell=lambda n: self._tell(name, n))
        self.done += len(self.examples)
        rows = [_row(name, e, a) for e, a in zip(self.examples, answers, strict=True)]
        count = max(len(rows), 1)
        return rows, {
            "rows": len(rows), "statuses": {s: n for s, n in sorted(Counter(a.status for a in answers).items())},
            "mean_prompt_tokens": round(sum(a.prompt_tokens for a in answers) / count, 1),
            "mean_new_tokens": round(sum(a.new_tokens for a in answers) / count, 2),
            "shared_prefix_tokens": shared_length(prompts),
        }

    def _tell(self, name: str, within: int) -> None:
        done = self.done + within
        spent = time.monotonic() - self.began
        tell(self.job["stage"], name, step=done, of=self.total, seconds_left=spent / done * (self.total - done) if done else None)


def _row(name: str, example: Example, answer: Answer) -> dict[str, Any]:
    return {"example_id": example.id, "model": name, "gold": example.answer, "text": answer.text, "status": answer.status,
            "error": answer.error, "label_scores": answer.label_scores, "new_tokens": answer.new_tokens,
            "prompt_tokens": answer.prompt_tokens}


def run_predict(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do a job of jobs.predict_job. Writes out/predictions.parquet; returns the facts named there."""
    examples = _limited(job["examples"], job["limit"])
    asker = _Asker(job, examples, len(job["sets"]))
    rows: list[dict[str, Any]] = []
    sets: dict[str, Any] = {}
    for each in job["sets"]:
        made, sets[each["name"]] = asker.ask(each["name"], each["model"], each["turns"])
        rows += made
    write_predictions(Path(job["out"]) / "predictions.parquet", rows)
    return {"rows": len(examples), "sets": sets}


def run_baseline(job: Mapping[str, Any]) -> dict[str, Any]:
    """Do a job of jobs.baseline_job. Writes out/predictions.parquet and out/prompts.json; returns the facts named there."""
    examples = _limited(job["examples"], job["limit"])
    train = read_examples(Path(job["train"]))
    asker = _Asker(job, examples, len(job["shots"]))
    rows: list[dict[str, Any]] = []
    prompts: dict[str, Any] = {}
    facts: dict[str, Any] = {"rows": len(examples), "prompts": {}, "statuses": {}}
    for k in job["shots"]:
        name = f"{k}_shot" if k else "zero_shot"
        ids = build_shots(train, k, job["labels"], job["seed"]) if k else []
        prompts[name] = {"shots": k, "ids": ids, "turns": shot_turns(train, ids)}
        made, told = asker.ask(name, job["base"], prompts[name]["turns"])
        rows += made
        facts["prompts"][name] = {"shots": k, "ids": ids, **{n: v for n, v in told.items() if n != "statuses"}}
        facts["statuses"][name] = told["statuses"]
    write_predictions(Path(job["out"]) / "predictions.parquet", rows)
    write_json(Path(job["out"]) / "prompts.json", prompts)
    return facts

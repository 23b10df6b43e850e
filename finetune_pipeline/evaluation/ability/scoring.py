"""Scores a model on items of general ability and on tasks of lm-evaluation-harness: the ``ability`` action of the child
process. Works offline."""

import copy
import json
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import scipy

from finetune_pipeline.evaluation.ability.harness_tasks import (
    CATEGORY,
    SOURCE,
    HarnessTask,
    asked_digest,
    harness_version,
    read_tasks,
)
from finetune_pipeline.evaluation.ability.items import ROWS, Item, load_items
from finetune_pipeline.evaluation.answering import Answerer, close_cache, open_cache
from finetune_pipeline.models.chat import encode_answer, encode_prompt, end_ids, to_ids
from finetune_pipeline.models.inference.generated import Answer

_UNSCORED: dict[str, Any] = {"right": None, "probability": None, "bits_per_byte": None, "error": ""}


def ability(job: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a job of :func:`finetune_pipeline.worker.jobs.ability_job`. Returns (facts, measured)."""
    items = load_items([Path(p) for p in job["files"]], job["limit"], job["suite"])
    harness = job.get("harness") or {"folder": ".", "tasks": [], "limit": 0, "chat": False}
    tasks = read_tasks(Path(harness["folder"]), harness["tasks"])
    folder, prefix, out = Path(job["model"]), job.get("adapter"), Path(job["out"])
    cache, seen_files = open_cache(job.get("answers"))
    answerer = Answerer(folder, Path(prefix) if prefix else None, cache, seen_files, job["precision"])
    rows = score_items(answerer, items, job["batch_size"], job["stage"])
    limit, chat = harness["limit"], harness["chat"]
    facts: dict[str, Any] = {"asked_digest": asked_digest(items, tasks, limit, chat)}
    if tasks:
        task_rows, facts["harness"] = run_tasks(answerer, tasks, limit, chat, job["batch_size"], job["stage"])
        rows += task_rows
    out.mkdir(parents=True, exist_ok=True)
    (out / ROWS).write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    facts |= {"items": len(rows), "unscored": sum(bool(r["error"]) for r in rows)}
    return facts, {"answers": close_cache(cache)}


def score_items(
    answerer: Answerer, items: Sequence[Item], batch_size: int, stage: str = "general_ability"
) -> list[dict[str, Any]]:
    """A row per item, in order: id, source, category, right, probability, bits_per_byte, error.

    right: whether the right choice has the highest log-likelihood (lm-evaluation-harness's acc; without the end of turn, so
    that continuing after the answer is not wrong). probability: of an item's right choice among all. bits_per_byte: of a text.
    None if not applicable. error: why an item could not be scored.
    """
    if not items:
        return []
    prompts, texts = zip(*(_encoded(answerer.tokenizer, item) for item in items), strict=True)
    rows: dict[int, dict[str, Any]] = {}
    # separately, because chats share the template's beginning and bare texts share nothing
    for chat in (True, False):
        indices = [i for i, item in enumerate(items) if item.chat is chat]
        if not indices:
            continue
        answers = answerer.answers(
            [prompts[i] for i in indices],
            [texts[i] for i in indices],
            max_new_tokens=1,
            batch_size=batch_size,
            stage=stage,
            name="chats" if chat else "texts",
        )
        rows |= {i: _row(items[i], answer) for i, answer in zip(indices, answers, strict=True)}
    return [rows[i] for i in range(len(items))]


def _encoded(tokenizer: Any, item: Item) -> tuple[list[int], list[list[int]]]:
    """(tokens of the prompt, tokens of every choice after it, or of the text)."""
    if item.chat:
        messages = [{"role": "user", "content": item.prompt}]
        ends = end_ids(tokenizer)
        answers = [encode_answer(tokenizer, messages, c) for c in item.choices]
        return encode_prompt(tokenizer, messages), [a[:-1] if a[-1] in ends else a for a in answers]
    start = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    before = [start, *to_ids(tokenizer, item.prompt)] if item.prompt else [start]
    if item.text is not None and not item.prompt:
        return before, [to_ids(tokenizer, item.text)]
    return before, [to_ids(tokenizer, f" {c}") for c in (item.choices or (item.text or "",))]


def _row(item: Item, answer: Answer) -> dict[str, Any]:
    row = {"id": item.id, "source": item.source, "category": item.category, **_UNSCORED}
    if answer.status == "error" or not all(math.isfinite(s) for s in answer.label_scores):
        return row | {"error": answer.error or "a likelihood is not a number"}
    if item.text is not None:
        return row | {"bits_per_byte": -answer.label_scores[0] / math.log(2) / len(item.text.encode())}
    scores, best = answer.label_scores, max(answer.label_scores)
    is_right = scores.index(best) == item.right and scores.count(best) == 1  # a tie is not right
    return row | {"right": is_right, "probability": float(scipy.special.softmax(scores)[item.right])}


_SEED = 1234
"""lm_eval's default seed, for the choice of shots."""


def run_tasks(
    answerer: Answerer, tasks: Sequence[HarnessTask], limit: int, chat: bool, batch_size: int, stage: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Ask the first `limit` rows of every task. Returns (rows like those of :func:`score_items`, facts).

    right: by the task's metric, as lm_eval computes it. bits_per_byte: if the metric is the likelihood of a text.
    facts: lm_eval (version), tasks {name: {rows, metric, shots, results: {metric: value}, {} if a row was not scored}}.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.evaluator import evaluate

    from finetune_pipeline.evaluation.ability.harness_model import AnswererLM

    forbid_downloads()
    with tempfile.TemporaryDirectory() as scratch:
        harness_tasks = {t.name: make_task(t, scratch) for t in tasks}
        greedy_tasks = {t.name for t in tasks if t.config["output_type"] == "loglikelihood" and not t.text}
        model = AnswererLM(answerer, batch_size, stage, greedy_tasks)
        results = evaluate(
            model,
            {"tasks": harness_tasks, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    rows, facts = [], {}
    for task in tasks:
        name, samples = task.name, results["samples"][task.name]
        first_samples = [s for s in samples if s["filter"] == samples[0]["filter"]]
        task_rows = [_task_row(task, s, model.failed.get((name, s["doc_id"]), "")) for s in first_samples]
        rows += task_rows
        facts[name] = {
            "rows": len(task_rows),
            "metric": task.metric,
            "shots": harness_tasks[name].config.num_fewshot,
            "results": {} if any(r["error"] for r in task_rows) else _figures(results["results"][name]),
        }
    return rows, {"lm_eval": harness_version(), "tasks": facts}


def forbid_downloads() -> None:
    """Forbid downloads, and run the templates of task files in a sandbox."""
    import datasets
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    if not isinstance(utils.env, ImmutableSandboxedEnvironment):
        sandbox = ImmutableSandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
        sandbox.filters.update(utils.env.filters)
        utils.env = sandbox


def make_task(task: HarnessTask, scratch: str) -> Any:
    """Make lm_eval's task, with the cache of its rows in `scratch`. Raises ValueError with the task's name."""
    from lm_eval.api.task import ConfigurableTask

    config = copy.deepcopy(dict(task.config))
    config["dataset_kwargs"]["cache_dir"] = scratch
    try:
        harness_task = ConfigurableTask(config=config)
    except Exception as error:
        raise ValueError(f"ability.harness: {task.name} cannot be made: {type(error).__name__}: {error}") from error
    if harness_task.config.num_fewshot is None:
        harness_task.set_config(key="num_fewshot", value=0)
    harness_task.set_fewshot_seed(seed=_SEED)
    return harness_task


def _task_row(task: HarnessTask, sample: Mapping[str, Any], failed: str) -> dict[str, Any]:
    row = {"id": f"{task.name}:{sample['doc_id']}", "source": SOURCE, "category": CATEGORY + task.name, **_UNSCORED}
    if failed:
        return row | {"error": failed}
    if task.text:
        text = sample["arguments"][0][-1]
        score = sample["filtered_resps"][0]
        nats = score[0] if isinstance(score, list | tuple) else score
        return row | {"bits_per_byte": -nats / math.log(2) / len(text.encode())}
    value = sample[task.metric]
    if value not in (0, 1):
        where = f"ability.harness: {task.name}: {task.metric} of row {sample['doc_id']}"
        raise ValueError(f"{where} is {value}, not 0 or 1")
    return row | {"right": bool(value)}


def _figures(results: Mapping[str, Any]) -> dict[str, float]:
    """lm_eval's figures, with `acc,none` renamed to `acc`."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in results.items()
        if isinstance(value, int | float) and "_stderr" not in key and "," in key
    }

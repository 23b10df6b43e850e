"""Runs tasks of lm-evaluation-harness on a model, without any network, and makes of them rows as of the internal suite."""

from __future__ import annotations

import copy
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.ability.harness_tasks import CATEGORY, SOURCE, HarnessTask, harness_version
from finetune_pipeline.evaluation.answering import Answerer

_SEED = 1234
"""lm_eval's own, for the choice of shots."""


def run_tasks(
    asked: Answerer, tasks: Sequence[HarnessTask], limit: int, chat: bool, batch_size: int, stage: str
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(rows as of :func:`.scoring.score_items`, facts). Every task's first `limit` rows are asked, all models the same.

    right: of the task's metric, as lm_eval judges it. probability: of the right one among choices, else None.
    bits_per_byte: where the metric is made of a text's likelihood. error: why a row could not be scored.
    facts: lm_eval (version), tasks {name: {rows, metric, shots, results: {metric: value}, of lm_eval's own making; {} where
    a row could not be scored}}.
    """
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    from lm_eval.evaluator import evaluate

    from finetune_pipeline.evaluation.ability.harness_model import AnswererLM

    close_ways_out()
    by_name = {t.name: t for t in tasks}
    with tempfile.TemporaryDirectory() as scratch:
        made = {t.name: make_task(t, scratch) for t in tasks}
        written = {t.name for t in tasks if t.config["output_type"] == "loglikelihood" and not t.text}
        model = AnswererLM(asked, batch_size, stage, written)
        results = evaluate(
            model,
            {"tasks": made, "groups": {}, "group_map": {}},
            limit=limit,
            bootstrap_iters=0,
            apply_chat_template=chat,
            fewshot_as_multiturn=chat,
        )
    rows, facts = [], {}
    for name, task in by_name.items():
        samples = results["samples"][name]
        first = [s for s in samples if s["filter"] == samples[0]["filter"]]
        own = [_row(task, made[name], s, model.failed.get((name, s["doc_id"]), "")) for s in first]
        rows += own
        failed = any(r["error"] for r in own)
        facts[name] = {
            "rows": len(own),
            "metric": task.metric,
            "shots": made[name].config.num_fewshot,
            "results": {} if failed else _figures(results["results"][name]),
        }
    return rows, {"lm_eval": harness_version(), "tasks": facts}


def close_ways_out() -> None:
    """Nothing is fetched, and templates of task files can reach nothing but the row they are filled from."""
    import datasets
    from jinja2.sandbox import ImmutableSandboxedEnvironment
    from lm_eval import utils

    datasets.config.HF_HUB_OFFLINE = True
    datasets.disable_progress_bars()
    if not isinstance(utils.env, ImmutableSandboxedEnvironment):
        shut = ImmutableSandboxedEnvironment(undefined=utils.env.undefined, keep_trailing_newline=True)
        shut.filters.update(utils.env.filters)
        utils.env = shut


def make_task(task: HarnessTask, scratch: str) -> Any:
    """lm_eval's task, its rows read through a cache in `scratch`. Raises ValueError with the task's name."""
    from lm_eval.api.task import ConfigurableTask

    config = copy.deepcopy(dict(task.config))
    config["dataset_kwargs"]["cache_dir"] = scratch
    try:
        made = ConfigurableTask(config=config)
    except Exception as error:
        raise ValueError(f"ability.harness: {task.name} cannot be made: {type(error).__name__}: {error}") from error
    if made.config.num_fewshot is None:
        made.set_config(key="num_fewshot", value=0)
    made.set_fewshot_seed(seed=_SEED)
    return made


def _row(task: HarnessTask, made: Any, sample: Mapping[str, Any], failed: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": f"{task.name}:{sample['doc_id']}",
        "source": SOURCE,
        "category": CATEGORY + task.name,
        "right": None,
        "probability": None,
        "bits_per_byte": None,
        "error": failed,
    }
    if failed:
        return row
    if task.text:
        text = sample["arguments"][0][-1]
        score = sample["filtered_resps"][0]
        nats = score[0] if isinstance(score, list | tuple) else score
        return row | {"bits_per_byte": -nats / math.log(2) / len(text.encode())}
    value = sample[task.metric]
    if value not in (0, 1):
        raise ValueError(
            f"ability.harness: {task.name}: {task.metric} of row {sample['doc_id']} is {value}, not 0 or 1"
        )
    return row | {"right": bool(value), "probability": _probability(task, made, sample)}


def _probability(task: HarnessTask, made: Any, sample: Mapping[str, Any]) -> float | None:
    if task.config["output_type"] != "multiple_choice" or made.multiple_input:
        return None
    choices, right = made.doc_to_choice(sample["doc"]), sample["target"]
    if isinstance(right, str):
        right = choices.index(right) if right in choices else None
    if not isinstance(right, int) or not 0 <= right < len(choices):
        return None
    scores = [score for score, _ in sample["filtered_resps"][: len(choices)]]
    weights = [math.exp(s - max(scores)) for s in scores]
    return weights[right] / sum(weights)


def _figures(results: Mapping[str, Any]) -> dict[str, float]:
    """lm_eval's figures, `acc,none` told as `acc`."""
    return {
        key.removesuffix(",none"): float(value)
        for key, value in results.items()
        if isinstance(value, int | float) and "_stderr" not in key and "," in key
    }

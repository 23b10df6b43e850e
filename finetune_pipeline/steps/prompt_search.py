"""BASELINE, for `finetune ladder`: searches for a better prompt, scored on rows not used in the search."""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from finetune_pipeline.baseline.ladder import FOLDS, OPTIMISED, fold_of
from finetune_pipeline.baseline.prompt_search import (
    FEWEST_CALLS,
    Search,
    best_value,
    candidates,
    halving,
    likely_better,
    texts_in,
)
from finetune_pipeline.data.examples import Example, read_examples, sample_examples, write_examples
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.engine.step import StepContext
from finetune_pipeline.evaluation.predictions import API, in_order, prompts_of, read_by_model, write_predictions
from finetune_pipeline.evaluation.prompts import Prompt, fixed_prompts
from finetune_pipeline.planning.serving_costs import Call
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.steps.baseline import answering_settings, ask_api, output_settings
from finetune_pipeline.steps.data import split_file
from finetune_pipeline.steps.rungs import (
    PREDICTIONS,
    PROMPTS,
    answered_rungs,
    answers_job,
    call_of,
    good_enough,
    ladder_settings,
    row_sources,
    validation_rows,
)
from finetune_pipeline.worker.jobs import prompt_set

Rows = Mapping[str, list[dict[str, Any]]]
WRITTEN = 4
"""Number of instructions that the API model writes."""


def make_prompt_search(context: StepContext) -> dict[str, Any]:
    """Search for a better prompt for the base model, once per fold; the winner of one fold answers the other."""
    spec = context.spec
    train_rows, rows = read_examples(split_file(context, "train")), validation_rows(context)
    folds = {fold: [e for e in rows if fold_of(e.made_from) == fold] for fold in FOLDS}
    if why := _no_search(context, len(rows), folds):
        write_predictions(context.out / PREDICTIONS, [])
        return {"skipped": why, "calls": 0, "searches": [], "best": None}
    fixed, sources = _FixedPrompts(context), row_sources(context)
    prompts = candidates(spec, train_rows, _written_instructions(context, train_rows))
    budget = (spec.ladder.calls - len(rows)) // 2
    deadline = time.monotonic() + 60 * spec.ladder.minutes if spec.ladder.minutes else math.inf
    searches: list[Search] = []
    answers: list[dict[str, Any]] = []
    tokens: list[Call] = []
    written: dict[str, Any] = {}
    for fold, held_rows in folds.items():
        ask, search_rows = _PromptRunner(context, context.builder.work / f"fold_{fold}"), folds[1 - fold]
        search, searched_rows = halving(spec, prompts, search_rows, budget, ask, lambda: time.monotonic() > deadline)
        best = fixed.best(search_rows)
        if likely_better(spec, fixed.answers(best, search_rows), searched_rows, sources):
            rows_answered = ask({search.winner: prompts[search.winner]}, held_rows, "the held rows")[search.winner]
            tokens.append(ask.tokens[search.winner])
            written[search.winner] = asdict(prompts[search.winner])
            search = replace(search, calls=search.calls + len(held_rows))
        else:
            rows_answered = fixed.answers(best, held_rows)
            tokens.append(fixed.tokens[best])
            written[best] = fixed.prompts[best]
            why = f"{search.winner} is not likely better than {best} of task.yaml"
            search = replace(search, winner=best, stopped=f"{search.stopped}; {why}" if search.stopped else why)
        searches.append(search)
        answers += [{**row, "model": OPTIMISED} for row in rows_answered]
        say(f"prompt_search: fold {fold + 1} of 2: {search.winner} won after {search.calls} calls")
    write_predictions(context.out / PREDICTIONS, in_order(answers))
    write_json(context.out / PROMPTS, written)
    return {
        "skipped": "",
        "calls": sum(search.calls for search in searches),
        "searches": [asdict(search) for search in searches],
        "best": searches[0].winner,
        "tokens": {key: sum(getattr(call, key) for call in tokens) / len(tokens) for key in ("prompt", "answer")},
    }


class _FixedPrompts:
    """The prompts of task.yaml, which the baseline has run: rows, tokens and prompts by name."""

    def __init__(self, context: StepContext) -> None:
        baseline = context.inputs["few_shot_baseline"]
        rows = read_by_model(baseline.path(PREDICTIONS))
        details = baseline.facts["prompt_details"]
        self.spec = context.spec
        self.rows = {name: rows[name] for name in fixed_prompts(prompts_of(rows))}
        self.tokens = {name: call_of(details[name]) for name in self.rows}
        self.prompts = read_json(baseline.path(PROMPTS))

    def answers(self, name: str, examples: Sequence[Example]) -> list[dict[str, Any]]:
        ids = {e.id for e in examples}
        return [row for row in self.rows[name] if row["example_id"] in ids]

    def best(self, examples: Sequence[Example]) -> str:
        """Return the best prompt on these rows; the first among equals."""
        return max(self.rows, key=lambda name: best_value(self.spec, self.answers(name, examples)))


def _no_search(context: StepContext, rows: int, folds: Mapping[int, Sequence[Example]]) -> str:
    spec = context.spec
    if not spec.ladder.calls:
        return "ladder.calls is 0"
    if min(map(len, folds.values())) < 4:
        return f"{rows} validation rows are too few to choose on one half and score on the other"
    if spec.ladder.calls < (needed := rows + max(rows, 2 * FEWEST_CALLS)):
        return f"ladder.calls is {spec.ladder.calls}: answering {rows} rows and searching take at least {needed}"
    return good_enough(spec, answered_rungs(context, searched=False), row_sources(context))


class _PromptRunner:
    """Runs prompts in child processes; answers from before a kill are reused. tokens: by prompt, of its last call."""

    def __init__(self, context: StepContext, folder: Path) -> None:
        self.context, self.folder, self.number = context, folder, 0
        self.tokens: dict[str, Call] = {}

    def __call__(self, prompts: Mapping[str, Prompt], rows: Sequence[Example], title: str) -> Rows:
        self.number += 1
        out, file = self.folder / str(self.number), self.folder / f"{self.number}.jsonl"
        if (out / "result.json").exists():
            facts = read_json(out / "result.json")
        else:
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            write_examples(file, rows)
            say(f"prompt_search: {title}: {len(prompts)} prompts on {len(rows)} more rows each")
            model = self.context.inputs["base_model"].folder
            sets = [prompt_set(name=name, model=model, prompt=asdict(p)) for name, p in prompts.items()]
            facts = self.context.launch(answers_job(self.context, sets, file, out, "prompt_search"))
        self.tokens |= {name: call_of(details) for name, details in facts["sets"].items()}
        return read_by_model(out / PREDICTIONS)


def _written_instructions(context: StepContext, train_rows: Sequence[Example]) -> list[str]:
    """Return instructions written by the API model of baseline.endpoint, if there is one, in one request."""
    spec = context.spec
    if spec.baseline.endpoint is None:
        return []
    samples = "\n\n".join(
        f"Message: {e.user_text}\nAnswer: {e.answer}" for e in sample_examples(train_rows, 8, "instructions")
    )
    request_text = (
        f"Write {WRITTEN} different system prompts for a small language model. The task: {spec.description}\n\nThe present "
        f"system prompt:\n{spec.system_prompt}\n\nExamples:\n{samples}\n\n"
        f"Reply with a JSON list of {WRITTEN} texts and nothing else."
    )
    messages = [{"role": "user", "content": request_text}, {"role": "assistant", "content": "[]"}]
    request = Example("instructions", messages)
    wider_spec = spec.model_copy(update={"baseline": spec.baseline.model_copy(update={"max_new_tokens": 2000})})
    rows, _ = ask_api(
        replace(context, task=context.task.model_copy(update={"spec": wider_spec})),
        {f"{API}instructions": asdict(Prompt(api=True))},
        [request],
        train_rows,
        {request.id: "[]"},
        stage="prompt_search",
        most_failed=1.0,
    )
    written = texts_in(str(rows[0]["text"]))[:WRITTEN]
    if not written:
        say("prompt_search: the API model returned no list of instructions; only the fixed edits are tried")
    return written


def search_settings(spec: TaskSpec) -> dict[str, Any]:
    return {
        "calls": spec.ladder.calls,
        "minutes": spec.ladder.minutes,
        "description": spec.description,
        "system_prompt": spec.system_prompt,
        "metric": spec.metric,
        **ladder_settings(spec),
        **output_settings(spec),
        **answering_settings(spec),
    }

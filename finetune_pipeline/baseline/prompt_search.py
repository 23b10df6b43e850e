"""Searches for a better prompt: instructions x demonstrations, by successive halving under a budget of calls.

Every round sends the same further rows with all remaining candidates, and drops the worse half (Jamieson and Talwalkar 2016,
AISTATS). Each of the two folds of :mod:`.ladder` has its own search, so that a winner is scored on rows that did not choose it.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from finetune_pipeline.data.answer_rules import schema_of
from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.correctness import Row
from finetune_pipeline.evaluation.metrics import METRICS
from finetune_pipeline.evaluation.predictions import same_rows
from finetune_pipeline.evaluation.prompts import Prompt, build_shots, shots_as_turns
from finetune_pipeline.evaluation.rivals import restricted_rows
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput

Ask = Callable[[Mapping[str, Prompt], Sequence[Example], str], Mapping[str, Sequence[Row]]]
"""Answers the same rows with every prompt; the text names the round. Returns prediction rows by prompt."""
DRAWS = 3
"""Number of demonstration sets of each size."""
MIN_ROWS = 4
"""Minimum rows of a round: fewer would rank candidates by luck."""
FEWEST_CALLS = 4 * MIN_ROWS
"""Calls that compare two prompts on such a round; half of the calls are for later rounds."""
CONFIDENCE = 0.8
"""Confidence with which a new prompt must beat the task's own to replace it. Without this condition, winners of searches with
90 calls and eleven prompts were up to ten points worse (benchmarks/results/2026-11-28-advise.md)."""


@dataclass(frozen=True)
class Round:
    """One round: the number of candidates, the rows each has answered so far, and their scores."""

    candidates: int
    rows: int
    scores: dict[str, float]


@dataclass(frozen=True)
class Search:
    """The search on one fold. calls: answers used. stopped: why it ended before one candidate was left, else empty."""

    winner: str
    calls: int
    rounds: list[Round]
    stopped: str


def instructions(spec: TaskSpec, written: Sequence[str] = ()) -> list[str]:
    """System prompts to try: the task's own, one without the labels, the other prompts of task.yaml, model-written ones, and edits
    of the task's own."""
    system_prompt, form, description = spec.system_prompt.strip(), _form(spec), " ".join(spec.description.split())
    edits = [
        f"{system_prompt}\n\n{form}",
        f"{form}\n\n{system_prompt}",
        f"Task: {description}\n\n{system_prompt}\n\n{form}",
        f"{system_prompt}\n\nRead the whole message before you answer. {form}",
        f"{description}\n{form}",
    ]
    alternatives = [*spec.baseline.prompts, *(text.strip() for text in written if text.strip())]
    if isinstance(spec.output, LabelsOutput):
        # small models often choose the label by likelihood more reliably if the prompt does not list all labels
        alternatives.insert(0, f"{description}\nAnswer with the right label and nothing else.")
    return list(dict.fromkeys([system_prompt, *alternatives, *edits]))


def _form(spec: TaskSpec) -> str:
    output = spec.output
    if isinstance(output, LabelsOutput):
        return f"Answer with exactly one of these and nothing else: {', '.join(output.labels)}."
    if isinstance(output, JsonOutput):
        keys = ", ".join(schema_of(output).get("properties", {}))
        value = f"object with the keys {keys}" if keys else "value"
        return f"Answer with one JSON {value}, and write nothing before or after it."
    return "Answer with the text that is asked for and nothing else."


def texts_in(answer: str) -> list[str]:
    """The texts of the JSON list in a model's answer, ignoring surrounding text; none without such a list."""
    try:
        listed = json.loads(answer[answer.index("[") : answer.rindex("]") + 1])
    except ValueError:
        return []
    return [item for item in listed if isinstance(item, str)]


def candidates(spec: TaskSpec, train: Sequence[Example], written: Sequence[str] = ()) -> dict[str, Prompt]:
    """Every instruction with every set of demonstrations, by name; the first is the task's own prompt without examples. The order
    mixes both, because a small budget tries only the first ones."""
    by_id = {e.id: e for e in train}
    sets: dict[str, list[str]] = {"zero_shot": []}
    for k in sorted({k for k in spec.baseline.shots if k} or {8}):
        for draw in range(DRAWS):
            try:
                sets[f"{k}_shot_{draw + 1}"] = build_shots(train, k, spec.labels, spec.baseline.seed + draw)
            except ValueError:
                break  # too few examples
    turns = {name: shots_as_turns([by_id[i] for i in ids]) for name, ids in sets.items()}
    ranked: list[tuple[int, str, Prompt]] = []
    for number, text in enumerate(instructions(spec, written), 1):
        system, instead = (None, None) if text == spec.system_prompt.strip() else (text, spec.system_prompt)
        for place, (name, ids) in enumerate(sets.items(), 1):
            prompt = Prompt(len(ids), ids, turns[name], system=system, instead_of=instead)
            ranked.append((number + place, f"instruction_{number}_{name}", prompt))
    return {name: prompt for _, name, prompt in sorted(ranked, key=lambda entry: entry[0])}


def halving(
    spec: TaskSpec,
    prompts: Mapping[str, Prompt],
    rows: Sequence[Example],
    calls: int,
    ask: Ask,
    out_of_time: Callable[[], bool] = lambda: False,
) -> tuple[Search, list[Row]]:
    """Drop the worse half of the prompts, round by round, until one is left or the calls are spent.

    Args:
        prompts: At least two, by name; ties go to the first. If the calls are too few for MIN_ROWS rows with each, only the
            first ones take part.
        rows: Of one fold; every round continues in their order.
        out_of_time: Called before every round but the first.

    Returns:
        The search, and the winner's answers.

    Raises:
        ValueError: There are fewer calls than FEWEST_CALLS, or no rows.
    """
    if calls < FEWEST_CALLS or not rows:
        raise ValueError(f"{calls} calls are too few to compare prompts on {len(rows)} rows")
    least = min(MIN_ROWS, len(rows))
    remaining = list(prompts)[: calls // (2 * least)]
    answers: dict[str, list[Row]] = {name: [] for name in remaining}
    rounds: list[Round] = []
    spent, asked_rows, stopped = 0, 0, ""
    while len(remaining) > 1:
        rounds_left = math.ceil(math.log2(len(remaining)))
        step = min((calls - spent) // (rounds_left * len(remaining)), len(rows) - asked_rows)
        step = step if rounds else max(step, least)
        if not step:
            stopped = "every row was asked" if asked_rows == len(rows) else "the calls are spent"
            break
        if rounds and out_of_time():
            stopped = "the time is up"
            break
        next_rows = rows[asked_rows : asked_rows + step]
        new_answers = ask({name: prompts[name] for name in remaining}, next_rows, f"round {len(rounds) + 1}")
        asked_rows, spent = asked_rows + step, spent + step * len(remaining)
        for name in remaining:
            answers[name] += new_answers[name]
        scores = {name: best_value(spec, answers[name]) for name in remaining}
        rounds.append(Round(len(remaining), asked_rows, {name: round(scores[name], 4) for name in remaining}))
        remaining = sorted(remaining, key=lambda name: -scores[name])[: math.ceil(len(remaining) / 2)]
    winner = max(remaining, key=lambda name: rounds[-1].scores[name])
    return Search(winner, spent, rounds, stopped), answers[winner]


def likely_better(spec: TaskSpec, current: Sequence[Row], searched: Sequence[Row], sources: SourceOf = None) -> bool:
    """Whether a new prompt is likely better than the current one, on the rows that both answered."""
    current_rows, searched_rows = (better_form(spec, rows) for rows in same_rows(current, searched))
    clusters = shared_sources(searched_rows, sources)
    return METRICS[spec.metric].gain(current_rows, searched_rows, spec.output, CONFIDENCE, clusters).surely_above()


def best_value(spec: TaskSpec, rows: Sequence[Row]) -> float:
    """The score of a prompt's answers (:func:`better_form`) in the metric that decides; more is better."""
    metric = METRICS[spec.metric]
    return metric.rank(metric.value(better_form(spec, rows), spec.output))


def better_form(spec: TaskSpec, rows: Sequence[Row]) -> Sequence[Row]:
    """A prompt's free answers or, for labels, the restricted ones if they are better."""
    metric = METRICS[spec.metric]
    forms = [rows]
    if isinstance(spec.output, LabelsOutput) and (restricted := restricted_rows({"it": rows}, "it", spec.output)):
        forms.append(restricted)
    return max(forms, key=lambda form: metric.rank(metric.value(form, spec.output)))

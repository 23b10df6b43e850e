"""Sentences that give the reasons for an advice."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.compare import SourceOf, shared_sources
from finetune_pipeline.evaluation.metrics import METRICS, is_right_or_wrong, metric_title
from finetune_pipeline.evaluation.predictions import SIMPLE
from finetune_pipeline.evaluation.rivals import Rival
from finetune_pipeline.evaluation.simple_models import SIMPLE_MODELS, CommonestAnswer
from finetune_pipeline.evaluation.wording import counted, percent, percent_range, points, points_range, prompt_name
from finetune_pipeline.spec.model import TaskSpec


def measured_accuracy(scores: Mapping[str, Any]) -> str:
    rows, between = counted(scores["n"], "validation row"), percent_range(scores["interval"])
    return f"right on {percent(scores['accuracy'])} of {rows} ({between})"


def best_prompt(spec: TaskSpec, baseline: Mapping[str, Any]) -> str:
    name = baseline["best"]
    scores, title = baseline["prompts"][name], metric_title(spec.metric)
    in_form = scores.get("restricted")
    restricted = f" Restricted to the allowed forms it is {measured_accuracy(in_form)}." if in_form else ""
    hint = " Make that prompt the system_prompt, so that training uses it." if name.startswith("prompt_") else ""
    value = "" if is_right_or_wrong(spec.metric) else f"{title} {points(scores['primary']['value'], sign=False)}, "
    return (
        f"Best of {counted(len(baseline['prompts']), 'prompt')}: {prompt_name(name)}, {value}{measured_accuracy(scores)}; "
        f"{percent(scores['valid_share'])} of its answers are in form.{restricted}{hint}"
    )


def failure_sentences(failures: Mapping[str, Any], retrieval: Mapping[str, Any] | None) -> list[str]:
    wrong = failures["n"] - failures["right"]
    if not wrong:
        return []
    parts = [f"{failures['form']} are of form or style, which fine-tuning fixes first"]
    if retrieval is not None:
        parts.append(
            f"{failures['knowledge']} come right once the nearest examples are shown: knowledge, which retrieval gives"
        )
    parts.append(f"{failures['judgement']} stay wrong and must be learned")
    if failures["unnamed"]:
        parts.append(f"{failures['unnamed']} differ from the gold text in nothing a rule can name")
    return [
        f"Of {counted(wrong, 'wrong answer')} of the best prompt without retrieval ({prompt_name(failures['prompt'])}), "
        f"{'; '.join(parts)}."
    ]


def simple_sentences(
    spec: TaskSpec, baseline: Mapping[str, Any], rows: Mapping[str, Sequence[Mapping[str, Any]]], sources: SourceOf
) -> list[str]:
    """Scores of the simple models, and whether each is significantly above the most common answer."""
    sentences = []
    metric, constant = METRICS[spec.metric], rows.get(SIMPLE + CommonestAnswer.name, ())
    clusters = shared_sources(constant, sources)
    for name, scores in (baseline.get("simple") or {}).items():
        sentence = f"{SIMPLE_MODELS[name].title}: {measured_accuracy(scores)}"
        if name != CommonestAnswer.name and constant:
            lead = metric.gain(constant, rows[SIMPLE + name], spec.output, spec.gates.confidence, clusters)
            if not lead.surely_above():
                sentence += ", which is not significantly above always giving the most common answer"
        sentences.append(f"{sentence}.")
    return sentences


def retrieval_adds(retrieval: Mapping[str, Any]) -> str:
    return (
        f"Showing the {prompt_name(retrieval['prompt'])} adds {points(retrieval['gain'])} points "
        f"({points_range(retrieval['interval'])}) to {prompt_name(retrieval['over'])}"
    )


def must_reach_sentences(spec: TaskSpec, rival: Rival, must_reach: float | None) -> list[str]:
    if must_reach is None:
        return []
    return [
        f"To be promoted, a fine-tuned model has to reach about {percent(must_reach)} in {metric_title(spec.metric)} on the "
        f"test: what {rival.title} reaches ({percent(rival.value)}) and the smallest gain over it that these test rows show."
    ]


def cost_sentences(spec: TaskSpec, tokens: Mapping[str, Any] | None) -> list[str]:
    calls, price = spec.advise.calls_per_month, spec.advise.dollars_per_million_tokens
    if tokens is None:
        return []
    before, after, answer = tokens["best"]["prompt"], tokens["tuned"]["prompt"], tokens["best"]["answer"]
    sentence = (
        f"A call of the best prompt reads {before:,.0f} tokens and writes {answer:,.0f}; a fine-tuned model needs no examples "
        f"and reads {after:,.0f}."
    )
    if calls and before > after:
        saved, total = ((count * calls / 1e6) for count in (before - after, before + answer))
        paid = f", {saved * price:,.2f} of {total * price:,.2f} dollars" if price else ""
        sentence += f" At {calls:,} calls a month that is {saved:,.1f} million tokens less{paid}."
    return [sentence]


def privacy_sentences(spec: TaskSpec) -> list[str]:
    out = "API models and hosted training are out of the question"
    return [f"The texts must not leave your machines (advise.private): {out}."] if spec.advise.private else []

"""What the report says besides the task's own test: general ability before and after training, and what people said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.ability.harness_tasks import CATEGORY
from finetune_pipeline.evaluation.wording import (
    NOTHING,
    counted,
    is_interval,
    is_number,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
)
from finetune_pipeline.report.tables import Table


def ability_sentences(told: Mapping[str, Any] | None) -> list[str]:
    """What was lost, in words. told: facts of the step general_ability."""
    if not told:
        return []
    if not told.get("items"):
        return ["General ability was not measured: ability.suite is off, and there are neither files nor tasks."]
    harness = told.get("harness")
    sentences = [
        f"Of {counted(told['n'], 'question')} that have nothing to do with the task, the base model has "
        f"{percent(told['before']['accuracy'])} right and the fine-tuned one {percent(told['after']['accuracy'])}: "
        f"{_lost(told['drop'])} (change {points_range([-told['interval'][1], -told['interval'][0]])}; {told['lost']} lost, "
        f"{told['gained']} gained, exact McNemar p {p_value(told['mcnemar_p'])}). The likelihood of the right choice is "
        f"compared; {'what tasks of lm-evaluation-harness compare is theirs' if harness else 'nothing is generated'}."
    ]
    if harness:
        tasks = ", ".join(
            f"{name} ({of['metric']}, {counted(of['rows'], 'row')}, {counted(of['shots'], 'shot')})"
            for name, of in harness["tasks"].items()
        )
        sentences.append(f"Tasks of lm-evaluation-harness {harness['lm_eval']}, run offline: {tasks}.")
    if champion := told.get("champion"):
        low, high = -champion["interval"][1], -champion["interval"][0]
        sentences.append(
            f"The present champion has {percent(champion['before']['accuracy'])} of {counted(champion['n'], 'question')} "
            f"right; against it {_lost(champion['drop'])} (change {points_range([low, high])}; {champion['lost']} lost, "
            f"{champion['gained']} gained)."
        )
    if is_number(told.get("smallest_visible")):
        sentences.append(
            f"So many questions show a loss of {points(told['smallest_visible'], sign=False)} points four times in five; a "
            "smaller one may go unseen."
        )
    if text := told.get("text"):
        sentences.append(
            f"Plain text costs {text['before']:.3f} bits a byte before and {text['after']:.3f} after training "
            f"(change {text['rise']:+.3f}, {text['interval'][0]:+.3f} to {text['interval'][1]:+.3f}; more is worse)."
        )
    if told.get("failed"):
        sentences.append(f"{counted(len(told['failed']), 'item')} could not be scored and counts on neither side.")
    return sentences


def _lost(drop: float) -> str:
    size = f"{abs(100 * drop):.1f} points"
    return f"{size} lost" if drop > 0 else f"{size} gained" if drop < 0 else "nothing lost"


def ability_table(told: Mapping[str, Any] | None) -> Table | None:
    """Every category before and after, and against the champion where there is one."""
    if not told or not told.get("items"):
        return None
    champion, rows = (told.get("champion") or {}).get("categories"), []
    for name, of in told["categories"].items():
        named = name if name.startswith(CATEGORY) else name.replace("_", " ")
        row = [named, number(of["n"]), _level(of, "before"), _level(of, "after"), _change(of)]
        if champion:
            row[3:3] = [_level(champion[name], "before")] if name in champion else [NOTHING]
            row.append(_change(champion[name]) if name in champion else NOTHING)
        rows.append(row)
    if champion:
        head = ["Ability", "Items", "Before", "Champion", "After", "Change", "Change against the champion"]
        return Table(head, rows, "lrrrrrr")
    return Table(["Ability", "Items", "Before", "After", "Change"], rows, "lrrrr")


def _level(of: Mapping[str, Any], side: str) -> str:
    return percent(of[side]) if of["unit"] == "accuracy" else f"{of[side]:.3f} bits a byte"


def _change(of: Mapping[str, Any]) -> str:
    """With its interval. A drop of accuracy is a negative change; the rise of a text's cost is what it is."""
    shares, interval = of["unit"] == "accuracy", of.get("interval")
    told = points(of["after"] - of["before"]) if shares else f"{of['after'] - of['before']:+.3f}"
    if not is_interval(interval):
        return told
    low, high = (-interval[1], -interval[0]) if shares else interval
    return f"{told} ({points_range([low, high]) if shares else f'{low:+.3f} to {high:+.3f}'})"


def people_sentences(told: Mapping[str, Any] | None, task: str) -> list[str]:
    """What people said, in words. told: facts of the step human_review."""
    if told is None:
        return []
    if not told["rated"]:
        waiting = told.get("of_earlier_candidates", 0)
        earlier = f" {counted(waiting, 'rating')} of earlier candidates stay where they are." if waiting else ""
        return [
            f"Nobody has looked at these answers yet: `finetune review {task}` shows them, side by side and blind.{earlier}"
        ]
    sentences = []
    if half := told["random"]:
        own, base = half["candidate"], half["base"]
        sentences.append(
            f"Of {counted(half['n'], 'answer')} drawn at random people accept {percent(own['share'])} of the fine-tuned "
            f"model's ({percent_range(own['interval'])}) and {percent(base['share'])} of the base model's "
            f"({percent_range(base['interval'])}); only the fine-tuned one's in {half['only_candidate']} cases, only the "
            f"base's in {half['only_base']} (gain {points(half['gain'])} points, {points_range(half['interval'])}, exact p "
            f"{p_value(half['p'])})."
        )
    if half := told["selected"]:
        sentences.append(
            f"Of {counted(half['n'], 'answer')} picked because they looked wrong or the models differed, "
            f"{half['only_candidate']} are acceptable from the fine-tuned model alone, {half['only_base']} from the base "
            f"alone, {half['both']} from both and {half['neither']} from neither. They say how the model fails, not how often."
        )
    if agreement := told["agreement"]:
        kappa = agreement["kappa"]
        sentences.append(
            f"{counted(agreement['items'], 'item')} were judged by more than one person; they agree on "
            f"{percent(agreement['share'])}"
            + (f" (Cohen's kappa {kappa:.2f})." if is_number(kappa) else ", always with the same answer.")
        )
    raters = ", ".join(f"{name} ({n})" for name, n in told["raters"].items())
    return [*sentences, f"Raters: {raters}."]


def comments_table(told: Mapping[str, Any] | None) -> Table | None:
    """What people wrote."""
    rows: Sequence[Sequence[str]] = [
        [c["id"], "yes" if c["candidate"] else "no", "yes" if c["base"] else "no", c["comment"], c["rater"]]
        for c in (told or {}).get("comments", [])
    ]
    return (
        Table(["Example", "Fine-tuned accepted", "Base accepted", "Comment", "Rater"], rows, "lllll") if rows else None
    )

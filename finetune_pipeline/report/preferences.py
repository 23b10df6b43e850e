"""What the report says of a judging model and of likeness by embeddings: its agreement with people before its opinion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.wording import counted, is_number, p_value, percent, percent_range
from finetune_pipeline.report.tables import Table


def judge_sentences(told: Mapping[str, Any] | None) -> list[str]:
    """Whether the judge is believed, why, and what it says if so. told: preferences.compared.judged_pairs."""
    if not told:
        return []
    sentences = [
        f"{told['name']} is believed: it agrees with people."
        if told["believed"]
        else f"{told['name']} is not believed, and its opinion does not count: {'; '.join(told['refused'])}."
    ]
    if told["rated"]:
        sentences.append(
            f"With people on {counted(told['rated'], 'pair')} of different answers: {_kappa(told['kappa'], told['interval'])}, "
            f"the same choice in {percent(told['agreement'])}; alike in both orders {percent(told['consistent'])}."
        )
    if verdict := told["verdict"]:
        decided = verdict["wins"] + verdict["losses"]
        sentences.append(
            f"Of {counted(decided, 'decided pair')} of the test it prefers the fine-tuned answer in "
            f"{percent(verdict['share'])} ({percent_range(verdict['interval'])}, exact p {p_value(verdict['p'])}); "
            f"{counted(verdict['ties'], 'tie')}, {verdict['equal']} equal answers, {verdict['failed']} not judged."
        )
    return sentences


def judge_table(told: Mapping[str, Any] | None) -> Table | None:
    """What was tried on the judge: place, length, empty words."""
    if not told or not told["rated"]:
        return None
    tests = (
        ("Contradicts itself towards the first place", "towards the second", told["place"]),
        ("Wrong towards the longer answer", "towards the shorter", told["length"]),
        ("Prefers the answer with empty words", "the one without", told["padding"]),
    )
    rows = [[f"{one}; {other}", str(of["wins"]), str(of["losses"]), p_value(of["p"])] for one, other, of in tests]
    return Table(["Bias of the judge", "First", "Second", "Exact p"], rows, "lrrr")


def similarity_sentences(told: Mapping[str, Any] | None) -> list[str]:
    """Likeness to the references before and after. told: preferences.compared.similar."""
    if not told:
        return []
    low, high = told["interval"]
    agreement = (
        f"Preferring the nearer answer agrees with people on {counted(told['rated'], 'pair')}: "
        f"{_kappa(told['kappa'], told['kappa_interval'])}."
        if told["rated"]
        else "Nobody has rated these answers, so nothing is known of its agreement with people."
    )
    return [
        f"Likeness to the reference answers (mean cosine similarity, {told['model']}, {counted(told['n'], 'row')}): base "
        f"{told['base']:.3f}, fine-tuned {told['candidate']:.3f}, gain {told['gain']:+.3f} ({low:+.3f} to {high:+.3f}). It "
        "knows nothing of facts: a wrong number leaves it almost where it was.",
        agreement,
    ]


def _kappa(kappa: Any, interval: Any) -> str:
    if not is_number(kappa):
        return "kappa undefined, since one side always says the same"
    between = f" ({interval[0]:.2f} to {interval[1]:.2f})" if interval else ""
    return f"Cohen's kappa {kappa:.2f}{between}"

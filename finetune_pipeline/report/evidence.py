"""What the evidence rests on, for the pages: the level this look had, shared sources, power, earlier versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from finetune_pipeline.evaluation.wording import counted, is_number, number, percent, points
from finetune_pipeline.planning.advice import DECISIONS
from finetune_pipeline.report.tables import Table

Evaluation = Mapping[str, Any]


def level_sentences(evaluation: Evaluation) -> list[str]:
    """How strictly this candidate was judged, and why."""
    level = (evaluation.get("seal") or {}).get("level") or {}
    look, left, alpha, spent = (level.get(key) for key in ("look", "level", "alpha", "spent"))
    if not is_number(look) or not is_number(left) or not is_number(alpha) or not is_number(spent):
        return []
    return [
        f"This is candidate {int(look)} that the test judges; its gains are judged by {100 * (1 - left):.4g}% intervals. The "
        f"chance that one of the {int(look)} was promoted without being better is at most {percent(spent)}, and stays under "
        f"{percent(alpha)} however many follow, as long as nobody trains on what this report shows of the test."
    ]


def advice_sentences(evaluation: Evaluation) -> list[str]:
    """What was advised before training, and its reasons. Empty for evaluations without advice."""
    advice = (evaluation.get("baseline") or {}).get("advice") or {}
    return [DECISIONS[advice["decision"]], *advice["reasons"]] if advice else []


def design_sentences(evaluation: Evaluation) -> list[str]:
    """What was told before training about the size of the test, and whether its rows are independent."""
    told = []
    power = (evaluation.get("baseline") or {}).get("power") or {}
    if power.get("sentence"):
        told.append(f"Before training: {power['sentence']}")
    sources = evaluation.get("sources") or {}
    if sources.get("shared"):
        effect = evaluation["comparison"].get("design_effect")
        told.append(
            f"The {number(sources['rows'])} rows come from {number(sources['sources'])} sources, the largest with "
            f"{counted(sources['largest'], 'row')}; rows of one source tend to be right or wrong together, so intervals "
            f"count sources: for the gain the rows are worth {number(int(evaluation['n'] / effect))} independent ones."
        )
    return told


def history_sentences(evaluation: Evaluation) -> list[str]:
    """The test rows over all versions that were judged on them."""
    history = evaluation.get("history") or {}
    if not history.get("versions"):
        return []
    rows = history["rows"]
    told = [
        f"Over all versions judged so far {counted(rows['always_right'], 'row')} were always right, "
        f"{number(rows['never_right'])} never (hard, or labelled wrongly: look at them first), and "
        f"{number(rows['changing'])} sometimes."
    ]
    if history["lost_total"]:
        more = f" and {history['lost_total'] - len(history['lost'])} more" if history["lost_total"] > 20 else ""
        told.append(
            f"{counted(history['lost_total'], 'row')} that every earlier version had right this one gets wrong: "
            f"{', '.join(history['lost'])}{more}."
        )
    return told


def history_table(evaluation: Evaluation) -> Table | None:
    """This candidate against every earlier one, on the rows both answered."""
    versions: Sequence[Mapping[str, Any]] = (evaluation.get("history") or {}).get("versions") or []
    if not versions:
        return None
    names = ("rows", "fixed", "broken", "both_right", "both_wrong")
    rows = [[v["candidate"], *(number(v[name]) for name in names), points(_net(v))] for v in versions]
    return Table(["Against", "Rows", "Fixed", "Broken", "Both right", "Both wrong", "Gain, points"], rows, "lrrrrrr")


def _net(version: Mapping[str, Any]) -> float | None:
    return (version["fixed"] - version["broken"]) / version["rows"] if version["rows"] else None


def never_break_table(evaluation: Evaluation) -> Table | None:
    """Listed examples that are wrong or were not asked."""
    told = evaluation.get("never_break") or {}
    rows = [[b["id"], b["text"], b["gold"], b["said"] or "(nothing)"] for b in told.get("broken") or []]
    rows += [[i, "(not in the sealed test)", "", ""] for i in told.get("missing") or []]
    return Table(["Must not break", "Text", "Right", "Said"], rows, "llll") if rows else None

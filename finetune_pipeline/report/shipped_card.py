"""Writes the README.md of a registered simple model or prompt: what it is, its score on the sealed test, and its files."""

from collections.abc import Mapping

from finetune_pipeline.evaluation.decisions import Winner
from finetune_pipeline.evaluation.finalists import scores_of
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.evaluation.winner import finalist_of, gates_of
from finetune_pipeline.report.page import plain
from finetune_pipeline.report.stored import Report

_LIMITS = {
    "simple": "It holds no language model, knows only the words of its training rows, and answers every text, even one unlike all "
    "of them.",
    "prompt": "Nothing was trained: the base model answers with this prompt. Fixed and retrieved examples are training rows.",
}


def shipped_card(report: Report, winner: Winner, files: Mapping[str, str], base: str | None) -> str:
    """Return the card, without any row of the data.

    files: SHA-256 by name. base: of a prompt, the id of its base model.
    """
    lines = [f"# {report.task.name}: {winner.title}", "", plain(report.task.description), ""]
    lines += [
        f"**{plain(report.verdict.headline)}** {plain(report.verdict.answer)} {plain(report.verdict.sentence)}",
        "",
    ]
    finalist = finalist_of(winner, report)
    scores = scores_of(report, finalist) if finalist else None
    if scores:
        name = scores.primary.name
        score = score_text(name, scores.primary.value, scores.primary.interval)
        lines += ["| rows | n | metric | score (interval) |", "|---|---:|---|---:|"]
        lines += [f"| the sealed test | {scores.n} | {metric_title(name)} | {score} |", ""]
    if base:
        lines += [f"Base model: {plain(base)}. Answers are {winner.mode or 'free'}.", ""]
    lines += [f"Data version `{report.versions.get('splits')}`. {_LIMITS[str(winner.kind)]}", ""]
    lines += [
        "| gate | result |",
        "|---|---|",
        *(f"| {gate.name} | {gate.status} |" for gate in gates_of(winner, report, report.gates)),
        "",
    ]
    lines += ["| file | SHA-256 |", "|---|---|", *(f"| {name} | {digest} |" for name, digest in files.items())]
    return "\n".join(lines) + "\n"

"""What stands behind the scores, for the pages: the data card, what was supervised, what it cost, where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_pipeline.evaluation.wording import NOTHING, counted, duration, is_number, number, percent
from finetune_pipeline.report.tables import Table

Evaluation = Mapping[str, Any]
SHORT_HASH = 16
_STEPS = {
    "few_shot_baseline": "Prompting the base model on validation",
    "adapter": "Training",
    "merged_model": "Merge and comparison with what was trained",
    "general_ability": "General ability of the candidate",
    "test_predictions": "Answers to the sealed test, all models",
}
_MODELS = {"base": "Base, best prompt", "candidate": "Fine-tuned", "champion": "Champion"}


def sources_table(evaluation: Evaluation) -> Table | None:
    """The raw files the task was made from, with their digests."""
    files = (evaluation["data"].get("raw_examples") or {}).get("files") or []
    rows = [
        [
            str(f["file"]),
            number(f.get("lines")),
            str(f.get("shape", "")).replace("_", " "),
            str(f["sha256"])[:SHORT_HASH],
        ]
        for f in files
        if f.get("lines")
    ]
    return Table(["File", "Rows", "Shape", "SHA-256"], rows, "lrll") if rows else None


def card_sentences(evaluation: Evaluation) -> list[str]:
    """The data in words: where rows come from, how long they are, what was taken out, what was found over all."""
    quality = evaluation.get("quality") or {}
    told = []
    whole = (quality.get("tokens") or {}).get("whole") or {}
    if is_number(whole.get("p50")):
        told.append(
            f"A row has {number(whole['p50'])} tokens in the median, {number(whole['p99'])} in 99 of 100 rows at most, and "
            f"{number(whole['max'])} at the longest."
        )
    told += [*scrubbed_sentences(evaluation), *leak_sentences(evaluation)]
    for name, part in (quality.get("parts") or {}).items():
        if isinstance(part, Mapping) and part.get("passed") is False:
            told.append(f"Found over all rows ({name.replace('_', ' ')}): {part.get('message')}.")
    if quality:
        told.append("The page report.html of the step data_quality shows the data in full.")
    return told


def scrubbed_sentences(evaluation: Evaluation) -> list[str]:
    """Personal data and secrets that were taken out, by kind."""
    clean = evaluation["data"].get("clean_examples") or {}
    scrubbed = {kind: n for kind, n in (clean.get("scrubbed") or {}).items() if is_number(n) and n}
    if not scrubbed:
        return []
    kinds = ", ".join(f"{kind} ({number(n)})" for kind, n in scrubbed.items())
    return [f"Personal data and secrets were replaced before anything else was done: {kinds}."]


def leak_sentences(evaluation: Evaluation) -> list[str]:
    """Whether test rows resemble training rows."""
    leaks = (evaluation["data"].get("splits") or {}).get("leaks")
    n = sum(leaks.values()) if isinstance(leaks, Mapping) else leaks
    if not is_number(n):
        return []
    if not n:
        return ["No test row repeats or resembles a training row."]
    return [f"{counted(int(n), 'test row')} repeats or resembles a training row."]


def supervision_sentences(evaluation: Evaluation) -> list[str]:
    """What the model was taught, in words; the audit's counters that are not zero stand beside it."""
    audits = evaluation.get("supervision") or {}
    rows = sum(a["rows"] for a in audits.values())
    if not rows:
        return []
    learned, tokens = (sum(a[key] for a in audits.values()) for key in ("loss_tokens", "tokens"))
    share = percent(learned / tokens) if tokens else NOTHING
    return [
        f"Before the first step all {number(rows)} rows of training and validation were read token by token: "
        f"{number(learned)} of {number(tokens)} tokens ({share}) carry loss. Every row counted below as a fault would have "
        "been learned wrongly or not at all. The page audit.html of the step adapter shows more rows."
    ]


def cost_sentences(evaluation: Evaluation) -> list[str]:
    """What was spent, and what a request costs from now on."""
    told = evaluation.get("cost") or {}
    lines = []
    if told.get("steps"):
        lines.append(
            f"Making and judging this candidate took {duration(told['seconds'])} of computing on this machine."
        )
    planned, took = told.get("planned") or {}, ((told.get("steps") or {}).get("adapter") or {}).get("train_seconds")
    if is_number(planned.get("low")) and is_number(planned.get("high")) and is_number(took):
        lines.append(
            f"Training alone, without loading and saving, took {duration(took)}; the plan had said "
            f"{duration(planned['low'])} to {duration(planned['high'])}."
        )
    saved = told.get("saved_share")
    if is_number(saved) and abs(saved) >= 0.005:
        size = percent(abs(saved))
        lines.append(
            f"A request takes {size} {'fewer' if saved > 0 else 'more'} tokens than the base model with its best prompt."
        )
    return lines


def cost_table(evaluation: Evaluation) -> Table | None:
    """Time and memory of every step that computes."""
    steps = (evaluation.get("cost") or {}).get("steps") or {}
    rows = [
        [
            _STEPS.get(name, name),
            duration(of["seconds"]),
            duration(of["cpu_seconds"]),
            f"{of['peak_memory_mib']:,.0f} MiB" if is_number(of["peak_memory_mib"]) else NOTHING,
        ]
        for name, of in steps.items()
    ]
    return Table(["Step", "Time", "Processor time", "Peak memory"], rows, "lrrr") if rows else None


def tokens_table(evaluation: Evaluation) -> Table | None:
    """Tokens a request, by model."""
    tokens = (evaluation.get("cost") or {}).get("tokens") or {}
    rows = [
        [_MODELS.get(name, name), f"{of['prompt']:.0f}", f"{of['answer']:.1f}", f"{sum(of.values()):.0f}"]
        for name, of in tokens.items()
    ]
    return Table(["Mean tokens a request", "Prompt", "Answer", "Together"], rows, "lrrr") if rows else None


def prices_table(evaluation: Evaluation) -> Table | None:
    """What the same training would cost elsewhere, by the list of prices."""
    rows = [
        [p["engine"], p["model"], _money(low) if low == high else f"{_money(low)} to {_money(high)}", str(p["date"])]
        for p in (evaluation.get("cost") or {}).get("prices") or []
        for low, high in [p["dollars_between"]]
    ]
    return Table(["The same training elsewhere", "Model", "Price", "As of"], rows, "llrl") if rows else None


def _money(dollars: float) -> str:
    return "less than $0.01" if 0 < dollars < 0.01 else f"${dollars:,.2f}"

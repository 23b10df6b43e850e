"""Has production moved away from what the model was trained on? Sizes and p-values, corrected for looking at several."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from finetune_pipeline.artifacts import write_json
from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.statistics import holm
from finetune_pipeline.spec.model import TaskSpec

MIN_ROWS = 30
"""Fewer production rows than this say nothing about a distribution."""


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _label_mix(train: Sequence[str], served: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Total variation distance of the label shares; chi-square test on the 2 × labels table."""
    a, b = Counter(train), Counter(served)
    table = np.array([[a[label] for label in labels], [b[label] for label in labels]], dtype=float)
    table = table[:, table.sum(axis=0) > 0]
    shares = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    p = float(stats.chi2_contingency(table).pvalue) if table.shape[1] > 1 and (table.sum(axis=1) > 0).all() else 1.0
    return {
        "size": round(float(np.abs(shares[0] - shares[1]).sum() / 2), 4),
        "p": p,
        "meaning": "share of answers that would have to change label to restore the training mix",
    }


def drift_report(
    spec: TaskSpec, train: Sequence[Example], rows: Sequence[Mapping[str, Any]], out: Path
) -> dict[str, Any]:
    """Compare production rows with the training split.

    Signals: length of the input in words (Kolmogorov-Smirnov), share of words never seen in training (Mann-Whitney per
    row), mix of predicted labels (chi-square), answers outside the label set (Fisher, against none in training).
    p-values are corrected by Holm over the signals. With fewer than 30 rows: no judgement, and that is said.

    Returns facts {rows, judged, signals {name: {size, p, p_holm, meaning}}, drifted [names], sentence}; writes drift.json.
    """
    facts: dict[str, Any] = {"rows": len(rows), "judged": len(rows) >= MIN_ROWS, "signals": {}, "drifted": []}
    if not facts["judged"]:
        facts["sentence"] = f"{len(rows)} production rows: too few to judge drift (at least {MIN_ROWS} are needed)."
        write_json(out / "drift.json", facts)
        return facts
    train_words = [_words(e.user_text) for e in train]
    served_words = [_words(str(r["input"])) for r in rows]
    known = {w for words in train_words for w in words}
    # a training row's own words are known by definition: compare with words that at least two training rows share
    often = {w for w, n in Counter(w for words in train_words for w in set(words)).items() if n > 1}

    def unseen(words: list[str], vocabulary: set[str]) -> float:
        return sum(w not in vocabulary for w in words) / max(len(words), 1)

    lengths = stats.ks_2samp([len(w) for w in train_words], [len(w) for w in served_words])
    before, now = [unseen(w, often) for w in train_words], [unseen(w, often) for w in served_words]
    signals: dict[str, dict[str, Any]] = {
        "input_length": {
            "size": round(float(lengths.statistic), 4),
            "p": float(lengths.pvalue),
            "meaning": "largest gap between the two cumulative distributions of words per input",
        },
        "unseen_words": {
            "size": round(float(np.mean(now) - np.mean(before)), 4),
            "p": float(stats.mannwhitneyu(now, before, alternative="greater").pvalue),
            "meaning": "rise of the share of words that are rare in the training split",
            "never_seen_share": round(float(np.mean([unseen(w, known) for w in served_words])), 4),
        },
    }
    if spec.labels:
        answers = [str(r["output"]).strip() for r in rows]
        signals["label_mix"] = _label_mix(
            [e.answer for e in train], [a for a in answers if a in spec.labels], spec.labels
        )
        invalid = sum(a not in spec.labels for a in answers)
        p = float(
            stats.fisher_exact([[invalid, len(answers) - invalid], [0, len(train)]], alternative="greater").pvalue
        )
        signals["format_failures"] = {
            "size": round(invalid / len(answers), 4),
            "p": p,
            "meaning": "share of answers outside the label set",
        }
    for name, corrected in zip(signals, holm([s["p"] for s in signals.values()]), strict=True):
        signals[name]["p_holm"] = float(corrected)
    limit = 1 - spec.gates.confidence
    facts["signals"] = signals
    facts["drifted"] = [name for name, s in signals.items() if s["p_holm"] < limit]
    facts["sentence"] = (
        f"Production has drifted in {', '.join(facts['drifted'])} ({len(rows)} rows)."
        if facts["drifted"]
        else f"No drift found in {len(rows)} production rows."
    )
    write_json(out / "drift.json", facts)
    return facts

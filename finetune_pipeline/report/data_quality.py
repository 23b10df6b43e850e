"""Writes the data_quality artifact: the report as JSON, HTML and Markdown, and the rows that people must review."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import numpy as np

from finetune_pipeline.data.dedup.row_table import load_rows
from finetune_pipeline.data.examples import Example, stream_examples
from finetune_pipeline.data.json_lines import read_rows, write_rows
from finetune_pipeline.data.quality.parts import QualityFacts, QualityPart, QualityTokens, TokensPart
from finetune_pipeline.data.quality.report import data_quality
from finetune_pipeline.data.quality.synthetic import review_line, review_sample
from finetune_pipeline.data.scrub.placeholders import SAMPLES, SHOWN, Sample, chosen_samples
from finetune_pipeline.data.split.ledger import SPLITS
from finetune_pipeline.data.split.splitting import ids_and_splits
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.findings import as_rows
from finetune_pipeline.planning.base_counter import TemplateOnly
from finetune_pipeline.planning.tokens import TokenCounter, token_counts, unencodable
from finetune_pipeline.report.data_page import data_page
from finetune_pipeline.report.page import page_html, page_markdown
from finetune_pipeline.spec.model import TaskSpec

TO_REVIEW = "to_review.jsonl"


def write_quality(
    spec: TaskSpec,
    *,
    reviewed: Path,
    clean: Path,
    splits: Path | None,
    counter: TokenCounter | None,
    stages: Mapping[str, object],
    out: Path,
) -> QualityFacts:
    """Assess the data of a task as a whole (see :func:`finetune_pipeline.data.quality.report.data_quality`).

    Arguments are folders of artifacts; `stages`: facts of the data steps by name. Writes ``quality.json`` (everything),
    ``findings.jsonl``, ``report.html``, ``report.md`` and ``to_review.jsonl`` (synthetic rows that wait for a decision:
    fill it in and put it into the task's ``reviews/``). Returns facts.
    """
    out.mkdir(parents=True, exist_ok=True)
    rows = load_rows(clean)
    clusters = dict(zip(_hex(rows["id"]), _hex(rows["cluster"]), strict=True))
    ids, codes = ids_and_splits(splits) if splits else (rows["id"][:0], np.zeros(0, np.int8))
    assignments = dict(zip(_hex(ids), np.array(SPLITS, object)[codes], strict=True))
    decided = read_rows(reviewed / "decisions.jsonl") if (reviewed / "decisions.jsonl").exists() else []
    decisions = {row["id"]: row["decision"] for row in decided}
    synthetic = [e for e in stream_examples(clean) if e.origin == "synthetic"]
    report = data_quality(
        stream_examples(reviewed),
        assignments,
        clusters,
        decisions,
        spec,
        partial(_token_part, counter, spec) if counter else None,
        synthetic,
    )
    # the report names test rows, but hides their texts until the test is opened
    hidden = "(a row of the sealed test)"
    suspects = [
        msgspec.structs.replace(suspect, text=hidden) if assignments.get(suspect.id) == "test" else suspect
        for suspect in report.noise.suspects
    ]
    samples = (Sample(**row) for row in read_rows(clean / SAMPLES))
    open_samples = (sample for sample in samples if assignments.get(sample.id) != "test")
    report = msgspec.structs.replace(
        report,
        noise=msgspec.structs.replace(report.noise, suspects=suspects),
        scrubbed=chosen_samples(open_samples, SHOWN),
    )
    write_json(out / "quality.json", report.to_json())
    write_rows(out / "findings.jsonl", as_rows(report.findings))
    sample = review_sample(synthetic, clusters, spec.data.synthetic)
    waiting = write_rows(out / TO_REVIEW, (review_line(e) for e in sample if e.id not in decisions))
    page = data_page(report, spec.name, spec.description, stages, spec.labels)
    (out / "report.html").write_text(page_html(page), "utf-8")
    (out / "report.md").write_text(page_markdown(replace(page, sections=page.sections[:1])), "utf-8")
    part = report.tokens
    return QualityFacts(
        rows=report.rows,
        passed=report.passed,
        blocked_by=report.blocked_by,
        parts={
            name: QualityPart(passed=part.passed, message=part.message, blocking=part.blocking)
            for name, part in report.parts.items()
        },
        by_rule=dict(Counter(f.rule for f in report.findings).most_common()),
        to_review=waiting,
        tokens=None
        if part.total is None
        else QualityTokens(total=part.total, training_tokens=part.training_tokens, whole=part.whole),
    )


def _token_part(
    counter: TokenCounter, spec: TaskSpec, train: Sequence[Example], of: int, others: Sequence[Example]
) -> TokensPart:
    if isinstance(counter, TemplateOnly):
        return unencodable([*train, *others], counter)
    return token_counts(train, counter, spec, of, others)


def _hex(numbers: np.ndarray) -> list[str]:
    return [f"{n:016x}" for n in numbers.tolist()]

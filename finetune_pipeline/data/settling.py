"""Within a cluster of like prompts: who stays, who repeats whom, and who contradicts whom."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from finetune_pipeline.data.columns import fetch
from finetune_pipeline.data.differences import differ_in_meaning
from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.formats import quoted
from finetune_pipeline.data.preparing import quarantined
from finetune_pipeline.data.shingles import exact_form, similarity
from finetune_pipeline.findings import Finding, as_rows
from finetune_pipeline.spec import TaskSpec

KEPT, EXACT, NEAR, CONTRADICTION = range(4)
_ORIGIN_ORDER = {"human": 0, "production": 1, "synthetic": 2}
_PARTNERS = 50
"""How many rows a row is compared with inside its cluster; in larger ones more is kept, never less."""
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Batch:
    """Clusters to settle: members are rows `start:end` of part `part`; cluster i has members bounds[i]:bounds[i+1]."""

    folders: list[Path]
    part: np.ndarray
    start: np.ndarray
    end: np.ndarray
    bounds: np.ndarray


@dataclass
class Settled:
    """For every member of a batch: `state`, and `of`: the member (counted from its cluster's first) it repeats.

    `similarity`: to that member's prompt. `findings` and `quarantine` name the cluster's place in the batch first.
    """

    state: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    findings: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)
    quarantine: list[tuple[int, list[dict[str, Any]]]] = field(default_factory=list)


def preference(example: Example) -> tuple[int, int, str, str, str, int]:
    """Sort key, best first: human before production before synthetic, then longest, newest, smallest id, source."""
    return (
        _ORIGIN_ORDER[example.origin],
        -len(example.user_text),
        _newest_first(example.time),
        example.id,
        str(example.source.get("file")),
        int(example.source.get("line") or 0),
    )


def _newest_first(time: str | None) -> str:
    """Sorts RFC 3339 times in UTC from the newest to the oldest, and before rows without one."""
    return "".join(chr(0x7F - ord(c)) if ord(c) < 0x7F else c for c in time) if time else "\x7f"


def settle(batch: Batch, spec: TaskSpec) -> Settled:
    """Decide every cluster of the batch."""
    examples = fetch(batch.folders, batch.part, batch.start, batch.end)
    n = len(examples)
    done = Settled(np.zeros(n, np.uint8), np.zeros(n, np.uint32), np.ones(n, np.float32))
    for i in range(len(batch.bounds) - 1):
        a, b = int(batch.bounds[i]), int(batch.bounds[i + 1])
        _settle_cluster(examples[a:b], i, a, spec, done)
    return done


def _settle_cluster(members: Sequence[Example], number: int, base: int, spec: TaskSpec, done: Settled) -> None:
    order = sorted(range(len(members)), key=lambda i: preference(members[i]))
    groups: list[list[int]] = []  # members that ask the same thing, the best first
    by_form: dict[str, list[int]] = {}
    by_numbers: defaultdict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    for i in order:
        form = exact_form(members[i].user_text)
        group = by_form.get(form)
        if group is None:
            # texts with other numbers never say the same: only groups with the same ones are worth a look
            rivals = by_numbers[tuple(_NUMBER.findall(form))]
            group = next((g for g in rivals[:_PARTNERS] if _same(members[g[0]], members[i])), None)
            if group is None:
                groups.append(group := [])
                rivals.append(group)
            by_form[form] = group
        group.append(i)
    findings: list[Finding] = []
    bad: list[dict[str, Any]] = []
    for group in groups:
        _settle_group(group, members, base, spec, done, findings, bad)
    if findings:
        done.findings.append((number, as_rows(findings)))
    if bad:
        done.quarantine.append((number, bad))


def _settle_group(
    group: list[int],
    members: Sequence[Example],
    base: int,
    spec: TaskSpec,
    done: Settled,
    findings: list[Finding],
    bad: list[dict[str, Any]],
) -> None:
    """Rows that ask the same: repeats of the best row go, different answers are a contradiction."""
    answers: defaultdict[str, list[int]] = defaultdict(list)
    for i in group:
        answers[_answer_form(members[i], spec)].append(i)
    if len(answers) > 1:
        clashing = set(group) if spec.labels else _clashing(group, members, spec)
        severity = "error" if spec.data.contradictions == "quarantine" else "warning"
        for i in (i for i in group if i in clashing):
            mine = _answer_form(members[i], spec)
            others = (j for form, rows in answers.items() if form != mine for j in rows if j in clashing)
            finding = _contradiction(members[i], [members[j] for j in islice(others, _PARTNERS)], severity, spec)
            findings.append(finding)
            if severity == "error":
                bad.append(quarantined(members[i], finding))
                done.state[base + i] = CONTRADICTION
    kept: list[int] = []
    for i in group:
        if done.state[base + i] == CONTRADICTION:
            continue
        match = next((k for k in kept[:_PARTNERS] if _repeats(members[i], members[k], spec)), None)
        if match is None:
            kept.append(i)
            continue
        same = exact_form(members[i].user_text) == exact_form(members[match].user_text)
        exact = same and _answer_form(members[i], spec) == _answer_form(members[match], spec)
        done.state[base + i] = EXACT if exact else NEAR
        done.of[base + i] = match
        if not same:
            done.similarity[base + i] = similarity(members[i].user_text, members[match].user_text)


def _answer_form(example: Example, spec: TaskSpec) -> str:
    """What is to be learned, in exact form: the label, or everything the assistant says and calls."""
    if spec.labels:
        return exact_form(example.answer)
    turns = [m for m in example.messages if m["role"] == "assistant"]
    return "\n".join(exact_form(m["content"]) + str(m.get("tool_calls") or "") for m in turns)


def _repeats(example: Example, kept: Example, spec: TaskSpec) -> bool:
    """Whether the answers say the same too (the prompts do)."""
    a, b = _answer_form(example, spec), _answer_form(kept, spec)
    if a == b:
        return True
    if spec.labels:
        return False
    return similarity(a, b) >= spec.data.near_duplicate_threshold and not differ_in_meaning(a, b)


def _clashing(group: list[int], members: Sequence[Example], spec: TaskSpec) -> set[int]:
    """Rows with the very same prompt and answers that do not say the same (free answers)."""
    by_prompt: defaultdict[str, list[int]] = defaultdict(list)
    for i in group:
        turns = [m for m in members[i].messages[:-1] if m["role"] != "system"]
        by_prompt["\n".join(f"{m['role']}:{exact_form(m['content'])}" for m in turns)].append(i)
    clashing: set[int] = set()
    for same in by_prompt.values():
        different: list[int] = []
        for i in same:
            if not any(_repeats(members[i], members[k], spec) for k in different[:_PARTNERS]):
                different.append(i)
        if len(different) > 1:
            clashing |= set(same)
    return clashing


def _same(a: Example, b: Example) -> bool:
    return not differ_in_meaning(a.user_text, b.user_text)


def _contradiction(example: Example, others: Sequence[Example], severity: str, spec: TaskSpec) -> Finding:
    """Names the most similar of the rows that say something else."""
    scored = [(-similarity(example.user_text, e.user_text), e.place, e) for e in others]
    likeness, _, partner = min(scored, key=lambda t: t[:2])
    same = exact_form(example.user_text) == exact_form(partner.user_text)
    alike = "the same text" if same else f"nearly the same text (similarity {-likeness:.2f})"
    return Finding(
        "data.contradiction",
        severity,  # type: ignore[arg-type]
        example.place,
        f"answered {quoted(example.answer)} here, but {alike} is answered {quoted(partner.answer)} in {partner.place}",
        "decide which answer is right and remove or correct the other row"
        + ("" if spec.labels else "; if both are right, set data.contradictions: warn"),
    )

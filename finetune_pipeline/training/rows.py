"""Turns a split into training rows: encodes them, handles long ones, and runs the audit."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec.structs import replace

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import BLOCKING, kind_of, perturbed, set_name
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.jobs import TrainJob
from finetune_pipeline.models.chat import Encoded, encode_example, encode_prompt, to_ids
from finetune_pipeline.models.model_files import text_settings
from finetune_pipeline.reporting import say
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.audit import Audit, AuditCounts, SplitAudit, supervision_audit
from finetune_pipeline.training.facts import Augmented, LengthFacts

_MAX_IDS = 20
_MAX_ROUNDS = 50
"""Cuts of a prompt that are tried: tokens do not add up exactly, so one cut may not be enough."""


@dataclass(frozen=True, slots=True)
class Cut:
    """A text cut from the start of a user turn: the message's index, the text, and its tokens."""

    turn: int
    text: str
    tokens: int


@dataclass
class Prepared:
    """A split as training rows.

    classes: a classifier's labels, in the order of its outputs.
    used: the examples of the rows, after truncation. over: number of examples that are too long. dropped: ids of examples left
    out for their length; left_out: their rows. copies_too_long: ids of perturbed copies left out for their length, regardless
    of training.over_length. refused: findings of examples that cannot be encoded.
    """

    classes: Sequence[str] = ()
    rows: list[Encoded] = field(default_factory=list)
    used: list[Example] = field(default_factory=list)
    over: int = 0
    dropped: list[str] = field(default_factory=list)
    left_out: list[Encoded] = field(default_factory=list)
    cuts: dict[str, list[Cut]] = field(default_factory=dict)
    copies_too_long: list[str] = field(default_factory=list)
    refused: list[Finding] = field(default_factory=list)

    def plain_rows(self) -> list[dict[str, object]]:
        """Return the rows as collators expect them: {id, ids, loss}, for a classifier also `class_id`, the number of the class. The
        ids of an example's further rows contain a number."""
        counts: Counter[str] = Counter()
        training_rows = []
        for row in self.rows:
            counts[row.id] += 1
            name = row.id if counts[row.id] == 1 else f"{row.id} (row {counts[row.id]})"
            learned = {} if row.label is None else {"class_id": self.classes.index(row.label)}
            training_rows.append({"id": name, "ids": row.ids, "loss": row.loss, **learned})
        return training_rows

    def length_facts(self) -> LengthFacts:
        """Return how many examples were dropped and cut for their length, and the ids of the first 20 of each."""
        return LengthFacts(
            over_length=len(self.dropped),
            ids=self.dropped[:_MAX_IDS],
            cut=len(self.cuts),
            cut_ids=sorted(self.cuts)[:_MAX_IDS],
            tokens_cut=sum(c.tokens for cuts in self.cuts.values() for c in cuts),
        )


@dataclass
class Audited(Prepared):
    """A split as training rows with its audit; valid only if ``audit.problems`` is empty."""

    audit: SplitAudit = field(kw_only=True)


def longest_allowed(settings: TrainingSettings, config: Mapping[str, object]) -> int:
    """Return training.max_tokens, or less if the base model's context (of its config.json) minus a soft prompt is shorter."""
    max_tokens = int(settings.max_tokens)
    context = text_settings(config).get("max_position_embeddings")
    if not context:
        return max_tokens
    return int(min(max_tokens, context - sum(METHODS[settings.method].virtual_tokens(settings))))


Encode = Callable[[Any, Example], list[Encoded]]
"""Turns an example into rows. Raises FindingsError like encode_example."""


def encode_answers(tokenizer: Any, example: Example) -> list[Encoded]:
    """Encode an example for a method that learns to write its answers."""
    return encode_example(tokenizer, example.messages, example.id, example.tools)


def encode_label(tokenizer: Any, example: Example) -> list[Encoded]:
    """Encode an example for a classifier: the prompt as it is served, and its label."""
    encode_answers(tokenizer, example)  # raises if the template leaves out a text
    prompt = encode_prompt(tokenizer, example.prompt_messages, example.tools)
    return [Encoded(example.id, prompt, [False] * len(prompt), example.answer)]


def encode_split(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int, over_length: str, classes: Sequence[str] = ()
) -> Prepared:
    """Encode a split, with `classes` for a classifier.
    over_length: ``fail`` (longer rows stay), ``drop`` or ``truncate_prompt``, see :func:`cut_prompt`."""
    prepared, encode = Prepared(classes), encode_label if classes else encode_answers
    for example in examples:
        try:
            rows = encode(tokenizer, example)
            if longest(rows) > max_tokens:
                if kind_of(example.id):
                    prepared.copies_too_long.append(example.id)
                    continue
                prepared.over += 1
                if over_length == "truncate_prompt":
                    example, rows, cuts = cut_prompt(tokenizer, example, max_tokens, encode)
                    if cuts:
                        prepared.cuts[example.id] = cuts
        except FindingsError as error:
            prepared.refused += at_row(error, example)
            continue
        if longest(rows) > max_tokens and over_length == "drop":
            prepared.dropped.append(example.id)
            prepared.left_out += rows
            continue
        prepared.used.append(example)
        prepared.rows += rows
    return prepared


def at_row(error: FindingsError, example: Example) -> list[Finding]:
    """Return the findings about an example that cannot be encoded, with its file and line, if known, in the place of its id."""
    if "file" not in example.source:
        return error.findings
    return [
        dataclasses.replace(f, place=f.place.replace(f"example {example.id}", example.place, 1)) for f in error.findings
    ]


def prepare_split(
    tokenizer: Any,
    examples: Sequence[Example],
    max_tokens: int,
    over_length: str,
    place: str,
    classes: Sequence[str] = (),
) -> Audited:
    """Encode a split and audit it; rows that are still too long become problems."""
    prepared = encode_split(tokenizer, examples, max_tokens, over_length, classes)
    return Audited(**vars(prepared), audit=supervision_audit(prepared, tokenizer, max_tokens, place))


AuditHtml = Callable[[Mapping[str, SplitAudit], TrainingSettings], str]
"""Renders the audits by split and the settings as a page."""


def write_audit(job: TrainJob, splits: dict[str, Audited], html: AuditHtml | None, is_main: bool) -> None:
    """Write audit.json and audit.html. Raises FindingsError with all findings of both splits."""
    audits = {name: split.audit for name, split in splits.items()}
    # in both folders: `out` of a failed job may be deleted
    folders = (job.out, job.work) if is_main else ()
    for folder in folders:
        write_json(folder / "audit.json", msgspec.to_builtins(audits))
        if html is not None:
            (folder / "audit.html").write_text(html(audits, job.settings), "utf-8")
    for name, split in splits.items():
        for outcome, number in (("left out", len(split.dropped)), ("truncated in the user text", len(split.cuts))):
            if number:
                say(f"{job.stage}: {name}: {number} examples over training.max_tokens are {outcome}")
    findings = [finding for audit in audits.values() for finding in audit.problems]
    if findings:
        if html is not None:
            say(f"{job.stage}: the audit's page is {job.work / 'audit.html'}")
        raise FindingsError(findings)


def audit_facts(prepared: Mapping[str, Audited]) -> Audit:
    """Return the audit's counts over both splits, and each split's audit without the rows in audit.json."""
    splits = {name: replace(split.audit, shown=[]) for name, split in prepared.items()}
    names = AuditCounts.__struct_fields__
    return Audit(**{name: sum(audit.count(name) for audit in splits.values()) for name in names}, splits=splits)


def longest(rows: Sequence[Encoded]) -> int:
    """Return the tokens of the longest row."""
    return max((len(r.ids) for r in rows), default=0)


def cut_prompt(
    tokenizer: Any, example: Example, max_tokens: int, encode: Encode = encode_answers
) -> tuple[Example, list[Encoded], list[Cut]]:
    """Return (the example with shorter user texts, its rows, the cuts). Some of every user text remains.

    The rows may still be too long, if system prompt and answers alone are. Raises FindingsError like encode_example.
    """
    rows = encode(tokenizer, example)
    cut_ids: dict[int, list[int]] = {}
    exhausted: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        excess = longest(rows) - max_tokens
        if excess <= 0:
            break
        text_tokens = {
            i: len(to_ids(tokenizer, m["content"]))
            for i, m in enumerate(example.messages)
            if m["role"] == "user" and i not in exhausted
        }
        if not text_tokens:
            break
        turn = max(text_tokens, key=lambda i: (text_tokens[i], -i))
        ids = to_ids(tokenizer, example.messages[turn]["content"])
        drop, text = _without_start(tokenizer, ids, min(excess, len(ids) - 1))
        if not drop or len(text) >= len(example.messages[turn]["content"]):
            exhausted.add(turn)
            continue
        cut_ids.setdefault(turn, []).extend(ids[:drop])
        messages = [dict(m) for m in example.messages]
        messages[turn]["content"] = text
        example = replace(example, messages=messages)
        rows = encode(tokenizer, example)
    cuts = [Cut(turn, tokenizer.decode(ids), len(ids)) for turn, ids in sorted(cut_ids.items())]
    return example, rows, cuts


def _without_start(tokenizer: Any, ids: Sequence[int], drop: int) -> tuple[int, str]:
    """Return (number of tokens dropped, the remaining text), dropping fewer tokens if no visible text would remain."""
    while drop > 0:
        text = tokenizer.decode(ids[drop:], clean_up_tokenization_spaces=False).lstrip("\ufffd")
        if text.strip():
            return drop, str(text)
        drop -= 1
    return 0, ""


def training_examples(examples: Sequence[Example], settings: TrainingSettings) -> list[Example]:
    """Return the examples of one epoch: the training split, and with training.augment its perturbed copies after it.

    A row has a copy for every kind of perturbation that can block a candidate and changes the row. A copy has the row's
    answer, and the row's id followed by the perturbation's name. Never pass validation or test rows.
    """
    if not settings.augment:
        return list(examples)
    seed, labels = settings.seed, sorted({e.label for e in examples if e.label})
    copies = {kind: {e.id: e for e in perturbed(examples, kind, seed, labels, "training")} for kind in BLOCKING}
    added_copies = [
        replace(copies[kind][example.id], id=set_name(example.id, kind))
        for example in examples
        for kind in BLOCKING
        if example.id in copies[kind]
    ]
    return [*examples, *added_copies]


def task_text(examples: Sequence[Example]) -> str:
    """Describe the task from its training rows: the most common system prompt, then the sorted labels. May be empty."""
    prompts = Counter(m["content"] for e in examples for m in e.messages if m["role"] == "system")
    labels = {e.label for e in examples if e.label is not None}
    return "\n".join([*sorted(prompts, key=lambda p: (-prompts[p], p))[:1], *sorted(labels)])


def augmented_facts(row_ids: Iterable[str], too_long: Sequence[str]) -> Augmented:
    """Return facts about augmentation; too_long: ids of copies dropped because they are too long."""
    kinds = Counter(map(kind_of, set(row_ids)))
    counts = {kind: kinds[kind] for kind in BLOCKING if kinds[kind]}
    return Augmented(rows=sum(counts.values()), kinds=counts, too_long=len(too_long))

"""Counts tokens exactly without loading a model library, from the tokenizer file and the chat template."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from finetune_pipeline.data.examples import Example, Message, Tool, sample_examples
from finetune_pipeline.data.quality.parts import Bin, Spread, TokensPart, named, sample_note
from finetune_pipeline.engine.files import DamagedFile
from finetune_pipeline.findings import Finding, FindingsError, Severity, listed, most_first
from finetune_pipeline.models.chat import rendered
from finetune_pipeline.models.chat_templates import (
    compile_template,
    generation_ends,
    own_template,
    special_tokens,
    template_file,
)
from finetune_pipeline.models.control_tokens import token_ids
from finetune_pipeline.models.model_files import read_config
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.training import TrainingSettings
from finetune_pipeline.training.rows import at_row, encode_answers, longest, longest_allowed, training_examples

_BINS = 24


@lru_cache(maxsize=2)
def _tokenizer(path: Path, _changed: int) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises no specific class
        raise DamagedFile(f"{path} is damaged, or no tokenizer ({error})", "fetch it again") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def load_tokenizer_file(base: Path) -> Tokenizer | None:
    """Load the tokenizer of a model folder, cached; None without a tokenizer.json."""
    path = (base / "tokenizer.json").absolute()
    return _tokenizer(path, path.stat().st_mtime_ns) if path.is_file() else None


class TokenCounter:
    """Counts the tokens of a conversation, rendered with the chat template and tokenized.
    Raises FileNotFoundError if the folder has no tokenizer.json or no chat template."""

    def __init__(self, model_folder: Path, chat_template: str | None = None) -> None:
        """chat_template: replaces the folder's own."""
        tokenizer, self.chat_template = load_tokenizer_file(model_folder), chat_template or own_template(model_folder)
        self.config: Mapping[str, object] = read_config(model_folder)
        if tokenizer is None:
            raise FileNotFoundError(f"no tokenizer.json in {model_folder.name}")
        if not self.chat_template:
            raise FileNotFoundError(f"no chat template in {model_folder.name}: start from an instruct model")
        self.backend_tokenizer = tokenizer
        self.template = compile_template(self.chat_template, str(template_file(model_folder)))
        self.special = special_tokens(model_folder)
        eos = self.special.get("eos_token")
        self.eos_token_id = self.backend_tokenizer.token_to_id(eos) if isinstance(eos, str) else None
        self.end_token_ids = generation_ends(model_folder)

    def count(
        self, messages: Sequence[Message], generation_prompt: bool = False, tools: Sequence[Tool] | None = None
    ) -> int:
        """Count the tokens of a conversation; with `generation_prompt`, of the prompt to continue.
        Raises FindingsError if the template refuses it."""
        return len(token_ids(self, rendered(self, messages, generation_prompt, tools)))

    def apply_chat_template(
        self, messages: Sequence[Message], add_generation_prompt: bool = False, tools: Any = None, **_: Any
    ) -> str:
        """Render a conversation, with the interface of transformers: :mod:`finetune_pipeline.models.chat` uses it to encode
        training rows."""
        variables = {"messages": list(messages), "tools": tools, "add_generation_prompt": add_generation_prompt}
        return str(self.template.render(**variables, **self.special))

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        """Tokenize a text, with the interface of transformers."""
        return {"input_ids": self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int], **_: Any) -> str:
        """Decode tokens, including special ones, with the interface of transformers."""
        return str(self.backend_tokenizer.decode(list(ids), skip_special_tokens=False))

    def count_texts(self, texts: Sequence[str]) -> list[int]:
        """Count the tokens of each text, without a template."""
        return [len(e.ids) for e in self.backend_tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def epochs_of(training: TrainingSettings) -> float:
    """Return the number of passes over the data, in all phases."""
    return float(sum(phase.epochs for phase in METHODS[training.method].phases(training)))


def whole_epochs(training: TrainingSettings) -> int:
    """Return the passes over the data that a service trains and bills: whole ones, of all phases together, rounded up."""
    return math.ceil(epochs_of(training))


def token_counts(
    train: Sequence[Example],
    counter: TokenCounter,
    spec: TaskSpec,
    of: int | None = None,
    others: Sequence[Example] = (),
) -> TokensPart:
    """Return the token part of the report for the training split. of: the number of its rows, if `train` is a sample of
    it, or all rows because there are no splits yet. others: rows of the other splits, which must be encoded, too.

    Totals are approximate for a sample. Each row that cannot be encoded is a finding. Blocking is what training refuses: such
    rows, and with training.over_length: fail, long ones.
    """
    limit, epochs = longest_allowed(spec.training, counter.config), epochs_of(spec.training)
    rows, of = sample_examples(train), of or len(train)
    counts, refusals = _count(rows, counter)
    valid_counts = counts[counts >= 0]
    refusals += _count(others, counter)[1]
    refused = _refused(refusals, len(rows) + len(others))
    if not len(valid_counts):
        return _uncounted(refusals, refused or "no training rows")
    scale = of / len(rows)
    total = float(valid_counts.sum()) * scale
    copies = training_examples(rows, spec.training)[len(rows) :]
    epoch_total = total + float(_count(copies, counter)[0].clip(0).sum()) * scale
    too_long = [e for e, n in zip(rows, counts.tolist(), strict=True) if n > limit]
    approximately = "about " if len(rows) != of else ""
    trained = f"{approximately}{round(epoch_total * epochs):,} in {epochs:g} epochs"
    message = f"{approximately}{round(total):,} tokens in {of:,} training rows, {trained}"
    message += " with perturbed copies" if copies else ""
    if too_long:
        message += f"; {len(too_long):,} of {len(rows):,} rows are longer than {limit:,} tokens (training.max_tokens)"
    if refusals:
        message = f"{refused}; {message}"
    is_sample = len(rows) < of
    return TokensPart(
        passed=not refusals and (not too_long or spec.training.over_length == "drop"),
        message=message + sample_note(len(rows), of),
        blocking=bool(refusals) or spec.training.over_length == "fail",
        findings=refusals + _over_length(too_long, len(rows), spec, limit),
        rows=of,
        total=round(total),
        epochs=epochs,
        training_tokens=round(epoch_total * epochs),
        whole=spread(valid_counts),
        histogram=_histogram(valid_counts),
        max_tokens=limit,
        over=len(too_long),
        over_rows=named(too_long),
        refused=len(refusals),
        sampled=len(rows) if is_sample else None,
        of_rows=of if is_sample else None,
    )


def unencodable(rows: Sequence[Example], counter: TokenCounter) -> TokensPart:
    """Return the token part of the report where only a chat template is known: rows that it cannot write, and no counts."""
    refusals = _count(rows, counter)[1]
    return _uncounted(refusals, _refused(refusals, len(rows)) or "not asked: no tokenizer is available yet")


def _uncounted(refusals: list[Finding], message: str) -> TokensPart:
    return TokensPart(passed=not refusals, message=message, blocking=bool(refusals), findings=refusals, applies=False)


def _count(rows: Sequence[Example], counter: TokenCounter) -> tuple[np.ndarray, list[Finding]]:
    """Return (tokens of each row, encoded as for training; -1 if it cannot be encoded; why not)."""
    counts = np.full(len(rows), -1, np.int64)
    refusals: list[Finding] = []
    for i, example in enumerate(rows):
        try:
            counts[i] = longest(encode_answers(counter, example))
        except FindingsError as error:
            refusals += at_row(error, example)
    return counts, refusals


def _refused(refusals: Sequence[Finding], rows: int) -> str:
    if not refusals:
        return ""
    counts = most_first(Counter(f.message for f in refusals))
    reasons = [f"{message} ({n:,})" if len(counts) > 1 else message for message, n in counts.items()]
    return f"{len(refusals):,} of {rows:,} rows cannot be encoded: {listed(reasons, 3)}"


def _over_length(too_long: Sequence[Example], rows: int, spec: TaskSpec, limit: int) -> list[Finding]:
    if not too_long:
        return []
    action = {
        "fail": ": training refuses them",
        "drop": " and will be left out",
        "truncate_prompt": " and will be truncated in their user text",
    }[spec.training.over_length]
    short = f", as the context of {spec.base_model} is no longer" if limit < spec.training.max_tokens else ""
    message = f"{len(too_long):,} of {rows:,} rows have more than {limit:,} tokens (training.max_tokens{short}){action}"
    raised = "use a base model with a longer context" if short else "raise training.max_tokens"
    fix = f"{raised}, shorten the rows, or set training.over_length: drop"
    severity: Severity = "error" if spec.training.over_length == "fail" else "note"
    place = f"{too_long[0].place} and {len(too_long) - 1:,} more" if len(too_long) > 1 else too_long[0].place
    return [Finding("quality.over_length", severity, place, message, fix)]


def spread(counts: np.ndarray) -> Spread:
    """Return minimum, quantiles, maximum and mean."""
    p50, p90, p99 = np.percentile(counts, [50, 90, 99], method="higher")
    return Spread(
        min=int(counts.min()), p50=int(p50), p90=int(p90), p99=int(p99), max=int(counts.max()),
        mean=round(float(counts.mean()), 1),
    )  # fmt: skip


def _histogram(counts: np.ndarray) -> list[Bin]:
    """Return up to 24 bins. The last one contains everything above the 99.5th percentile: outliers must not widen all bins."""
    top = np.percentile(counts, 99.5, method="higher")
    edges = np.unique(np.linspace(counts.min(), top + 1, _BINS + 1).astype(int))
    in_bins, _ = np.histogram(np.minimum(counts, top), edges)
    ends = [*(edges[1:-1] - 1), counts.max()]
    return [
        Bin(first=int(first), last=int(last), count=int(count))
        for first, last, count in zip(edges[:-1], ends, in_bins, strict=True)
    ]

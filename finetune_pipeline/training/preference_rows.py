"""Turns preference rows into the token rows of TRL's trainers, and audits what their collators make of these.

The prompt is encoded as it is served, and a completion ends with its end token. The audit is that of the first stage
(:mod:`.audit`), on the batches themselves: prompt, answer, loss and end token of every sequence.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.examples import Example, hash_order
from finetune_pipeline.data.preferences.rows import Preference
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import Encoded, encode_example
from finetune_pipeline.training.audit import SplitAudit, supervision_audit
from finetune_pipeline.training.rows import Prepared, at_row

PLACE = "preference rows"
LEAST_ROWS_OF_A_PASS = {"kto": 2, "dpo": 1}
"""By method: KTO compares a row with another one."""
Collate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]


@dataclass
class EncodedPreferences:
    """Preferences as rows of a TRL trainer.

    Attributes:
        rows: For DPO {id, prompt_ids, chosen_ids, rejected_ids}; for KTO {id, prompt_ids, completion_ids, label}.
        examples: The examples of each row's sequences, in the order of the collator's.
        too_long: Ids of preferences left out for their length (training.over_length other than `fail`).
        prepared: Refused and left-out sequences, for the audit.
    """

    rows: list[dict[str, Any]] = field(default_factory=list)
    examples: list[list[Example]] = field(default_factory=list)
    too_long: list[str] = field(default_factory=list)
    prepared: Prepared = field(default_factory=Prepared)


def in_order(preferences: Iterable[Preference], seed: int) -> list[Preference]:
    """Return the preferences in the order in which KTO reads them; DPO draws its own."""
    return sorted(preferences, key=lambda row: hash_order(row.id, f"refine {seed}"))


def encode_preferences(
    tokenizer: Any, preferences: Iterable[Preference], method: str, max_tokens: int, over_length: str
) -> EncodedPreferences:
    """Encode preferences for `method`: each pair for dpo, each answer for kto."""
    encoded = EncodedPreferences()
    for preference in preferences:
        if method == "dpo":
            groups = [[preference.example(True), preference.example(False)]] if preference.is_pair else []
        else:
            groups = [[preference.example(liked)] for _, liked in preference.answers]
        for examples in groups:
            try:
                sequences = [_sequence(tokenizer, example) for example in examples]
            except FindingsError as error:
                encoded.prepared.refused += at_row(error, examples[0])
                continue
            if over_length != "fail" and any(len(prompt) + len(answer) > max_tokens for prompt, answer in sequences):
                encoded.too_long.append(preference.id)
                continue
            encoded.examples.append(examples)
            encoded.rows.append(_row(examples, sequences))
    return encoded


def _sequence(tokenizer: Any, example: Example) -> tuple[list[int], list[int]]:
    """Return the tokens (of the prompt, of the answer with its end token) of an example with one learned turn."""
    row = encode_example(tokenizer, example.messages, example.id, example.tools)[-1]
    start = row.loss.index(True)
    end = len(row.loss) - row.loss[::-1].index(True)
    return row.ids[:start], row.ids[start:end]


def _row(examples: Sequence[Example], sequences: Sequence[tuple[list[int], list[int]]]) -> dict[str, object]:
    prompt, answer = sequences[0]
    if len(examples) == 2:
        return {"id": examples[0].id, "prompt_ids": prompt, "chosen_ids": answer, "rejected_ids": sequences[1][1]}
    liked = examples[0].id.endswith("-chosen")
    return {"id": examples[0].id, "prompt_ids": prompt, "completion_ids": answer, "label": liked}


def with_mismatched(rows: Sequence[Mapping[str, object]], batch: int) -> list[dict[str, object]]:
    """Add to KTO's rows the answers of other prompts, by which it estimates the divergence from the first stage's model: within
    each batch, every row gets the answer of the row before it, and the first that of the last (as TRL's trainer does)."""
    mismatched = []
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        mismatched += [{**row, "KL_completion_ids": part[i - 1]["completion_ids"]} for i, row in enumerate(part)]
    return mismatched


def audit_batches(tokenizer: Any, collate: Collate, encoded: EncodedPreferences, max_tokens: int) -> SplitAudit:
    """Audit every sequence that a TRL collator makes of the rows, as the first stage audits its rows."""
    prepared = encoded.prepared
    for row, examples in zip(encoded.rows, encoded.examples, strict=True):
        batch = collate([row])
        for i, example in enumerate(examples):
            length = int(batch["attention_mask"][i].sum())
            ids, mask = batch["input_ids"][i][:length].tolist(), batch["completion_mask"][i][:length].tolist()
            prepared.used.append(example)
            prepared.rows.append(Encoded(example.id, ids, [bool(learned) for learned in mask]))
    return supervision_audit(prepared, tokenizer, max_tokens, PLACE)

"""A split as rows to train on: encoded, dealt with where too long, and audited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.perturbations import kind_of
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.chat import Encoded, encode_example
from finetune_pipeline.spec.method_defaults import SOFT_PROMPTS
from finetune_pipeline.training.audit import problems, supervision_audit
from finetune_pipeline.training.over_length import Cut, cut_prompt, longest

_LISTED = 20


@dataclass
class Prepared:
    """A split ready to be trained on. `findings` must be empty for that.

    Attributes:
        rows: What is trained on.
        audit: Of training.audit.supervision_audit.
        dropped: Ids of examples left out for their length.
        cuts: What was cut from which example.
        copies_too_long: Ids of perturbed copies left out for their length, whatever training.over_length says.
        findings: What is wrong.
    """

    rows: list[Encoded] = field(default_factory=list)
    audit: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    cuts: dict[str, list[Cut]] = field(default_factory=dict)
    copies_too_long: list[str] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def length_facts(self) -> dict[str, Any]:
        """{over_length, ids, cut, cut_ids, tokens_cut}: how many examples were dropped and cut for their length, and
        the ids of the first 20 of each."""
        return {
            "over_length": len(self.dropped),
            "ids": self.dropped[:_LISTED],
            "cut": len(self.cuts),
            "cut_ids": sorted(self.cuts)[:_LISTED],
            "tokens_cut": sum(c.tokens for cuts in self.cuts.values() for c in cuts),
        }


def longest_allowed(settings: Mapping[str, Any], config: Mapping[str, Any]) -> int:
    """training.max_tokens, or less where the base model's context (of its config.json) and a soft prompt leave less."""
    most = int(settings["max_tokens"])
    context = (config.get("text_config") or config).get("max_position_embeddings")
    if not context:
        return most
    virtual = settings[settings["method"]]["tokens"] if settings["method"] in SOFT_PROMPTS else 0
    return min(most, context - virtual)


def prepare_split(
    tokenizer: Any, examples: Sequence[Example], max_tokens: int, over_length: str, place: str
) -> Prepared:
    """Encode a split; over_length: ``fail`` (a finding), ``drop`` or ``truncate_prompt``, see over_length.cut_prompt."""
    done = Prepared()
    used, refused, left_out = [], [], []
    for example in examples:
        try:
            rows = encode_example(tokenizer, example.messages, example.id, example.tools)
            if longest(rows) > max_tokens and kind_of(example.id):
                done.copies_too_long.append(example.id)
                continue
            if longest(rows) > max_tokens and over_length == "truncate_prompt":
                example, rows, cuts = cut_prompt(tokenizer, example, max_tokens)
                if cuts:
                    done.cuts[example.id] = cuts
        except FindingsError as error:
            refused += error.findings
            continue
        if longest(rows) > max_tokens and over_length == "drop":
            done.dropped.append(example.id)
            left_out += rows
            continue
        used.append(example)
        done.rows += rows
    done.audit = supervision_audit(
        done.rows, tokenizer, max_tokens, used, refused=refused, cuts=done.cuts, dropped=left_out
    )
    done.findings = problems(done.audit, place)
    done.audit["problems"] = [f.to_dict() for f in done.findings]
    return done

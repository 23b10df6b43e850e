"""The plan before training: token counts equal the model library's own, and a plan that does not fit says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from finetune_pipeline.artifacts import read_json
from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.planning import plan
from finetune_pipeline.planning.memory import OVERHEAD, estimate, linear_parameters
from finetune_pipeline.planning.plan import training_plan
from finetune_pipeline.planning.tokens import TokenCounter, token_statistics
from finetune_pipeline.spec import TaskSpec, parse_spec
from finetune_pipeline_tests.tiny_model import make_tiny_model, write_tiny_examples

SPEC = """
name: demo
description: d
system_prompt: s
output: {kind: text}
training: {epochs: 2, unquantized_epochs: 1, batch_size: 8, micro_batch_size: 8, max_tokens: %d}
"""
# the shape of the bundled model
CONFIG = {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
          "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    return read_examples(write_tiny_examples(tmp_path_factory.mktemp("rows") / "rows.jsonl", range(20)))


def spec(max_tokens: int = 1024) -> TaskSpec:
    return parse_spec(SPEC % max_tokens)


def test_counts_equal_the_tokenizer_of_the_model_library(base: Path, examples: list[Example]) -> None:
    tokenizer, counter = AutoTokenizer.from_pretrained(base), TokenCounter(base)
    for e in examples:
        whole = tokenizer.apply_chat_template(e.messages, return_dict=True)["input_ids"]
        prompt = tokenizer.apply_chat_template(e.prompt_messages, add_generation_prompt=True, return_dict=True)[
            "input_ids"
        ]
        assert counter.count(e.messages) == len(whole)
        assert counter.count(e.prompt_messages, generation_prompt=True) == len(prompt)


def test_statistics_add_up(base: Path, examples: list[Example]) -> None:
    told = token_statistics(TokenCounter(base), examples)
    assert told["total"] == sum(told["lengths"]) == told["prompt_total"] + told["answer_total"]
    assert sum(told["histogram"].values()) == told["examples"] == 20
    assert told["p50"] <= told["p90"] <= told["p99"] <= told["longest"] == max(told["lengths"])


def test_a_model_without_a_template_is_named(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path)
    for path in folder.glob("chat_template*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match="no chat template"):
        TokenCounter(folder)


def test_memory_follows_the_formula_and_four_bits_take_less() -> None:
    assert linear_parameters(CONFIG)["k"] == (576, 192)
    qlora, lora = (
        estimate(CONFIG, method=m, rank=16, tokens_in_batch=1000, loss_tokens_in_batch=40, bytes_per_value=2)
        for m in ("qlora", "lora")
    )
    assert lora["trainable_parameters"] == 4_884_480
    assert lora["weights"] == pytest.approx(2 * 134_515_008, rel=0.001)
    assert 0.40 < qlora["weights"] / lora["weights"] < 0.43, "0.415 was measured on the loaded model"
    parts = ("weights", "adapter", "activations", "logits", "overhead")
    assert lora["total"] == sum(lora[p] for p in parts)
    assert lora["overhead"] == OVERHEAD


def test_the_plan_counts_steps_of_both_phases(base: Path, examples: list[Example], tmp_path: Path) -> None:
    facts = training_plan(spec(), base, examples, examples[:4], tmp_path)
    assert facts["steps_per_epoch"] == 3
    assert facts["steps"] == 9
    assert facts["over_length"] == 0
    assert facts["fits"] is True
    assert read_json(tmp_path / "plan.json") == facts


def test_rows_over_the_limit_are_counted(base: Path, examples: list[Example], tmp_path: Path) -> None:
    lengths = sorted(TokenCounter(base).count(e.messages) for e in examples)
    facts = training_plan(spec(max_tokens=lengths[-2]), base, examples, [], tmp_path)
    assert facts["over_length"] == sum(n > lengths[-2] for n in lengths)


def test_a_plan_that_does_not_fit_says_what_to_change(
    base: Path, examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Memory:
        available = 2**20

    monkeypatch.setattr(plan.psutil, "virtual_memory", Memory)
    facts = training_plan(spec(), base, examples, [], tmp_path)
    assert facts["fits"] is False
    assert "does not fit" in facts["sentence"]
    assert "unquantized_epochs" in facts["sentence"]

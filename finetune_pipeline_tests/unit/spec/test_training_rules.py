"""Settings by method, and every combination that cannot work: refused with what to change, within seconds."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoTokenizer

from finetune_pipeline.findings import FindingsError
from finetune_pipeline.planning.preflight import linear_layers, refusals
from finetune_pipeline.spec import parse_spec
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.model import TaskSpec
from finetune_pipeline.spec.rules import check_all
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.spec.test_spec import GOOD

LLAMA: dict[str, Any] = {"model_type": "llama", "max_position_embeddings": 8192}
GEMMA: dict[str, Any] = {"model_type": "gemma3_text", "max_position_embeddings": 32768, "sliding_window": 512}
GEMMA["layer_types"] = ["sliding_attention", "full_attention"]


def spec(**training: Any) -> TaskSpec:
    top = {k: training.pop(k) for k in ("system_prompt", "output") if k in training}
    return parse_spec(yaml.safe_dump({**GOOD, **top, "training": training}))


def test_each_method_has_its_own_defaults_and_what_the_user_says_stands() -> None:
    defaults = {method: TrainingSpec(method=method) for method in METHODS}
    rates = {"qlora": 5e-4, "lora": 5e-4, "full": 1e-5, "prefix": 5e-3, "prompt": 3e-3, "classifier": 1e-3}
    for method, rate in rates.items():
        section = defaults[method]
        assert (section.learning_rate, section.unquantized_epochs) == (rate, float(method == "qlora")), method
        assert section.batch_size == section.micro_batch_size == 8 and section.epochs + section.unquantized_epochs <= 3
    for method, section in defaults.items():
        assert [key for key, value in section.model_dump().items() if value is None] == ["budget_usd"], method
    assert (defaults["prefix"].prefix.tokens, defaults["prompt"].prompt.tokens) == (50, 100)
    training = spec(method="full", learning_rate=3e-5, batch_size=6).training
    assert (training.learning_rate, training.batch_size, training.micro_batch_size) == (3e-5, 6, 6)
    assert spec(batch_size=20).training.micro_batch_size == 5
    assert spec(batch_size=20, micro_batch_size=4).training.micro_batch_size == 4
    with pytest.raises(FindingsError, match=r"training\.seed"):  # numpy's generators take 32 bits
        spec(seed=2**32)


CASES: list[tuple[str, dict[str, Any], dict[str, Any] | None, str, str, str]] = [
    # what, training section, base's config, rule, severity, what the fix names
    ("prefix with checkpointing", {"method": "prefix", "gradient_checkpointing": True}, None,
     "spec.gradient_checkpointing", "error", "gradient_checkpointing: false"),
    ("full with a second phase", {"method": "full", "unquantized_epochs": 0.5}, None,
     "spec.second_phase", "error", "training.epochs"),
    ("rslora with full", {"method": "full", "lora": {"rslora": True}}, None,
     "spec.unused_section", "error", "remove it, or set method: qlora or lora"),
    ("rank with full", {"method": "full", "lora": {"r": 8}}, None,
     "spec.unused_section", "warning", "remove it, or set method: qlora or lora"),
    ("transposed weights", {}, {"model_type": "gpt2", "n_embd": 64},
     "training.layout", "error", "another family"),
    ("an encoder", {}, {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
     "training.writes_no_text", "error", "causal language model"),
    ("a classifier as base", {}, {**LLAMA, "architectures": ["LlamaForSequenceClassification"]},
     "training.writes_no_text", "error", "causal language model"),
    ("no target modules", {"lora": {"target_modules": []}}, None,
     "spec.target_modules", "error", "all-linear"),
    ("output head as target", {"lora": {"target_modules": ["q_proj", "lm_head"]}}, None,
     "spec.target_modules", "error", "remove lm_head"),
    ("prompt section with qlora", {"prompt": {"tokens": 9}}, None,
     "spec.unused_section", "warning", "method: prompt"),
    ("prefix section with prompt", {"method": "prompt", "prefix": {"tokens": 9}}, None,
     "spec.unused_section", "warning", "method: prefix"),
    ("init text without text", {"method": "prompt", "prompt": {"init": "text"}}, None,
     "spec.soft_prompt_options", "error", "add training.prompt.text"),
    ("text without init text", {"method": "prefix", "prefix": {"text": "hello"}}, None,
     "spec.soft_prompt_options", "error", "init: text"),
    ("micro-batch above the batch", {"batch_size": 4, "micro_batch_size": 8}, None,
     "spec.batches", "error", "divisor of 4"),
    ("many epochs", {"epochs": 4}, None, "spec.epochs", "warning", "lower training.epochs"),
    ("lora on a quantized base", {"method": "lora"}, {**LLAMA, "quantization_config": {"quant_method": "gptq"}},
     "training.quantized_base", "error", "unquantized model"),
    ("no such layer", {"lora": {"target_modules": ["q_proj", "c_attn"]}}, LLAMA,
     "training.target_modules", "error", "choose from down_proj"),
    ("prompt beyond every layer's window", {"method": "prompt"}, {"model_type": "mistral", "sliding_window": 512},
     "training.soft_prompt_window", "warning", "max_tokens: 512"),
    ("longer than the context", {"max_tokens": 9000}, LLAMA,
     "training.context_length", "warning", "max_tokens: 8192"),
    ("virtual tokens beyond the context", {"method": "prompt", "max_tokens": 8150}, LLAMA,
     "training.context_length", "warning", "max_tokens: 8092"),
    ("virtual tokens fill the context", {"method": "prompt", "prompt": {"tokens": 1020}},
     {**LLAMA, "max_position_embeddings": 1024}, "training.context_length", "error", "lower training.prompt.tokens"),
    ("prefix beyond a sliding window", {"method": "prefix", "prefix": {"tokens": 512}}, GEMMA,
     "training.prefix_window", "error", "prefix.tokens: 256"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "training", "config", "rule", "severity", "fix"), CASES, ids=[c[0] for c in CASES])
def test_what_cannot_work_is_refused_with_what_to_change(what, training, config, rule, severity, fix) -> None:
    problems = refusals(spec(**training), config)
    assert [(f.rule, f.severity) for f in problems] == [(rule, severity)], [str(f) for f in problems]
    assert fix in problems[0].fix and problems[0].place.startswith("task.yaml: ")
    if rule.startswith("spec."):
        assert rule in {f.rule for f in check_all(spec(**training), Path("demo"))}


SOUND: list[tuple[dict[str, Any], dict[str, Any] | None]] = [
    *[({"method": method}, LLAMA) for method in METHODS],
    ({"method": "prefix", "gradient_checkpointing": False}, LLAMA),
    ({"method": "lora", "lora": {"rslora": True, "r": 8}}, LLAMA),
    ({"method": "qlora", "lora": {"target_modules": ["q_proj", "self_attn.v_proj"]}}, GEMMA),
    ({"method": "prompt", "prompt": {"init": "text", "text": "Sort it."}}, LLAMA),
    ({"method": "prompt", "max_tokens": 512}, {"model_type": "mistral", "sliding_window": 512}),
]


def test_what_can_work_is_not_refused() -> None:
    for training, config in SOUND:
        assert refusals(spec(**training), config) == [], training


def test_with_the_base_at_hand_layers_and_tokens_are_counted_exactly(tmp_path: Path) -> None:
    tiny = make_tiny_model(tmp_path / "base")
    config = json.loads((tiny / "config.json").read_text())
    layers = "q_proj k_proj v_proj o_proj gate_proj up_proj down_proj"
    assert linear_layers(tiny) == set(layers.split())
    problems = refusals(spec(lora={"target_modules": ["query"]}), config, tiny)
    assert [f.rule for f in problems] == ["training.target_modules"]
    assert refusals(spec(max_tokens=64), config, tiny) == []
    long = "Answer yes or no. " * 20
    problems = refusals(spec(system_prompt=long, max_tokens=64), config, tiny)
    assert [f.rule for f in problems] == ["training.system_prompt"] and problems[0].severity == "error"
    tokens = int(problems[0].message.split("(")[1].split()[0])
    assert tokens == len(AutoTokenizer.from_pretrained(tiny)(long, add_special_tokens=False)["input_ids"])
    assert refusals(spec(system_prompt=long, max_tokens=tokens + 40), config, tiny) == []

"""What is wrong with a base model's files is told before a run, in one sentence that names the file."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
import yaml
from safetensors.torch import load_file, save_file

from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.planning.preflight import preflight
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec import parse_spec
from finetune_pipeline_tests.unit.models.architectures import make_model

CONFIG, TOKENIZER, GENERATION = "config.json", "tokenizer_config.json", "generation_config.json"
Change = Callable[[Path], None]


@pytest.fixture
def model(base: Path, tmp_path: Path) -> Path:
    return shutil.copytree(base, tmp_path / "model")


TASK: dict[str, Any] = {
    "name": "demo", "description": "d", "system_prompt": "yes or no", "output": {"kind": "labels", "labels": ["yes", "no"]},
}  # fmt: skip


def found(model: Path, tmp_path: Path, **more: Any) -> list[Finding]:
    return preflight(parse_spec(yaml.safe_dump({**TASK, "base_model": str(model), **more})), tmp_path)


def test_a_sound_model_has_no_finding(model: Path, tmp_path: Path) -> None:
    assert found(model, tmp_path, baseline={"embeddings": "hashed"}) == []


def test_missing_embeddings_are_told_before_the_run(model: Path, tmp_path: Path) -> None:
    findings = found(model, tmp_path, baseline={"embeddings": "none"}, evaluation={"similarity": str(tmp_path)})
    assert [f.place for f in findings] == ["task.yaml: baseline.embeddings", "task.yaml: evaluation.similarity"]
    assert all("no tokenizer.json" in f.message and "use: hashed" in f.fix for f in findings)


@pytest.mark.parametrize(
    ("family", "rule", "fix"),
    [
        ("deepseek_r1_distill", "chat.template_mismatch", "set chat_template: chatml or none"),
        ("gemma", "chat.template_refuses", "set chat_template: chatml or none"),  # no system prompt
        (
            "glm4moe",
            "model.template_without_end",
            "set chat_template: chatml or none",
        ),  # GLM-4.5: nothing ends an answer
    ],
)
def test_a_template_that_cannot_be_trained_with_is_told_before_the_run(model, tmp_path, family, rule, fix) -> None:
    shutil.copyfile(Path(trl.__file__).parent / f"chat_templates/{family}.jinja", model / "chat_template.jinja")
    (finding,) = (f for f in found(model, tmp_path) if f.rule == rule)
    assert fix in finding.fix and finding.place == f"model {model}"
    prepare_base(str(model), None, tmp_path / "out")
    spec = parse_spec(yaml.safe_dump({**TASK, "base_model": "owner/name"}))  # of the hub: told once it is there
    assert rule in [f.rule for f in preflight(spec, tmp_path, tmp_path / "out")]


def changed(name: str, **values: Any) -> tuple[str, str]:
    return name, json.dumps(values)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        *[((name, "[1, 2]"), f"{name} of 'model' has unusable content: Expected `object`, got `array`")
          for name in (CONFIG, TOKENIZER, GENERATION)],
        *[((name, '{"a": '), f"{name} of 'model' is not JSON") for name in (CONFIG, TOKENIZER, GENERATION)],
        (changed(CONFIG, model_type="llama", text_config="small"), "got `str` - at `$.text_config`"),
        (changed(CONFIG, model_type="llama", text_config={"num_attention_heads": 0}), "`$.text_config.num_attention"),
        (changed(CONFIG, model_type="llama", layer_types=[["a"]]), "`$.layer_types[0]`"),
        (changed(CONFIG, hidden_size=64), "with its model_type"),
        (changed(CONFIG, model_type="gemma3n", intermediate_size=[8, 8]), "intermediate_size: this family"),
        (changed(TOKENIZER, eos_token=[2]), "`$.eos_token`"),
        (changed(TOKENIZER, chat_template=[{"name": "default"}]), "`$.chat_template[0]`"),
        (changed(GENERATION, eos_token_id=["</s>"]), "`$.eos_token_id[0]`"),
        (("chat_template.jinja", b"\xff{{ messages }}"), "chat_template.jinja of 'model' is not UTF-8 text"),
    ],
)  # fmt: skip
def test_a_file_of_the_model_that_cannot_be_used_is_named(model, tmp_path, file, words) -> None:
    name, content = file
    if name == TOKENIZER:  # the template is in it
        (model / "chat_template.jinja").unlink()
    (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    (finding,) = found(model, tmp_path)
    assert finding.severity == "error" and words in finding.message, finding
    with pytest.raises(FindingsError) as raised:
        prepare_base(str(model), None, tmp_path / "out")
    assert len(raised.value.findings) == 1


@pytest.mark.parametrize(
    ("architecture", "method", "rule"),
    [
        ("mixtral", "qlora", "training.experts"),
        ("gpt_oss", "qlora", "training.experts"),
        ("mixtral", "lora", None),
        ("lfm2", "prefix", "training.prefix_layers"),
        ("lfm2", "qlora", None),
    ],
)
def test_methods_that_an_architecture_does_not_allow(tmp_path, architecture, method, rule) -> None:
    model = make_model(tmp_path / "model", architecture)
    findings = found(model, tmp_path, training={"method": method, "max_tokens": 256})
    assert [f.rule for f in findings if f.severity == "error"] == ([rule] if rule else [])
    assert all(f.fix for f in findings)


def test_a_short_context_or_a_long_prompt_is_told_before_the_run(model: Path, tmp_path: Path) -> None:
    context = json.loads((model / CONFIG).read_text())["max_position_embeddings"]

    def told(max_tokens: int, **more: Any) -> list[tuple[str, str]]:
        training = {"method": "lora", "max_tokens": max_tokens, **more.pop("training", {})}
        return [(f.severity, f.fix) for f in found(model, tmp_path, training=training, **more)]

    assert told(context) == [] and told(context + 1) == [("warning", f"set training.max_tokens: {context}")]
    prefix = {"method": "prefix", "prefix": {"tokens": 8}, "gradient_checkpointing": False}
    fix = f"set training.max_tokens: {context - 8}, or lower training.prefix.tokens"
    assert told(context - 7, training=prefix) == [("warning", fix)] and told(context - 8, training=prefix) == []
    few = {**prefix, "prefix": {"tokens": context - 15}}
    assert told(16, training=few) == [("error", "set training.max_tokens: 15, or lower training.prefix.tokens")]
    tokens = TokenCounter(model).count_texts([prompt := "answer " * 30, "yes", "no"])
    needed = tokens[0] + max(tokens[1:])
    assert told(needed + 1, system_prompt=prompt) == []
    (finding,) = found(model, tmp_path, training={"method": "lora", "max_tokens": needed}, system_prompt=prompt)
    assert f"the system prompt ({tokens[0]} tokens) and the longest label" in finding.message
    assert f"set training.max_tokens: {2 * needed} or more" in finding.fix


def test_a_model_without_a_tokenizer_is_refused(model: Path, tmp_path: Path) -> None:
    (model / "tokenizer.json").unlink()
    assert [f.rule for f in found(model, tmp_path)] == ["model.no_tokenizer"]
    assert [f.rule for f in found(model, tmp_path, chat_template="none")] == ["model.no_tokenizer"]
    (model / "tokenizer.model").touch()
    assert found(model, tmp_path, chat_template="none") == [], "base_model makes tokenizer.json of it"


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn, torch.float8_e5m2])
def test_weights_in_eight_bits_are_refused_and_other_integers_are_not(model, tmp_path, dtype) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    save_file({**tensors, "model.position_ids": torch.arange(3)}, file, {"format": "pt"})
    assert found(model, tmp_path) == []
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({**tensors, name: tensors[name].to(dtype)}, file, {"format": "pt"})
    kind = {torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2"}[dtype]
    (finding,) = found(model, tmp_path)
    assert finding.rule == "training.quantized_base" and f"already quantized ({kind})" in finding.message
    with pytest.raises(FindingsError, match=rf"weights are quantized \({kind}\)"):
        prepare_base(str(model), None, tmp_path / "out")


def test_a_model_that_says_it_is_quantized_is_refused_by_the_base_model_step(model: Path, tmp_path: Path) -> None:
    config = json.loads((model / CONFIG).read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}}
    (model / CONFIG).write_text(json.dumps(config))
    with pytest.raises(FindingsError, match=r"weights are quantized \(gptq\)"):
        prepare_base(str(model), None, tmp_path / "out")

"""Merging: PEFT's own result to the bit, on several architectures, and a refusal of everything that does not fit."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from finetune_pipeline.data.examples import read_examples
from finetune_pipeline.engine.files import digest_file
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.adapters import adapter_kind, read_adapter
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.merging import merge
from finetune_pipeline.models.parity import differing_weights, parity
from finetune_pipeline.models.soft_prompts import plain_model
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.model import build, save_trained
from finetune_pipeline_tests.tiny_model import make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.models.architectures import load, make_adapter, make_model, with_adapter
from finetune_pipeline_tests.unit.models.test_soft_prompts import soft

FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
VARIANTS: dict[str, dict[str, Any]] = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny") / "base")


@pytest.mark.parametrize(
    ("architecture", "variant", "dtype"),
    [
        ("llama", "lora", FLOAT32),
        *(("llama", variant, BFLOAT16) for variant in VARIANTS),
        *((name, "lora", BFLOAT16) for name in ("gemma3", "qwen3")),
        ("gemma3", "dora", FLOAT32),
    ],
)
def test_equals_peft_to_the_bit(architecture: str, variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", architecture, dtype=dtype)
    adapter = make_adapter(base, tmp_path / "adapter", size=0.15, **VARIANTS[variant])
    facts = merge(base, adapter, tmp_path / "out")
    written = load_file(tmp_path / "out/model/model.safetensors")
    expected = with_adapter(base, adapter, dtype).merge_and_unload().state_dict()
    before = load_file(base / "model.safetensors")
    assert set(written) == set(before)
    changed = [n for n in before if not torch.equal(written[n], before[n])]
    assert len(changed) == facts.merged_tensors == 14
    for name, tensor in written.items():
        assert tensor.dtype == dtype and torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize(
    ("architecture", "changed"),
    [
        ("gemma3_with_images", 23),  # its files have other names than the loaded model
        ("gpt_neox", 8),  # so have the output heads of these; query, key and value are one layer
        ("phi3", 8),
        ("mixtral", 8),  # transformers joins the experts' weights, which are not adapted
        ("deepseek_v3", 10),
        ("gpt_oss", 8),
        ("lfm2", 12),
    ],
)
def test_what_training_saves_is_merged_and_a_damaged_merge_is_seen(architecture, changed, tmp_path) -> None:
    base = make_model(tmp_path / "base", architecture, dtype=BFLOAT16, tied=False)
    settings = TrainingSpec.model_validate({"method": "lora", "lora": {"r": 4, "dropout": 0.0}})
    model = build(base, settings, FLOAT32, torch.device("cpu"), None, "").model
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.15)
    save_trained(model, load_tokenizer(base), base, "lora", tmp_path / "adapter")
    facts = merge(base, tmp_path / "adapter", tmp_path / "out")
    with_adapter(base, tmp_path / "adapter", BFLOAT16).merge_and_unload().save_pretrained(tmp_path / "peft")
    before, written, expected = (load_file(tmp_path / f / "model.safetensors") for f in ("base", "out/model", "peft"))
    assert set(written) == set(before) == set(expected)
    assert facts.merged_tensors == changed == sum(not torch.equal(written[n], before[n]) for n in before)
    assert [n for n in expected if not torch.equal(written[n], expected[n])] == []
    examples = read_examples(write_tiny_examples(tmp_path / "e.jsonl", range(4)))
    facts = parity(base, tmp_path / "adapter", tmp_path / "out", examples, max_new_tokens=2, batch_size=3)
    assert facts.right and facts.weights_compared == len(before)
    name = next(n for n in reversed(written) if not torch.equal(written[n], before[n]))
    save_file({**written, name: before[name]}, tmp_path / "out/model/model.safetensors", metadata={"format": "pt"})
    reference = with_adapter(base, tmp_path / "adapter", BFLOAT16)
    assert differing_weights(base, tmp_path / "out", reference) == (len(before), [name])


def test_weights_in_several_files_are_those_that_their_index_names(tmp_path: Path) -> None:
    single_file = make_model(tmp_path / "one", "llama")
    several_files = shutil.copytree(single_file, tmp_path / "many")
    (several_files / "model.safetensors").unlink()
    load(single_file).save_pretrained(several_files, max_shard_size="100KB")
    assert len(list(several_files.glob("*.safetensors"))) > 3
    save_file({"model.norm.weight": torch.full((64,), 9.0)}, several_files / "consolidated.safetensors")
    adapter = make_adapter(single_file, tmp_path / "adapter", size=0.15)
    one, many = (merge(base, adapter, tmp_path / name) for name, base in (("a", single_file), ("b", several_files)))
    assert one.files == many.files, "files that the index does not name do not count"
    index_file = several_files / "model.safetensors.index.json"
    index = json.loads(index_file.read_text())
    index["weight_map"]["model.norm.weight"] = "consolidated.safetensors"
    index_file.write_text(json.dumps(index))
    with pytest.raises(JobError, match=r"model\.norm\.weight is in consolidated\.safetensors and in"):
        merge(several_files, adapter, tmp_path / "out")


def test_tensors_that_are_not_adapted_stay_as_they_are_stored(tmp_path: Path) -> None:
    """One in another dtype than the configuration says, and one that transformers does not load."""
    base = make_model(tmp_path / "base", "llama", dtype=BFLOAT16)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].float() + 1e-6
    tensors["model.layers.2.predicts_two_tokens.weight"] = torch.ones(3, dtype=torch.float8_e4m3fn)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    adapter = make_adapter(base, tmp_path / "adapter", size=0.15)
    facts = merge(base, adapter, tmp_path / "out")
    written = load_file(tmp_path / "out/model/model.safetensors")
    assert facts.dtype == "bfloat16+float32+float8_e4m3fn" and written.keys() == tensors.keys()
    changed = [n for n in written if written[n].view(torch.uint8).ne(tensors[n].view(torch.uint8)).any()]
    assert len(changed) == facts.merged_tensors == 14
    assert differing_weights(base, tmp_path / "out", with_adapter(base, adapter, BFLOAT16)) == (len(tensors), [])


def test_an_adapter_whose_configuration_leaves_a_layer_out_is_refused(base: Path, tmp_path: Path) -> None:
    adapter = make_adapter(base, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())
    config["target_modules"] = ["k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(JobError, match=r"do not change the same weights: .*q_proj\.weight"):
        merge(base, adapter, tmp_path / "out")


def test_a_whole_model_is_taken_over_as_it_is(base: Path, tmp_path: Path) -> None:
    trained = make_tiny_model(tmp_path / "trained", seed=1)
    (trained / "tokenizer.json").unlink()
    facts = merge(base, trained, tmp_path / "out")
    assert (facts.kind, facts.merged_tensors, facts.dtype) == ("full", 0, "float32")
    assert digest_file(tmp_path / "out/model/model.safetensors") == digest_file(trained / "model.safetensors")
    assert digest_file(tmp_path / "out/model/tokenizer.json") == digest_file(base / "tokenizer.json")
    smaller = make_model(tmp_path / "smaller", "llama")
    with pytest.raises(JobError, match=r"a different shape than the base's\nfix"):
        merge(smaller, trained, tmp_path / "out")


@pytest.mark.parametrize("kind", ["lora", "full", "prompt"])
def test_a_merged_model_is_greedy_though_its_base_samples(kind: str, base: Path, tmp_path: Path) -> None:
    """For vLLM too, which does not read do_sample and samples without a temperature."""
    sampling = shutil.copytree(base, tmp_path / "base")
    own = {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1}
    ends = {"eos_token_id": [2, 0], "pad_token_id": 2}
    (sampling / "generation_config.json").write_text(json.dumps(own | ends))
    if kind == "prompt":
        plain_model(sampling, soft(sampling, tmp_path / "adapter"), tmp_path / "out")
    else:
        merge(sampling, sampling if kind == "full" else make_adapter(sampling, tmp_path / "adapter"), tmp_path / "out")
    path = tmp_path / "out/model/generation_config.json"
    suppressed = {"suppress_tokens": [400, 401, 402, 403, 404]} if kind == "prompt" else {}
    assert json.loads(path.read_text()) == {**ends, **suppressed, "do_sample": False, "temperature": 0.0}
    record = json.loads((tmp_path / "out/model.json").read_text())
    assert record["files"]["generation_config.json"] == digest_file(path)
    assert json.loads((sampling / "generation_config.json").read_text()) == own | ends


def test_a_quantized_base_is_refused(base: Path, tmp_path: Path) -> None:
    quantized = shutil.copytree(base, tmp_path / "quantized")
    config = json.loads((quantized / "config.json").read_text())
    (quantized / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    adapter = make_adapter(base, tmp_path / "adapter")
    with pytest.raises(JobError, match="is quantized.*\nfix: set base_model to the unquantized model"):
        merge(quantized, adapter, tmp_path / "out")
    # and where only the files show it
    (quantized / "config.json").write_text(json.dumps(config))
    tensors = load_file(base / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.weight"] = torch.zeros(2048, 1, dtype=torch.uint8)
    save_file(tensors, quantized / "model.safetensors")
    with pytest.raises(JobError, match="q_proj.weight is stored as U8, which is quantized"):
        merge(quantized, adapter, tmp_path / "out")


def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path) -> None:
    deeper = make_tiny_model(tmp_path / "deeper", layers=3)
    with pytest.raises(
        JobError, match=r"layers\.2(.|\n)*7 tensors do not fit(.|\n)*fix: merge the adapter into the base"
    ):
        merge(base, make_adapter(deeper, tmp_path / "a"), tmp_path / "out")
    wider = make_model(tmp_path / "wider", "llama")
    with pytest.raises(JobError, match=r"up_proj\.weight has shape \(96, 64\), but the base's weight has \(128, 64\)"):
        merge(base, make_adapter(wider, tmp_path / "b", size=0.15), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.safetensors"))


# --- what an adapter folder is, and what of it cannot be merged

LAYER = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES: dict[str, tuple[int, ...]] = {f"{LAYER}.lora_A.weight": (4, 8), f"{LAYER}.lora_B.weight": (6, 4)}
DORA = {**SHAPES, f"{LAYER}.lora_magnitude_vector": (6,)}


def write_adapter(folder: Path, tensors: dict[str, tuple[int, ...]] = SHAPES, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    save_file({n: torch.zeros(s) for n, s in tensors.items()}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 8} | config))
    return folder


@pytest.mark.parametrize(
    ("tensors", "config", "message"),
    [
        (SHAPES, {"r": 2}, r"q_proj.*which do not match rank 2"),
        (SHAPES, {"init_lora_weights": "pissa"}, "path_initial_model_for_weight_conversion"),
        (SHAPES, {"init_lora_weights": "loftq"}, "path_initial_model_for_weight_conversion"),
        (SHAPES, {"use_dora": True}, "use_dora is True, but .* has no magnitude"),
        (DORA, {}, "use_dora is False, but .* has a magnitude"),
        (SHAPES, {"peft_type": "PROMPT_TUNING"}, "changes no weights.*\n.*added tokens"),
        (SHAPES, {"peft_type": "PREFIX_TUNING"}, "changes no weights.*\n.*export"),
        (SHAPES, {"peft_type": "LOHA"}, "has type LOHA"),
    ],
)
def test_what_cannot_be_merged_is_refused(tmp_path, tensors, config, message) -> None:
    with pytest.raises(JobError, match=message):
        read_adapter(write_adapter(tmp_path / "a", tensors, **config))


def test_everything_that_is_not_understood_is_named_at_once(tmp_path: Path) -> None:
    tensors = {
        f"{LAYER}.lora_A.weight": (4, 8),
        "base_model.model.lm_head.weight": (4, 4),
        "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta": (1, 4),
    }
    config = {"trainable_token_indices": [3], "rank_pattern": {"q_proj": 2}, "alora_invocation_tokens": [1, 2]}
    with pytest.raises(JobError) as caught:
        read_adapter(write_adapter(tmp_path / "a", tensors, **config))
    for part in (
        "trainable_token_indices = [3]", "alora_invocation_tokens", "rank_pattern = {'q_proj': 2}",
        "lm_head.weight', which is not a LoRA matrix", "trainable_tokens_delta",
        "only one of the two matrices for 'model.layers.0.self_attn.q_proj'", "fix: ",
    ):  # fmt: skip
        assert part in str(caught.value)


def test_kinds(tmp_path: Path) -> None:
    for kind, message in (("lora", "LORA"), ("prompt", "PROMPT_TUNING"), ("prefix", "PREFIX_TUNING")):
        assert adapter_kind(write_adapter(tmp_path / kind, peft_type=message)) == kind
    full = tmp_path / "full"
    full.mkdir()
    (full / "config.json").write_text("{}")
    with pytest.raises(JobError, match="neither an adapter"):
        adapter_kind(full)
    save_file({"w": torch.zeros(1)}, full / "model.safetensors")
    assert adapter_kind(full) == "full"
    with pytest.raises(JobError, match="is a whole model, not an adapter"):
        read_adapter(full)


def test_weights_that_are_not_safetensors_are_not_looked_at(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({n: torch.zeros(s) for n, s in SHAPES.items()}, folder / "adapter_model.bin")
    with pytest.raises(JobError, match=r"does not contain adapter_model\.safetensors"):
        read_adapter(folder)

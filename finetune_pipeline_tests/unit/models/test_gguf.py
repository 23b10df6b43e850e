"""GGUF files: llama.cpp computes what transformers computes, and what it cannot is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from finetune_pipeline.evaluation.llama_cpp import llama_cpp_server
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.base import _unpack_gguf
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.gguf import KINDS, write_gguf
from finetune_pipeline_tests.tiny_model import SYSTEM, TEMPLATE
from finetune_pipeline_tests.unit.models.architectures import load, make_model

LONGEST = 8
QUESTIONS = [
    *(
        f"ticket {n}: the board page is {word}"
        for n, word in enumerate("empty gone slow wrong back locked old".split())
    ),
    "my invoice is wrong",
    "the app crashes 1234 times,\n\n  when I save!",
    "Größe: ½ 日本語 🙂 don't we'll",
]
LLAMA3 = {"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"rope_parameters": {**LLAMA3, "original_max_position_embeddings": 32}},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma": {"norms": 4.0},
    "gemma2": {"query_pre_attn_scalar": 16, "sliding_window": 24},
    "gemma3": {"query_pre_attn_scalar": 16, "sliding_window": 24, "num_hidden_layers": 7},
}


def conversations() -> list[list[dict[str, str]]]:
    return [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": question}] for question in QUESTIONS]


def by_transformers(folder: Path) -> list[tuple[str, int]]:
    """(answer, tokens of the prompt) of every conversation."""
    tokenizer, model = load_tokenizer(folder), load(folder)
    answers = []
    for messages in conversations():
        ids = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )["input_ids"]
        with torch.no_grad():
            made = model.generate(ids, do_sample=False, max_new_tokens=LONGEST, eos_token_id=[2], pad_token_id=2)
        answers.append((tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True), ids.shape[1]))
    return answers


def by_llama_cpp(file: Path) -> list[tuple[str, int]]:
    with llama_cpp_server(file, 512) as endpoint:
        return [(a.text, a.prompt_tokens) for a in ask(endpoint, conversations(), LONGEST).answers]


def usable(text: str) -> str:
    """The text without pieces of characters: servers write those in ways of their own."""
    return text.replace("\ufffd", "")


def same_answers(folder: Path, file: Path) -> None:
    """All prompts have as many tokens, and all answers but near ties are the same: llama.cpp's keys are in float16."""
    expected, found = by_transformers(folder), by_llama_cpp(file)
    assert [n for _, n in found] == [n for _, n in expected]
    same = sum(usable(a) == usable(b) for (a, _), (b, _) in zip(expected, found, strict=True))
    assert same >= len(QUESTIONS) - 2, [pair for pair in zip(expected, found, strict=True) if pair[0] != pair[1]]
    assert len({usable(text) for text, _ in expected}) > 3, "answers that could differ"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_llama_cpp_answers_as_transformers(architecture: str, tmp_path: Path) -> None:
    folder = make_model(
        tmp_path / "model", architecture, dtype=torch.float16, **{"norms": 0.2, **ARCHITECTURES[architecture]}
    )
    write_gguf(folder, tmp_path / "m.gguf", "f16", name="m", stop_ids=[2])
    same_answers(folder, tmp_path / "m.gguf")


@pytest.mark.parametrize("tied", [True, False])
def test_a_file_is_unpacked_into_the_model_it_was_written_from(tmp_path: Path, tied: bool) -> None:
    folder = make_model(tmp_path / "model", "llama", tied=tied, dtype=torch.float16)
    write_gguf(folder, tmp_path / "m.gguf", "f16", name="m", stop_ids=[2])
    _unpack_gguf(tmp_path / "m.gguf", tmp_path / "back")
    before, after = load(folder).state_dict(), load(tmp_path / "back").state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(after[name], tensor.bfloat16().float()) for name, tensor in before.items())


def test_a_file_without_one_of_the_weights_is_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama", dtype=torch.float16)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    write_gguf(folder, tmp_path / "m.gguf", "f16", name="m", stop_ids=[2])
    with pytest.raises(RuntimeError, match="layers.1.mlp.up_proj"):
        _unpack_gguf(tmp_path / "m.gguf", tmp_path / "back")


def test_a_sentencepiece_tokenizer(tmp_path: Path) -> None:
    """Joins pairs by rank, falls back to bytes, puts its begin token first, and no space before the first word."""
    folder = make_model(tmp_path / "model", "llama", dtype=torch.float16, tied=False)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][:261] = 0  # no answer has bytes: pieces of characters are written differently
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    raw = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    raw.normalizer = normalizers.Replace(" ", "▁")
    raw.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    marks = ["<pad>", "<bos>", "<|im_end|>", "<unk>", "<|im_start|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*marks, *(f"<0x{i:02X}>" for i in range(256))], show_progress=False
    )
    raw.train_from_iterator([SYSTEM, "my invoice is wrong", "the app crashes when I save", "system user"] * 3, trainer)
    stored = json.loads(raw.to_str())
    stored["added_tokens"] = [t for t in stored["added_tokens"] if not t["content"].startswith("<0x")]
    raw = Tokenizer.from_str(json.dumps(stored))
    raw.post_processor = processors.TemplateProcessing("<bos> $A", special_tokens=[("<bos>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<bos>", eos_token="<|im_end|>", pad_token="<pad>", unk_token="<unk>"
    )
    tokenizer.chat_template = "{{ bos_token }}" + TEMPLATE
    tokenizer.save_pretrained(folder)
    write_gguf(folder, tmp_path / "m.gguf", "f16", name="m", stop_ids=[2])
    same_answers(folder, tmp_path / "m.gguf")


def test_eight_bits_take_half_the_room(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama")
    for kind in KINDS:
        write_gguf(folder, tmp_path / kind, kind, name="m", stop_ids=[2])
    sizes = {kind: (tmp_path / kind).stat().st_size for kind in KINDS}
    vocabulary = sizes["f16"] - 2 * sum(p.numel() for p in load(folder).parameters())
    assert (sizes["q8_0"] - vocabulary) / (sizes["f16"] - vocabulary) == pytest.approx(17 / 32, abs=0.02)


def changed(folder: Path, name: str, **changes: Any) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("architecture", "file", "changes", "rule"),
    [
        ("gpt2", None, {}, "gguf.architecture"),
        ("gemma3", None, {}, "gguf.settings"),  # divides by the root of 256, with heads of 16
        ("llama", "config.json", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
         "gguf.settings"),
        ("qwen2", "config.json", {"use_sliding_window": True, "sliding_window": 64}, "gguf.settings"),
        ("llama", "tokenizer.json", {"pre_tokenizer": {"type": "Whitespace"}}, "gguf.tokenizer"),
    ],
)  # fmt: skip
def test_what_llama_cpp_would_compute_differently_is_refused(
    architecture: str, file: str | None, changes: dict[str, Any], rule: str, tmp_path: Path
) -> None:
    folder = make_model(tmp_path / "model", architecture)
    if file:
        changed(folder, file, **changes)
    with pytest.raises(FindingsError) as error:
        write_gguf(folder, tmp_path / "m.gguf", "f16", name="m", stop_ids=[2])
    assert [f.rule for f in error.value.findings] == [rule] and error.value.findings[0].fix


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", "llama")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] = 1e6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FindingsError, match="float16 cannot"):
        write_gguf(folder, tmp_path / "m.gguf", "f16", name="m", stop_ids=[2])

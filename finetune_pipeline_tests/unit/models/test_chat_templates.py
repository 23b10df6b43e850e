"""Base models without a chat template: recognised, given one that their vocabulary can write, never a new token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_pipeline.engine.store import digest_file
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.base import prepare_base
from finetune_pipeline.models.chat import encode_example, encode_prompt, load_tokenizer
from finetune_pipeline.models.chat_templates import NAMED
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline_tests.tiny_model import make_tiny_model

GEMMA_TOKENS = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]


def _bare(folder: Path, special: list[str], bos: str, eos: str) -> Path:
    """A tiny base model whose tokenizer has these special tokens and no chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    make_tiny_model(folder)
    (folder / "chat_template.jinja").unlink()
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=390, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    raw.train_from_iterator(["how do I answer the user", "model assistant system"] * 3, trainer)
    PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _bare(tmp_path_factory.mktemp("gemma") / "gemma-base", GEMMA_TOKENS, "<bos>", "<eos>")


def test_a_template_whose_marks_are_no_tokens_is_refused(gemma: Path, tmp_path: Path) -> None:
    with pytest.raises(FindingsError) as error:
        prepare_base(str(gemma), None, tmp_path, NAMED["chatml"])
    (finding,) = error.value.findings
    assert finding.rule == "model.template_tokens"
    assert "<|im_end|>, <|im_start|>" in finding.message and "untrained" in finding.message
    assert "gemma, none" in finding.fix


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("gemma", "<bos><start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nYes<end_of_turn>\n"),
        ("none", "<bos>Be kind.\n\nHi\n\nAnswer: Yes<eos>\n\n"),
    ],
)
def test_with_a_template_of_existing_tokens_it_answers_and_stops(
    gemma: Path, tmp_path: Path, name: str, text: str
) -> None:
    size = len(load_tokenizer(gemma).get_vocab())
    facts = prepare_base(str(gemma), None, tmp_path, NAMED[name])
    folder = model_folder(tmp_path)
    assert folder == tmp_path / "model" and facts["chat_template"] == "task.yaml"
    (warning,) = facts["warnings"]
    assert warning["severity"] == "warning" and "instruct version" in warning["fix"]
    tokenizer = load_tokenizer(tmp_path)
    assert len(tokenizer.get_vocab()) == size  # nothing was added
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes"},
    ]
    (row,) = encode_example(tokenizer, turns, "e")
    assert tokenizer.decode(row.ids) == text
    learned = tokenizer.decode([t for t, on in zip(row.ids, row.loss, strict=True) if on])
    assert learned.strip() == "Yes" + ("<end_of_turn>" if name == "gemma" else "<eos>")
    assert row.ids[: len(encode_prompt(tokenizer, turns[:-1]))] == encode_prompt(tokenizer, turns[:-1])
    end = "<end_of_turn>" if name == "gemma" else "<eos>"
    assert end in facts["end_tokens"] and tokenizer.eos_token == end
    told = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert tokenizer.eos_token_id in (told if isinstance(told, list) else [told])
    # the weights are the base's own, not a copy of them
    assert (folder / "model.safetensors").is_symlink()
    assert facts["files"]["model.safetensors"] == digest_file(gemma / "model.safetensors")
    assert not (gemma / "chat_template.jinja").exists()


def test_a_local_folder_is_described_and_referenced(tiny: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    facts = prepare_base(str(tiny), None, tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert facts["parameters"] == sum(p.numel() for p in model.parameters())  # tied weights once
    assert facts["dtype"] == "BF16"
    assert facts["context_length"] == 1024
    assert facts["files"]["model.safetensors"] == digest_file(tiny / "model.safetensors")
    assert json.loads((tmp_path / "model.json").read_text())["path"] == str(tiny)
    assert model_folder(tmp_path) == tiny
    assert not (tmp_path / "model").exists()


def test_a_hub_model_that_cannot_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(FindingsError) as error:
        prepare_base("no-such-owner/no-such-model", None, tmp_path)
    assert error.value.findings[0].rule == "model.download"
    assert "no-such-owner/no-such-model" in error.value.findings[0].message

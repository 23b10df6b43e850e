"""Parity: a right merge passes however weak its adapter, and each kind of wrong merge is seen however strong."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import layer as peft_layer
from safetensors.torch import load_file, save_file

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import MergeJob
from finetune_pipeline.models import parity as parity_module
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.models.merging import merge, merge_and_compare
from finetune_pipeline.models.parity import MEAN_KL_LIMIT, MERGE_KL_LIMIT, Rows, parity, read_along
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.models.architectures import load, make_adapter

WEIGHTS = "model/model.safetensors"


@dataclass
class Made:
    """A base in bfloat16, an adapter on it, their merge, and rows."""

    base: Path
    adapter: Path
    merged: Path
    rows: Path

    @property
    def examples(self) -> list[Example]:
        return read_examples(self.rows)

    def parity(self, merged: Path, base: Path | None = None, adapter: Path | None = None) -> dict[str, Any]:
        folders = (base or self.base, adapter or self.adapter, merged)
        return parity(*folders, self.examples, max_new_tokens=6, batch_size=5)

    def changed(self, out: Path, name: str, change: Callable[[torch.Tensor], Any]) -> Path:
        """The merged model with one of its tensors changed."""
        return change_tensors(
            shutil.copytree(self.merged, out), WEIGHTS, lambda n, tensor: n == name and change(tensor)
        )

    def compared(self, out: Path, **changes: Any) -> dict[str, Any]:
        usual: dict[str, Any] = {"base": self.base, "adapter": self.adapter, "examples": self.rows, "labels": LABELS}
        return merge_and_compare(MergeJob(**usual | changes, max_new_tokens=6, batch_size=5, out=out, parity_rows=12))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("parity")
    base = make_tiny_model(root / "base", dtype="bfloat16")
    adapter = make_adapter(base, root / "adapter", size=0.1)
    merge(base, adapter, root / "merged")
    return Made(base, adapter, root / "merged", write_tiny_examples(root / "e.jsonl", range(12)))


def change_tensors(folder: Path, file: str, change: Callable[[str, torch.Tensor], Any]) -> Path:
    """Change tensors of a file in place."""
    tensors = load_file(folder / file)
    for name, tensor in tensors.items():
        change(name, tensor)
    save_file(tensors, folder / file, metadata={"format": "pt"})
    return folder


def test_a_right_merge_passes(made: Made) -> None:
    facts = made.parity(made.merged)
    assert facts.passed and facts.right and facts.rows == 12
    assert facts.same_greedy_share >= 11 / 12
    assert facts.merge_kl < MERGE_KL_LIMIT / 10 < facts.mean_kl < MEAN_KL_LIMIT / 2
    assert (facts.weights_compared, facts.weights_off) == (20, [])


def test_a_merge_into_four_bit_weights_is_seen(made: Made, tmp_path: Path) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    def round_off(name: str, tensor: torch.Tensor) -> None:
        if "_proj" in name:
            tensor.copy_(dequantize_4bit(*quantize_4bit(tensor, quant_type="nf4", compress_statistics=True)))

    rounded = change_tensors(shutil.copytree(made.base, tmp_path / "rounded"), "model.safetensors", round_off)
    merge(rounded, made.adapter, tmp_path / "merged")
    facts = made.parity(tmp_path / "merged")
    assert not facts.passed and facts.mean_kl > 3 * MEAN_KL_LIMIT
    assert len(facts.weights_off) == 14


def test_one_layer_left_out_of_a_weak_adapter_is_seen_though_no_answer_shows_it(made: Made, tmp_path: Path) -> None:
    name = "model.layers.1.self_attn.v_proj.weight"
    weak = make_adapter(made.base, tmp_path / "weak", size=0.02)
    merge(made.base, weak, tmp_path / "merged")
    assert made.parity(tmp_path / "merged", adapter=weak).passed
    left_out = load_file(made.base / "model.safetensors")[name]
    change_tensors(tmp_path / "merged", WEIGHTS, lambda n, tensor: n == name and tensor.copy_(left_out))
    facts = made.parity(tmp_path / "merged", adapter=weak)
    assert facts.mean_kl < MEAN_KL_LIMIT
    assert facts.weights_off == [name] and not facts.right and not facts.passed


def test_one_number_off_by_one_step_is_seen(made: Made, tmp_path: Path) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    facts = made.parity(made.changed(tmp_path / "out", name, lambda tensor: tensor.view(torch.int16)[3, 4].add_(1)))
    assert facts.weights_off == [name] and facts.mean_kl < MEAN_KL_LIMIT and not facts.passed


def test_a_merge_by_another_formula_than_the_adapters_is_seen(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    change = peft_layer.Linear.get_delta_weight
    monkeypatch.setattr(peft_layer.Linear, "get_delta_weight", lambda layer, name: 1.05 * change(layer, name))
    facts = made.parity(made.merged)
    assert facts.merge_kl > MERGE_KL_LIMIT and len(facts.weights_off) == 14
    assert not facts.right and not facts.passed


def test_logits_that_are_not_finite_are_refused(made: Made, tmp_path: Path) -> None:
    broken = made.changed(tmp_path / "broken", "model.norm.weight", lambda tensor: tensor.fill_(float("nan")))
    with pytest.raises(JobError, match="merged model gives logits that are not finite"):
        made.parity(broken)


def test_what_rounding_would_lose_is_stored_in_float32(made: Made, tmp_path: Path) -> None:
    """A weak but right adapter on a deep model with sharp answers: rounding to bfloat16 alone undoes a third of it."""
    base = make_tiny_model(tmp_path / "base", dtype="bfloat16", layers=8)
    change_tensors(base, "model.safetensors", lambda name, tensor: name == "model.norm.weight" and tensor.mul_(60))
    adapter = make_adapter(base, tmp_path / "adapter", size=0.01)
    merge(base, adapter, tmp_path / "rounded")
    rounded = made.parity(tmp_path / "rounded", base=base, adapter=adapter)
    assert rounded.right and not rounded.passed and rounded.mean_kl > 2 * MEAN_KL_LIMIT
    facts = made.compared(tmp_path / "out", base=base, adapter=adapter)
    parity = facts.parity
    assert facts.dtype == "bfloat16+float32" and "nats per token" in facts.stored_float32_because
    assert parity.passed and parity.mean_kl < MEAN_KL_LIMIT / 1000 and parity.same_greedy_share == 1.0
    assert parity.rounding.mean_kl == pytest.approx(rounded.mean_kl, rel=1e-3)
    assert json.loads((tmp_path / "out/model.json").read_text())["dtype"] == "bfloat16+float32"
    assert load(tmp_path / "out/model", "auto").dtype == torch.float32


def test_a_whole_trained_model_is_compared_with_what_is_stored(made: Made, tmp_path: Path) -> None:
    trained = make_tiny_model(tmp_path / "trained", dtype="bfloat16", seed=5)
    facts = made.compared(tmp_path / "out", adapter=trained)
    parity = facts.parity
    assert facts.kind == "full" and parity.passed and parity.merge_kl is None
    assert parity.mean_kl < 1e-9 and parity.same_greedy == 12
    assert made.parity(made.base, adapter=trained).passed is False


def test_reading_an_answer_tells_whether_it_would_be_given(made: Made, tmp_path: Path) -> None:
    """No answer need be generated anew to know which ones differ, token by token."""
    merge(made.base, make_adapter(made.base, tmp_path / "weak", size=0.03), tmp_path / "merged")
    tokenizer = load_tokenizer(made.base)
    rows = Rows.encode(tokenizer, made.examples)
    device = torch.device("cpu")
    base, merged = (load_for_prediction(folder, device) for folder in (made.base, tmp_path / "merged"))
    answers, merged_answers = (generate_and_score(m, tokenizer, rows.prompts, None, 6, 5) for m in (base, merged))
    same = [a.new_ids == b.new_ids for a, b in zip(answers, merged_answers, strict=True)]
    assert 0 < sum(same) < 12
    given = [answer.new_ids for answer in answers]
    assert [c == ids for c, ids in zip(read_along(merged, rows, 5, answers), given, strict=True)] == same
    assert read_along(base, rows, 5, answers) == given


def test_a_comparison_without_room_goes_on_with_smaller_batches(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = made.parity(made.merged)
    load_model = parity_module.load_for_comparison
    sizes: list[int] = []

    def read(_model: Any, _arguments: Any, options: dict[str, Any]) -> None:
        sizes.append(len(options["input_ids"]))
        if sizes[-1] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def load_without_room(*arguments: Any, **options: Any) -> Any:
        model = load_model(*arguments, **options)
        model.register_forward_pre_hook(read, with_kwargs=True)
        return model

    monkeypatch.setattr(parity_module, "load_for_comparison", load_without_room)
    facts = made.parity(made.merged)
    assert max(sizes) > 2 and facts.positions == expected.positions and facts.passed
    assert facts.mean_kl == pytest.approx(expected.mean_kl, rel=1e-3)
    assert facts.different == expected.different

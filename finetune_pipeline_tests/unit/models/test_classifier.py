"""A merged classifier: a right one passes parity, each wrong one is seen, and its answers are those of plain transformers."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from finetune_pipeline.data.examples import Example, read_examples
from finetune_pipeline.evaluation.predict import predict
from finetune_pipeline.evaluation.predictions import read_predictions
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import MergeJob, ModelSet, PredictJob
from finetune_pipeline.models import class_parity as parity_module
from finetune_pipeline.models.chat import encode_prompt, load_tokenizer
from finetune_pipeline.models.class_parity import SERVED_KL_LIMIT, class_parity
from finetune_pipeline.models.classifier import with_head
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.models.loading import load_for_prediction, load_for_training
from finetune_pipeline.models.merging import merge, merge_and_compare
from finetune_pipeline.models.parity import MEAN_KL_LIMIT, MERGE_KL_LIMIT
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.training.model import save_trained
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, write_tiny_examples
from finetune_pipeline_tests.unit.models.architectures import make_model
from finetune_pipeline_tests.unit.training.jobs import settings

CPU = torch.device("cpu")
ROWS = 12


def make_classifier_adapter(base: Path, folder: Path, size: float = 0.1) -> Path:
    """Save a random classifier's adapter. size: standard deviation of its matrices."""
    torch.manual_seed(2)
    model, _ = load_for_training(base, "compute", torch.float32, CPU)
    peft, _ = METHODS["classifier"].add(with_head(model, LABELS), None, settings(method="classifier"), "")
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name or "score.modules_to_save" in name:
                parameter.normal_(std=size)
    save_trained(peft, load_tokenizer(base), base, "classifier", folder)
    return folder


@dataclass
class Made:
    """A base in bfloat16, a classifier's adapter on it, their merge, and rows."""

    base: Path
    adapter: Path
    merged: Path
    rows: Path

    @property
    def examples(self) -> list[Example]:
        return read_examples(self.rows)

    def parity(self, merged: Path, adapter: Path | None = None) -> Parity:
        folders = (self.base, adapter or self.adapter, merged)
        return class_parity(*folders, self.examples, max_new_tokens=6, batch_size=5)

    def changed(self, out: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
        """The merge with changed tensors."""
        shutil.copytree(self.merged, out)
        tensors = load_file(out / "model" / "model.safetensors")
        change(tensors)
        save_file(tensors, out / "model" / "model.safetensors", metadata={"format": "pt"})
        return out


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("classifier")
    base = make_tiny_model(root / "base", dtype="bfloat16")
    adapter = make_classifier_adapter(base, root / "adapter")
    merge(base, adapter, root / "merged")
    return Made(base, adapter, root / "merged", write_tiny_examples(root / "e.jsonl", range(ROWS)))


def test_a_right_merge_passes_within_stated_bounds(made: Made) -> None:
    facts = made.parity(made.merged)
    assert facts.passed and facts.right and facts.weights_off == []
    assert (facts.rows, facts.positions, facts.weights_compared) == (ROWS, ROWS, 21)
    assert facts.merge_kl < MERGE_KL_LIMIT / 10 < facts.mean_kl < MEAN_KL_LIMIT
    assert 0 < facts.served_kl < SERVED_KL_LIMIT and 0 < facts.probability_gap < 0.1
    assert facts.same_greedy_share >= 11 / 12


def swap_classes(tensors: dict[str, torch.Tensor]) -> None:
    tensors["score.weight"] = tensors["score.weight"][[1, 0, 2]].contiguous()


def forget_the_head(tensors: dict[str, torch.Tensor]) -> None:
    tensors["score.weight"].normal_(std=0.02)


def scale_a_layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.layers.1.mlp.down_proj.weight"].mul_(1.01)


def cut_a_class(tensors: dict[str, torch.Tensor]) -> None:
    tensors["score.weight"] = torch.cat([tensors["score.weight"][:2], tensors["score.weight"][1:2]])


@pytest.mark.parametrize(
    ("plant", "off"),
    [
        (swap_classes, "score.weight"),
        (forget_the_head, "score.weight"),
        (cut_a_class, "score.weight"),
        (scale_a_layer, "model.layers.1.mlp.down_proj.weight"),
    ],
)
def test_a_planted_wrong_merge_fails(made: Made, tmp_path: Path, plant: Callable[..., None], off: str) -> None:
    facts = made.parity(made.changed(tmp_path / "wrong", plant))
    assert (facts.passed, facts.right, facts.weights_off) == (False, False, [off])
    if off == "score.weight":
        assert facts.probability_gap > 0.05 and facts.served_kl > SERVED_KL_LIMIT


def test_right_probabilities_under_wrong_names_fail(made: Made, tmp_path: Path) -> None:
    wrong = shutil.copytree(made.merged, tmp_path / "wrong")
    path = wrong / "model" / "config.json"
    config = json.loads(path.read_text())
    first, second, third = LABELS
    config["label2id"] = {second: 0, first: 1, third: 2}
    config["id2label"] = {"0": second, "1": first, "2": third}
    path.write_text(json.dumps(config))
    facts = made.parity(wrong)
    assert not facts.passed and facts.weights_off == ["config.json: label2id"]
    assert facts.served_kl < SERVED_KL_LIMIT


def test_a_head_that_is_not_finite_is_refused(made: Made, tmp_path: Path) -> None:
    broken = made.changed(tmp_path / "broken", lambda tensors: tensors["score.weight"].fill_(torch.nan))
    with pytest.raises(JobError, match="served classifier gives logits that are not finite"):
        made.parity(broken)
    facts, _ = predict(job(made, broken, tmp_path / "answers"))
    assert facts.sets["candidate"].statuses == {"ok": 0, "truncated": 0, "empty": 0, "error": ROWS}


def test_an_adapter_without_its_head_or_its_labels_is_refused(made: Made, tmp_path: Path) -> None:
    headless, nameless = (shutil.copytree(made.adapter, tmp_path / name) for name in ("headless", "nameless"))
    (nameless / "classes.json").unlink()
    tensors = load_file(headless / "adapter_model.safetensors")
    del tensors["base_model.model.score.weight"]
    save_file(tensors, headless / "adapter_model.safetensors")
    with pytest.raises(JobError, match="lacks the classifier's head"):
        merge(made.base, headless, tmp_path / "out")
    with pytest.raises(JobError, match=r"lacks classes\.json"):
        merge(made.base, nameless, tmp_path / "out")


def test_what_rounding_changes_too_much_is_stored_in_float32_with_the_reason(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stricter bound than the real one, which hardly a merge exceeds."""
    monkeypatch.setattr(parity_module, "SERVED_KL_LIMIT", 1e-6)
    merge_job = MergeJob(
        base=made.base, adapter=made.adapter, examples=made.rows, labels=LABELS, max_new_tokens=6, batch_size=5,
        out=tmp_path,
    )  # fmt: skip
    facts = merge_and_compare(merge_job)
    assert (facts.kind, facts.dtype) == ("classifier", "bfloat16+float32")
    assert facts.parity.passed and "nats" in facts.stored_float32_because
    assert facts.parity.rounding.served_kl > 1e-6 > facts.parity.served_kl
    assert {t.dtype for n, t in load_file(tmp_path / "model" / "model.safetensors").items() if "score" in n} == {
        torch.float32
    }


def job(made: Made, model: Path, out: Path, labels: list[str] | None = None) -> PredictJob:
    model_set, usual = ModelSet(name="candidate", model=model), {"max_new_tokens": 6, "batch_size": 5}
    return PredictJob(
        sets=[model_set], examples=made.rows, labels=labels or LABELS, out=out, precision="float32", **usual
    )


def test_predictions_are_the_probabilities_of_plain_transformers(made: Made, tmp_path: Path) -> None:
    """In the order of the job's labels; a label that the classifier does not know is impossible."""
    order = ["how_to", "unheard_of", "billing", "bug_report"]
    facts, _ = predict(job(made, made.merged, tmp_path, order))
    rows = {row["example_id"]: row for row in read_predictions(tmp_path / "predictions.parquet")}
    assert facts.sets["candidate"].statuses["ok"] == len(rows) == ROWS
    plain: Any = AutoModelForSequenceClassification.from_pretrained(made.merged / "model", dtype=torch.float32).eval()
    tokenizer, chosen = load_tokenizer(made.merged), set()
    prompts = [encode_prompt(tokenizer, e.prompt_messages) for e in made.examples]
    longest = max(map(len, prompts))
    padded = torch.tensor([[*ids, *[plain.config.pad_token_id] * (longest - len(ids))] for ids in prompts])
    mask = torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in prompts])
    with torch.no_grad():
        logits = plain(input_ids=padded, attention_mask=mask).logits
    for example, ids, row_logits in zip(made.examples, prompts, logits, strict=True):
        row, log_shares = rows[example.id], row_logits.double().log_softmax(-1)
        assert (row["prompt_tokens"], row["new_tokens"], row["status"]) == (len(ids), 0, "ok")
        assert row["text"] == LABELS[int(log_shares.argmax())] and row["label_scores"][1] == -float("inf")
        scores = {label: score for label, score in zip(order, row["label_scores"], strict=True) if label in LABELS}
        assert [scores[label] for label in LABELS] == pytest.approx(log_shares.tolist(), abs=1e-4)
        chosen.add(row["text"])
    assert len(chosen) > 1


@pytest.mark.parametrize("architecture", ["qwen3", "gemma2", "gemma3_with_images", "mistral", "phi3", "gpt_neox"])
def test_other_architectures_and_untied_heads_are_merged_too(tmp_path: Path, architecture: str) -> None:
    base = make_model(tmp_path / "base", architecture, dtype=torch.bfloat16, tied=architecture != "qwen3")
    adapter, rows = (
        make_classifier_adapter(base, tmp_path / "adapter", 0.05),
        write_tiny_examples(tmp_path / "e.jsonl", range(6)),
    )
    merge(base, adapter, tmp_path / "merged")
    facts = class_parity(base, adapter, tmp_path / "merged", read_examples(rows), max_new_tokens=6, batch_size=5)
    assert facts.right, facts
    assert load_for_prediction(tmp_path / "merged", CPU).classes == LABELS
    assert not any(
        "lm_head" in name or "embed_out" in name
        for name in load_file(tmp_path / "merged" / "model" / "model.safetensors")
    )


def test_an_architecture_without_a_classifier_on_the_last_token_is_refused(tmp_path: Path) -> None:
    base = make_model(tmp_path / "base", "mamba")
    model, _ = load_for_training(base, "compute", torch.float32, CPU)
    with pytest.raises(JobError, match="no classifier on the last token of models of type mamba"):
        with_head(model, LABELS)

"""A GPU's training step, answers and memory on a machine without one: models of published shapes, tensors without data."""

import json
from typing import Any

import pytest

from finetune_pipeline_tests.rehearsals import print_results
from finetune_pipeline_tests.unit.training.jobs import call

# Mistral has Llama's layers: it stands where Llama does not
FAULTS = {
    "device": ("same device", "FakeTensorDeviceMismatchError"),
    "sync": ("waits for the device", "HostSyncError"),
    "wide": ("in torch.float32", "WideCopyError"),
}
OFF = 0.25
"""How far a plan may be from the peak."""
ATTENTION = [("flex", 2048), ("flex", 8192), ("buckets", 2048), ("buckets", 8192)]
_STEP = {"step": "train_step", "layers": 2, "number": 4}
_SETTINGS = {
    "precision": "bfloat16",
    "epochs": 1,
    "batch_size": 4,
    "micro_batch_size": 4,
    "gradient_checkpointing": True,
}
_RANDOM = {"tokens": 20, "init": "random"}
_LORA = {**_SETTINGS, "method": "lora"}
_ANSWER = {"step": "answer", "layers": 2, "number": 4, "new_tokens": 3}
CASES: dict[str, dict[str, Any]] = {
    "gemma-3-4b lora": {**_STEP, "shape": "gemma-3-4b", "settings": _LORA},
    "llama-3-8b qlora": {**_STEP, "shape": "llama-3-8b", "settings": {**_SETTINGS, "method": "qlora"}},
    "gemma-3-4b full": {**_STEP, "shape": "gemma-3-4b", "settings": {**_SETTINGS, "method": "full"}},
    "mistral-7b prompt": {
        **_STEP,
        "shape": "mistral-7b",
        "settings": {**_SETTINGS, "method": "prompt", "prompt": _RANDOM},
    },
    "mistral-7b prefix": {
        **_STEP,
        "shape": "mistral-7b",
        "settings": {**_SETTINGS, "method": "prefix", "prefix": _RANDOM, "gradient_checkpointing": False},
    },
    "padded": {**_STEP, "shape": "mistral-7b", "settings": {**_LORA, "shared_prefix": False}},
    **{
        f"{kernel} {tokens}": {"step": "attend", "shape": "mistral-7b", "layers": 1, "kernel": kernel, "tokens": tokens}
        for kernel, tokens in ATTENTION
    },
    **{fault: {**_STEP, "shape": "mistral-7b", "settings": _LORA, "plant": fault} for fault in FAULTS},
    **{f"{shape} asked": {**_ANSWER, "shape": shape} for shape in ("mistral-7b", "gemma-3-4b")},
    **{f"{shape} compared": {**_ANSWER, "step": "compare", "shape": shape} for shape in ("mistral-7b", "llama-3-8b")},
    "models kept": {**_ANSWER, "step": "compare", "shape": "mistral-7b", "plant": "kept"},
}


@pytest.fixture(scope="module")
def results() -> dict[str, dict[str, Any]]:
    """All cases, in one process of its own: in this one the device would be taken for an accelerator."""
    completed = call(print_results, list(CASES.values()))
    prefix = "RESULT "
    lines = [json.loads(n.removeprefix(prefix)) for n in completed.stdout.splitlines() if n.startswith(prefix)]
    assert len(lines) == len(CASES), completed.stderr[-3000:]
    return dict(zip(CASES, lines, strict=True))


@pytest.mark.parametrize(
    "case", [case for case in CASES if CASES[case]["step"] != "attend" and "plant" not in CASES[case]]
)
def test_a_step_stays_on_the_device_and_takes_the_memory_that_is_planned(results, case) -> None:
    """Mixed devices, values the program waits for, and wide copies would have ended the step."""
    result = results[case]
    assert "error" not in result, result["error"]
    assert result["planned"] == pytest.approx(result["peak"], rel=OFF), result
    assert result.get("packed", True) == (case != "padded")
    if "validation_peak" in result:
        assert result["validation_planned"] == pytest.approx(result["validation_peak"], rel=OFF), result
        assert result["waits"] == 4, "a validation pass waits for its four losses, once a batch"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_ends_the_step(results: dict[str, dict[str, Any]], fault: str) -> None:
    words, kind = FAULTS[fault]
    assert results[fault]["error"].startswith(kind) and words in results[fault]["error"]


def test_an_answer_waits_for_the_device_once_a_token(results: dict[str, dict[str, Any]]) -> None:
    """Three tokens of four rows and their log-probabilities are read together, and the scores of six labels."""
    assert results["mistral-7b asked"]["waits"] == 2 * 4 * 3 + 4 * 6


@pytest.mark.parametrize("shape", ["mistral-7b", "llama-3-8b"])
def test_a_merge_is_compared_with_one_model_in_memory(results: dict[str, dict[str, Any]], shape: str) -> None:
    """Answers of the merged model, its logits, and those of the adapter on the base."""
    held = results[f"{shape} compared"]["models"]
    assert len(held) == 3 and max(held) < results[f"{shape} compared"]["peak"] / 1000


def test_models_that_are_kept_are_seen(results: dict[str, dict[str, Any]]) -> None:
    result = results["models kept"]
    assert result["models"][2] > 0.6 * result["planned"] and result["peak"] > 1.5 * result["planned"]


def test_flex_attention_takes_memory_linear_in_the_tokens(results: dict[str, dict[str, Any]]) -> None:
    """The attention by buckets keeps its weights, which grow with the square: it shows that the tracker sees them."""
    for measure in ("kept", "peak"):
        assert results["flex 8192"][measure] / results["flex 2048"][measure] == pytest.approx(4, rel=0.02)
        assert results["buckets 8192"][measure] > 8 * results["buckets 2048"][measure]
    assert results["flex 8192"]["kept"] < results["buckets 8192"]["kept"] / 10

"""Facts of invented trainings, in JSON's types, for tests of checks, gates and pages."""

from typing import Any

from finetune_pipeline.training.audit import COUNTS

_COUNTED = {
    "rows": 700, "examples": 700, **dict.fromkeys(COUNTS, 0), "rows_cut": 3, "tokens_cut": 0, "rows_dropped": 0,
    "tokens": 50000, "loss_tokens": 2000,
}  # fmt: skip
AUDIT = {
    **_COUNTED, "max_tokens": 256, "bad": {}, "findings": [],
    "tokens_per_row": {"min": 60, "p50": 70, "p90": 80, "p99": 88, "max": 90},
    "loss_tokens_per_row": {"min": 3, "p50": 3, "p90": 4, "p99": 5, "max": 5},
}  # fmt: skip
"""A clean audit of one split."""
LOCAL: dict[str, Any] = {
    "method": "qlora", "precision": "bfloat16", "device": "cpu", "processes": 1, "strategy": "ddp",
    "trainable_parameters": 1000, "total_parameters": 100000, "adapter_tensors": ["a.lora_A.weight"],
    "trained": {"folder": "adapter", "kind": "lora", "bytes": 4000, "tensors": ["a.lora_A.weight"]},
    "steps": 40, "steps_planned": 40, "epochs": 2.0, "stopped_early": False, "best_step": 20,
    "best_eval_loss": 0.5, "first_eval_loss": 2.0, "last_train_loss": 0.2,
    "history": [{"step": 0, "eval_loss": 2.0}, {"step": 10, "loss": 1.1}, {"step": 20, "eval_loss": 0.5},
                {"step": 30, "loss": 0.3}, {"step": 40, "eval_loss": 0.54}],
    "overfitting": {"best_step": 20, "best_eval": 0.5, "last_eval": 0.54, "rise": 0.08, "train_fell": None,
                    "verdict": "unstable"},
    "weights": {"bytes_loaded": 84000, "bf16_bytes": 200000, "ratio": 0.42, "parameters": 300, "quantized_modules": 7,
                "by_kind": {"quantized": 52, "other": 400}},
    "begun": {}, "rounding": None, "micro_batch": {"declared": 8, "used": 8},
    "gradient_checkpointing": {"used": False, "why": "the base has at most 1B parameters"},
    "shared_prefix": {"used": True, "why": "", "prefix_tokens": 110, "kernel": "sdpa", "kernel_why": ""},
    "fused": {"lora_layers": 14, "norms": 5},
    "tokens": {"train": {"rows": 700, "tokens": 50000, "loss_tokens": 2000}},
    "augmented": {"rows": 0, "kinds": {}, "too_long": 0},
    "rows_dropped": {"train": {"over_length": 0, "ids": [], "cut": 3, "cut_ids": [], "tokens_cut": 0}},
    "audit": {**_COUNTED, "splits": {"train": AUDIT}},
}  # fmt: skip
"""A training by this package."""
SECOND_STAGE: dict[str, Any] = {"choice": {
    "refined": True, "reasons": [], "sentence": "The refined model goes on.", "metric": "accuracy", "rows": 80, "changed": 12,
    "better": True, "gain": {"mean": 0.1, "interval": [0.03, 0.18]}, "exact_p": 0.01,
    "form": {"mean": 0.0, "interval": [-0.04, 0.04]},
}}  # fmt: skip
"""The refinement of a training whose second stage's model goes on, since it is surely better on validation."""
HOSTED: dict[str, Any] = {
    "service": "OpenAI (api.openai.com)", "returns": "endpoint", "job": "ftjob-1", "model": "ft:1",
    "service_base_model": "gpt-4.1-nano", "hyperparameters": {}, "rows": {"train": 14, "validation": 2},
    "method": "lora", "precision": None, "steps": None, "epochs": 2, "stopped_early": None, "best_step": None,
    "best_eval_loss": None, "first_eval_loss": None, "last_train_loss": None, "history": [], "adapter_tensors": [],
}  # fmt: skip
"""A training at a service that has reported nothing."""

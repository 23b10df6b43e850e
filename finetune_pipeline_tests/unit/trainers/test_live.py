"""One small job at a real service: costs money, and runs only with ``pytest --live`` and a key in the environment."""

import os
from pathlib import Path

import pytest

from finetune_pipeline.trainers import train
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.trainers.orders import make_order, make_rows, make_task

PATIENCE = {"poll_seconds": 20, "request_seconds": 120, "settle_seconds": 90}
SERVICES = {
    "together": ("TOGETHER_API_KEY", {**PATIENCE, "model": "google/gemma-3-270m-it"}),
    "openai": ("NEBIUS_API_KEY", {**PATIENCE, "profile": "nebius", "model": "meta-llama/Meta-Llama-3.1-8B-Instruct"}),
}


@pytest.mark.parametrize("trainer", SERVICES)
def test_a_real_service_trains(trainer: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    key, section = SERVICES[trainer]
    if not request.config.getoption("--live") or not os.environ.get(key):
        pytest.skip(f"needs --live and {key}")
    rows = make_rows(tmp_path / "rows", 40)
    make_tiny_model(rows / "base")
    budget = 1.0 if trainer == "together" else None  # the others name no price of their own
    order = make_order(make_task(trainer, section, lora={"r": 8}, epochs=1, budget_usd=budget), rows, tmp_path)
    facts = train(order)
    assert facts.trained.tensors and facts.service
    assert train(order).job == facts.job, "the second run finds the job of the first"

"""Facts of a training plan for tests."""

from typing import Any

from finetune_pipeline.planning.plan import PlannedTokens, TrainingPlan


def planned(**others: Any) -> dict[str, Any]:
    """Facts of a plan that fits. others: facts that differ."""
    plan = TrainingPlan(
        method="lora",
        precision="float32",
        device="cpu",
        train_examples=6,
        validation_examples=2,
        rows=6,
        tokens=PlannedTokens(min=5, p50=5, p90=5, p99=5, max=5, mean=5.0, total=30),
        computed_share=1.0,
        over_length=0,
        limit=128,
        steps_per_epoch=3,
        steps=3,
        evaluations=2,
        phases=[],
        trainable_parameters=10,
        parameters=100,
        memory_mib={"total": 5},
        available_mib=9,
        fits=True,
        nearest=None,
        others=[],
        prices=[],
        serving=[],
        methods=[],
        sentence="s",
    )
    return plan.to_json() | others

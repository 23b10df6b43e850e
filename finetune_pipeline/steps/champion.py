"""The model a candidate is compared with, as the artifact store keeps it."""

from __future__ import annotations

from finetune_pipeline.engine.step import SHARED, StepContext
from finetune_pipeline.engine.store import Artifact


def champion_of(work: StepContext) -> tuple[Artifact, Artifact]:
    """The champion's model, and the base it was made from, which need not be the candidate's.

    Raises RuntimeError where one of the two is gone.
    """
    assert work.world.champion is not None
    version = str(work.world.champion["merged"])
    champion = work.store.find(work.task.name, "merged_model", version)
    base = work.store.find(SHARED, "base_model", champion.inputs["base_model"]) if champion else None
    if champion is None or base is None:
        gone = "merged model" if champion is None else "base model"
        raise RuntimeError(
            f"the {gone} of the present champion (merged_model {version}) is gone from the artifact store, so the "
            "candidate cannot be compared with it; restore it, or remove the alias `champion` in MLflow"
        )
    return champion, base

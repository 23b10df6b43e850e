"""Facts of released versions for tests."""

from typing import Any

from finetune_pipeline.production.released import Released


def released_facts(number: int, gates_passed: bool = True, **others: Any) -> dict[str, Any]:
    """Facts of a version that is the champion if its gates passed. others: facts that differ."""
    champion = number if gates_passed else None
    facts = Released(
        model_version=number,
        candidate=number,
        champion=champion,
        champion_gates="passed" if champion else None,
        previous_champion=None,
        promoted=gates_passed,
        rolled_back=None,
        gates_passed=gates_passed,
        forgotten=False,
        gates={},
        verdict="v",
    )
    return facts.to_json() | others

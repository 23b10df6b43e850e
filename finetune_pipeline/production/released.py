"""A release: what is asked of the registry, what it answers, and the facts of the step model_version."""

from typing import Any

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.step import Champion
from finetune_pipeline.evaluation.calibration import ReleasedProbability
from finetune_pipeline.models.hosted import HostedModel


class ReleaseRequest(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """What the registry is asked to register. A release's record has the same keys, except for `card` and the folders.

    Attributes:
        name: Of the task.
        method, endpoint: How it was trained, and where a hosted model is served.
        kind: What is registered, and winner_kind what is shipped (result.WinnerKind), with its name; None if nothing is.
        adapter, merged, base, shipped: Folders; shipped: of a simple model or a prompt, whose `files` have these digests.
        dataset_version, adapter_version, merged_version, evaluation_version: Of the artifacts it was made from.
        base_identity: Identity of the base model and its chat template.
        gates_passed, gates: Whether the evaluation ships it, and the results of its gates by name.
        forgotten: Whether it was trained on rows that have since been forgotten.
        holds_rows: Whether its files contain training rows.
        compared_with: The champion at that time. A rerun compares with the same model again.
        rollout: Whether it takes over from a champion in stages (key `rollout`), not at once.
        card, verdict, about, loosened, scores: Shown in the registry.
    """

    name: str
    method: str
    kind: str
    endpoint: HostedModel | None
    dataset_version: str
    adapter: str
    adapter_version: str
    merged: str
    merged_version: str
    evaluation_version: str
    base: str
    base_identity: dict[str, Any]
    system_prompt: str
    max_new_tokens: int
    precision: str
    json_schema: dict[str, Any] | None
    constrained_decoding: bool
    gates_passed: bool
    gates: dict[str, str]
    forgotten: bool
    verdict: str
    winner_kind: str | None
    winner_name: str | None
    shipped: str | None
    files: dict[str, str]
    holds_rows: bool
    loosened: str
    about: str
    scores: dict[str, float]
    compared_with: Champion | None
    card: str
    probability: ReleasedProbability | None = None
    rollout: bool = False

    @property
    def record(self) -> dict[str, object]:
        """The request without its card, and without folders, which may move; their versions do not change."""
        left_out = ("card", "adapter", "merged", "base", "shipped")
        return {key: value for key, value in self.to_json().items() if key not in left_out}


class Outcome(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """What the registry answers to a release.

    Attributes:
        candidate, champion, previous_champion: The versions with these aliases.
        champion_gates: `passed` unless the registry was changed by hand; None without a champion.
        known: Whether the version was promoted by an earlier release. Artifacts of earlier releases do not say.
        promoted: Whether it is the champion.
        rolled_back: When and why a rollback took this version out of service, so that it is not promoted; None if none did.
        rollout: The version whose rollout goes on: this one, or another that comes first; None without a rollout.
    """

    model_version: int
    candidate: int | None
    champion: int | None
    champion_gates: str | None
    previous_champion: int | None
    known: bool = False
    promoted: bool
    rolled_back: str | None
    rollout: int | None = None


class Released(Outcome, frozen=True, kw_only=True, omit_defaults=False):
    """Facts of model_version. Those with a default are not in artifacts of earlier releases.

    Attributes:
        gates_passed: Whether the evaluation ships the model; gates: the results of its gates by name.
        forgotten: Whether it was trained on rows that have since been forgotten.
        winner_kind, winner_name: Of the registered model; None if nothing is shipped.
        holds_rows: Whether its files contain training rows.
    """

    gates_passed: bool
    forgotten: bool
    gates: dict[str, str]
    verdict: str
    winner_kind: str | None = None
    winner_name: str | None = None
    holds_rows: bool = False

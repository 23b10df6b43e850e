"""What a release did: facts of the step model_version."""

from finetune_pipeline.engine.facts import Facts


class Outcome(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """What the registry answers to a release.

    Attributes:
        candidate, champion, previous_champion: The versions with these aliases.
        champion_gates: `passed` unless the registry was changed by hand; None without a champion.
        known: Whether the version was promoted by an earlier release. Artifacts of earlier releases do not say.
        promoted: Whether it is the champion.
        rolled_back: When and why a rollback took this version out of service, so that it is not promoted; None if none did.
    """

    model_version: int
    candidate: int | None
    champion: int | None
    champion_gates: str | None
    previous_champion: int | None
    known: bool = False
    promoted: bool
    rolled_back: str | None


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

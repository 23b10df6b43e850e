"""Rollouts in the registry: a candidate that takes over from the champion in stages.

A tag of the registered model has the two versions and the stage. The alias of the stage (`shadow`, `share-10`) names the candidate,
for people and other servers; after a kill the next command corrects it. A rollout is over when its champion serves no more, or its
candidate was taken out of service or trained on rows forgotten since.
"""

from typing import TYPE_CHECKING

import msgspec

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import shortened
from finetune_pipeline.production.rollout import SHADOW, Rollout
from finetune_pipeline.tracking import registry
from finetune_pipeline.tracking.mlflow_store import locked, redact
from finetune_pipeline.tracking.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

ROLLOUT = "rollout"
"""Tag of a registered model with its rollout; `rollout.TIME` are the tags of its history."""
STAGES = ("shadow", "share-")
"""Beginnings of the aliases of stages."""


def present(tracking: Tracking, name: str) -> Rollout | None:
    """Return the rollout that goes on; None if there is none. Raises FindingsError if somebody has changed its tag."""
    tag = _tags(tracking, name).get(ROLLOUT)
    rollout = registry.decode_tag(name, ROLLOUT, tag, Rollout) if tag else None
    if rollout is None or registry.champion(tracking, name) != rollout.champion:
        return None
    try:
        tags = registry.version_tags(tracking, name, rollout.candidate)
    except ValueError:  # somebody deleted it
        return None
    return None if {registry.ROLLED_BACK, registry.FORGOTTEN} & set(tags) else rollout


def history(tracking: Tracking, name: str) -> list[tuple[str, str]]:
    """Return time and sentence of what has happened in the rollouts of a task, oldest first."""
    tags = _tags(tracking, name)
    return sorted(
        (key.removeprefix(f"{ROLLOUT}."), said) for key, said in tags.items() if key.startswith(f"{ROLLOUT}.")
    )


def _tags(tracking: Tracking, name: str) -> dict[str, str]:
    """Return the tags of a registered model; empty if it was never registered."""
    with locked(tracking.place(), "registry"):
        rows = tracking.look_up("SELECT key, value FROM registered_model_tags WHERE name = ?", name)
    if rows is not None:
        return dict(rows)
    with registry.open_registry(tracking) as client:
        model = registry.registered(client, name)
        return dict(model.tags) if model else {}


def begin(tracking: Tracking, name: str, version: int, compared_with: int) -> Rollout:
    """Let a version take over from the champion in stages, from the first one on, unless a rollout goes on. Returns the rollout.

    Beginning it again changes nothing. Raises ValueError and OutsideError like :func:`.registry.promote`.
    """
    if rollout := present(tracking, name):
        return rollout
    with registry.open_registry(tracking) as client:
        registry.check_promotable(client, name, version, compared_with)
        rollout = Rollout(compared_with, version, SHADOW, registry.timestamp())
        _set(client, name, rollout, f"version {version} begins behind version {compared_with}")
    return rollout


def advance(tracking: Tracking, name: str, rollout: Rollout, percent: int | None, why: str) -> None:
    """Begin the next stage. percent: the candidate's share; None: it becomes the champion.

    Raises OutsideError if the rollout is not the present one any more, and the errors of :func:`.registry.promote`.
    """
    _check_present(tracking, name, rollout)
    if percent is None:
        registry.promote(tracking, name, rollout.candidate, rollout.champion)
        _end(tracking, name, f"version {rollout.candidate}: {rollout.alias} → champion: {why}")
        return
    later = Rollout(rollout.champion, rollout.candidate, percent, registry.timestamp())
    with registry.open_registry(tracking) as client:
        _set(client, name, later, f"version {rollout.candidate}: {rollout.alias} → {later.alias}: {why}")


def stop(tracking: Tracking, name: str, rollout: Rollout, why: str) -> None:
    """End a rollout: the champion serves on, and no release promotes the candidate again.

    If it is killed, either nothing has changed or the rollout is over. Raises OutsideError if it is not the present one any more.
    """
    _check_present(tracking, name, rollout)
    reason = shortened(redact(" ".join(why.split()))) or "no reason given"
    with registry.open_registry(tracking) as client:
        said = f"rollout ended at {rollout.alias}: {reason}"
        tag = f"{registry.timestamp()}: {said}"
        client.set_model_version_tag(name, str(rollout.candidate), registry.ROLLED_BACK, tag)
    _end(tracking, name, f"version {rollout.candidate}: {said}")


def tidy(tracking: Tracking, name: str) -> None:
    """Remove what a rollout that is over has left: its tag and aliases. Of one that goes on, complete the alias."""
    rollout = present(tracking, name)
    with registry.open_registry(tracking) as client:
        _set_aliases(client, name, rollout)
        model = registry.registered(client, name)
        if rollout is None and model and ROLLOUT in model.tags:
            client.delete_registered_model_tag(name, ROLLOUT)


def _end(tracking: Tracking, name: str, said: str) -> None:
    with registry.open_registry(tracking) as client:
        client.set_registered_model_tag(name, f"{ROLLOUT}.{registry.timestamp()}", shortened(redact(said)))
    tidy(tracking, name)


def _check_present(tracking: Tracking, name: str, rollout: Rollout) -> None:
    now = present(tracking, name)
    if now != rollout:
        said = f"it is at {now.alias} now" if now else "it is over"
        raise OutsideError(
            f"the rollout of {name} has changed meanwhile: {said}", f"`finetune rollout {name}` shows it"
        )


def _set(client: "MlflowClient", name: str, rollout: Rollout, said: str) -> None:
    """Write the stage: from here on it holds. Then its alias and its history."""
    client.set_registered_model_tag(name, ROLLOUT, msgspec.json.encode(rollout).decode())
    _set_aliases(client, name, rollout)
    client.set_registered_model_tag(name, f"{ROLLOUT}.{rollout.since}", shortened(redact(said)))


def _set_aliases(client: "MlflowClient", name: str, rollout: Rollout | None) -> None:
    model = registry.registered(client, name)
    aliases = {alias: int(version) for alias, version in model.aliases.items()} if model else {}
    if rollout and aliases.get(rollout.alias) != rollout.candidate:
        client.set_registered_model_alias(name, rollout.alias, str(rollout.candidate))
    for alias in aliases:
        if alias.startswith(STAGES) and (rollout is None or alias != rollout.alias):
            client.delete_registered_model_alias(name, alias)

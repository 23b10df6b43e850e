"""The registered models of MLflow: their versions, and the aliases that determine which one serves.

The alias `candidate` names the newest version. The alias `champion` names the version that serves, and moves only to one
whose gates passed. A rollback returns to `previous_champion`. Tags of the registered model record every rollback with its
reason. The version taken out of service is tagged too, and no release promotes it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from finetune_pipeline.faults import OutsideError
from finetune_pipeline.findings import Finding, FindingsError, shortened
from finetune_pipeline.tracking.mlflow_store import locked, mlflow_errors, redact, suppress_error
from finetune_pipeline.tracking.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous_champion"
GATES, PASSED = "gates", "passed"
ADAPTER_VERSION, EVALUATION = "finetune.adapter_version", "evaluation_version"
"""Tags of a version: what was trained, which identifies the model however it is asked; and its evaluation."""
WINNER_KIND = "winner_kind"
"""Tag of a version with its kind (result.WinnerKind); those of earlier releases have none and are tuned models."""
WINNER_NAME, FILES = "winner_name", "files_digest"
"""Tags of a simple model or a prompt: its name in the baseline, and the digest of its files, which identifies it."""
PROMOTED = "promoted"
"""Tag of every version that has become `champion`, with the time."""
FORGOTTEN, FORGOTTEN_REASON = "forgotten_rows", "trained on rows that have been forgotten since (finetune forget)"
HOLDS_ROWS = "holds_rows"
"""Tag of a simple model or a prompt whose files contain training rows; `removed` once these were forgotten."""
LOGGED_MODEL = "finetune.logged_model"
"""Tag of a version with the id of its files in MLflow."""
ROLLED_BACK = "rolled_back"
"""Tag of a version that a rollback took out of service, with time and reason."""
SHIPPED_FILES = "artifacts/shipped"
"""Folder of a version's files in MLflow with the files of a simple model or a prompt."""
MOVE = "champion_move"
"""Tag of a registered model while `champion` moves, from which a move that was killed is completed."""


class Move(msgspec.Struct):
    """A move of `champion` from one version to another. rolled_back: the time, if it is a rollback; why: its reason."""

    old: int | None
    to: int
    rolled_back: str = ""
    why: str = ""


def champion(tracking: Tracking, name: str) -> int | None:
    """Return the version that serves, or None (also if no model of that name was ever registered)."""
    return aliases(tracking, name).get(CHAMPION)


def aliases(tracking: Tracking, name: str) -> dict[str, int]:
    """Return all aliases of a model and their versions; empty if it was never registered."""
    rows = _look_up(tracking, "SELECT alias, version FROM registered_model_aliases WHERE name = ?", name)
    if rows is not None:
        return {alias: int(version) for alias, version in rows}
    with open_registry(tracking) as client:
        return _versions(registered(client, name))


def version_tags(tracking: Tracking, name: str, version: int) -> dict[str, str]:
    """Return the tags of a version. Raises ValueError if there is no such version."""
    rows = _look_up(
        tracking,
        "SELECT key, value FROM model_versions LEFT JOIN model_version_tags USING (name, version) "
        "WHERE name = ? AND version = ? AND current_stage IS NOT 'Deleted_Internal'",
        name,
        version,
    )
    if rows is None:
        with open_registry(tracking) as client:
            return dict(find_version(client, name, version).tags)
    if not rows:
        raise ValueError(f"there is no version {version} of model {name!r}")
    return {key: value for key, value in rows if key is not None}


def version_of(tracking: Tracking, name: str, adapter_version: str) -> int | None:
    """Return the version that the training of this adapter made; None if none is registered. One run may have made several:
    evaluated again by other rules, another kind of model may win. Then the promoted one counts, else the newest."""
    rows = _look_up(
        tracking,
        "SELECT version FROM model_versions JOIN model_version_tags USING (name, version) "
        "WHERE name = ? AND key = ? AND value = ? AND current_stage IS NOT 'Deleted_Internal'",
        name,
        ADAPTER_VERSION,
        adapter_version,
    )
    if rows is None:
        with open_registry(tracking) as client:
            rows = [(version.version,) for version in find_trained(client, name, adapter_version)]
    versions = sorted((int(version) for (version,) in rows), reverse=True)
    if len(versions) > 1:
        current = aliases(tracking, name)
        promoted = (v for v in versions if was_promoted(version_tags(tracking, name, v), v, current))
        return next(promoted, versions[0])
    return versions[0] if versions else None


def find_trained(client: MlflowClient, name: str, adapter_version: str) -> list[ModelVersion]:
    """Return the registered versions that the training of this adapter made, oldest first."""
    versions = client.search_model_versions(f"name = '{name}' and tags.`{ADAPTER_VERSION}` = '{adapter_version}'")
    return sorted(versions, key=lambda version: int(version.version))


def was_promoted(tags: Mapping[str, str], version: int, current_aliases: Mapping[str, int]) -> bool:
    """Whether a version is champion or was it before. Those of earlier releases have no tag."""
    return PROMOTED in tags or version in (current_aliases.get(CHAMPION), current_aliases.get(PREVIOUS))


def tags_of_release(tracking: Tracking, name: str, version: int, *keys: str) -> dict[str, str]:
    """Return the tags of a version that an alias names, with at least these keys.

    Raises FindingsError if they are missing: anybody may give an alias to a version that no release has registered.
    """
    tags = version_tags(tracking, name, version)
    if missing := [key for key in keys if key not in tags]:
        message = f"version {version} was not registered by a run of this pipeline: it has no tag {', '.join(missing)}"
        fix = f"in MLflow, set its alias to a version that `finetune run {name}` has registered, or remove the alias"
        raise FindingsError([Finding("registry.foreign_version", "error", f"registered model {name}", message, fix)])
    return tags


def decode_tag(name: str, tag: str, text: str, form: Any) -> Any:
    """Return the value of a tag, which is JSON of the type `form`.

    Raises FindingsError if it is not: anybody may change tags in MLflow.
    """
    try:
        return msgspec.json.decode(text, type=form)
    except msgspec.DecodeError as error:
        place, message = f"registered model {name}", f"its tag {tag} is not what was written: {error}"
        fix = "in MLflow, put back its value, or delete the tag"
        raise FindingsError([Finding("registry.changed_tag", "error", place, message, fix)]) from error


def _look_up(tracking: Tracking, query: str, *values: object) -> list[tuple[Any, ...]] | None:
    """Run Tracking.look_up under the registry's lock, so that no alias is moved meanwhile."""
    with locked(tracking.place(), "registry"):
        return tracking.look_up(query, *values)


def promote(
    tracking: Tracking, name: str, version: int, compared_with: int | Literal["any"] | None = "any"
) -> int | None:
    """Move `champion` to `version`; the old one becomes `previous_champion` and is returned (None if there was none).

    compared_with: the champion that the version was compared with, which must still serve; None: there was none.

    Promoting the champion again changes nothing and returns the same. If it is killed, either nothing has changed, or the new
    champion serves and the next command completes the move.

    Raises ValueError if there is no such version, its gates have not passed, a rollback took it out of service, or it was
    trained on rows forgotten since; OutsideError if another run or a rollback has moved `champion` since the comparison.
    """
    with open_registry(tracking) as client:
        current_aliases = settle(client, name)[0]
        old = current_aliases.get(CHAMPION)
        if old == version and find_version(client, name, version).tags.get(GATES) == PASSED:
            return current_aliases.get(PREVIOUS)
        check_promotable(client, name, version, compared_with)
        _move(client, name, Move(old, version))
        return old


def check_promotable(client: MlflowClient, name: str, version: int, compared_with: int | Literal["any"] | None) -> None:
    """Check that a version may become champion. Raises the errors of :func:`promote`."""
    current_aliases, tags = settle(client, name)[0], find_version(client, name, version).tags
    old = current_aliases.get(CHAMPION)
    gates = tags.get(GATES)
    if gates != PASSED:
        raise ValueError(
            f"{name} version {version} cannot become champion: its gates are "
            f"{gates or 'not recorded'!r}, not {PASSED!r}. "
            "Its evaluation report says which gate refused it and why"
        )
    if compared_with not in ("any", old):
        was, now = (f"version {number}" if number else "no champion" for number in (compared_with, old))
        raise OutsideError(
            f"version {version} of {name} was compared with {was}, and now there is {now}: another run or a rollback has "
            "moved the champion since",
            f"`finetune run {name}` compares them",
        )
    _refuse_forgotten(name, version, tags)
    if ROLLED_BACK in tags:
        undo = f"delete its tag {ROLLED_BACK} in MLflow"
        if current_aliases.get(PREVIOUS) == version:
            undo = f"run `finetune rollback {name}` again"
        raise ValueError(
            f"{name} version {version} was taken out of service ({tags[ROLLED_BACK]}) and is not promoted again. "
            f"To undo that, {undo}"
        )


def rollback(tracking: Tracking, name: str, reason: str = "", serving: int | None = None) -> int:
    """Swap `champion` and `previous_champion`; return the new champion. serving: the version to take out of service, if known.

    The reason is stored, without secrets, as the tag `rolled_back` of the version that served until now, and as a tag of the
    registered model (`rollback.TIME`). A second rollback swaps them back. If it is killed, call it again: it swaps once.

    Raises ValueError if there is no previous champion, if it was trained on forgotten rows, or if another version serves by now.
    """
    with open_registry(tracking) as client:
        current_aliases, rolled_back = settle(client, name)
        if rolled_back:
            return current_aliases[CHAMPION]
        previous, old = current_aliases.get(PREVIOUS), current_aliases.get(CHAMPION)
        if serving not in (None, old):
            raise ValueError(f"version {serving} no longer serves")
        if previous is None or previous == old:
            raise ValueError(
                f"{name} has no champion before {f'version {old}' if old else 'the first'}: "
                "there is nothing to roll back to"
            )
        _refuse_forgotten(name, previous, find_version(client, name, previous).tags)
        now = timestamp()
        why = shortened(redact(" ".join(reason.split()))) or "no reason given"
        if old is not None:
            client.set_model_version_tag(name, str(old), ROLLED_BACK, f"{now}: {why}")
        _move(client, name, Move(old, previous, now, why))
        return previous


def timestamp() -> str:
    """Return the present time in UTC, RFC 3339."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _move(client: MlflowClient, name: str, move: Move) -> None:
    """Move `champion`. The new version serves as soon as the alias is set; settle does the rest, here or after a kill."""
    client.set_registered_model_tag(name, MOVE, msgspec.json.encode(move).decode())
    client.set_registered_model_alias(name, CHAMPION, str(move.to))
    settle(client, name)


def settle(client: MlflowClient, name: str) -> tuple[dict[str, int], bool]:
    """Complete the last move of `champion`, if it was killed. Returns (all aliases, whether a rollback was completed)."""
    model = registered(client, name)
    if model is None:
        return {}, False
    current_aliases, tag = _versions(model), model.tags.get(MOVE)
    move = decode_tag(name, MOVE, tag, Move) if tag else None
    rolled_back = False
    if move and current_aliases.get(CHAMPION) == move.to:
        if PROMOTED not in find_version(client, name, move.to).tags:
            client.set_model_version_tag(name, str(move.to), PROMOTED, timestamp())
        rolled_back = bool(move.rolled_back)
        if rolled_back:
            summary = f"version {move.old or 'none'} → {move.to}: {move.why}"
            client.set_registered_model_tag(name, f"rollback.{move.rolled_back}", summary)
        if move.old is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(move.old))
        elif current_aliases.get(PREVIOUS) == move.to:
            client.delete_registered_model_alias(name, PREVIOUS)
    serving = current_aliases.get(CHAMPION)
    # the serving version must not have the tag: a rollback was killed before its move, or a second one returned to it
    if serving is not None and ROLLED_BACK in find_version(client, name, serving).tags:
        client.delete_model_version_tag(name, str(serving), ROLLED_BACK)
    if move:
        client.delete_registered_model_tag(name, MOVE)
    return _versions(registered(client, name)), rolled_back


def block_forgotten(
    tracking: Tracking, name: str, splits: Collection[str], adapters: Collection[str] = ()
) -> list[int]:
    """Block the promotion of every version trained on one of these splits, which contain forgotten rows, or made from one of these
    adapters, which were trained on forgotten preferences.

    Returns the numbers of all such versions, also of those blocked earlier.
    """
    blocked = []
    with open_registry(tracking) as client:
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("dataset_version") in splits or version.tags.get("adapter_version") in adapters:
                client.set_model_version_tag(name, version.version, FORGOTTEN, FORGOTTEN_REASON)
                blocked.append(int(version.version))
    return sorted(blocked)


def remove_forgotten(tracking: Tracking, name: str, splits: Collection[str]) -> list[int]:
    """Remove the files of versions that contain forgotten rows, and take these versions out of service. Call it again if it was
    killed.

    splits: as for :func:`block_forgotten`. Returns the numbers of the versions removed by this call.
    """
    removed = []
    with open_registry(tracking) as client:
        current_aliases, _ = settle(client, name)
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("dataset_version") not in splits or version.tags.get(HOLDS_ROWS) != "true":
                continue
            for alias in (CHAMPION, PREVIOUS):  # nothing can serve it any more
                if current_aliases.get(alias) == int(version.version):
                    client.delete_registered_model_alias(name, alias)
            _delete_files(client.get_logged_model(version.tags[LOGGED_MODEL]).artifact_location)
            client.set_model_version_tag(name, version.version, HOLDS_ROWS, "removed")
            removed.append(int(version.version))
    return sorted(removed)


def _delete_files(location: str) -> None:
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    repository = get_artifact_repository(location)
    if any(file.path == SHIPPED_FILES for file in repository.list_artifacts("artifacts")):
        repository.delete_artifacts(SHIPPED_FILES)


def _refuse_forgotten(name: str, version: int, tags: Mapping[str, str]) -> None:
    if FORGOTTEN in tags:
        raise ValueError(
            f"{name} version {version} cannot become champion: it was {FORGOTTEN_REASON}. `finetune run {name}` trains a "
            "model without them"
        )


@contextlib.contextmanager
def open_registry(tracking: Tracking) -> Iterator[MlflowClient]:
    """Open the registry under its lock: only one process at a time moves aliases."""
    client = tracking.client()
    with mlflow_errors(tracking.uri()), locked(tracking.place(), "registry"):
        yield client


def find_version(client: MlflowClient, name: str, version: int) -> ModelVersion:
    """Return a version of a model. Raises ValueError if there is none."""
    with suppress_error("RESOURCE_DOES_NOT_EXIST"):
        return client.get_model_version(name, str(version))
    raise ValueError(f"there is no version {version} of model {name!r}")


def _versions(model: RegisteredModel | None) -> dict[str, int]:
    """Return the aliases of a model and their versions; empty if it was never registered."""
    return {alias: int(version) for alias, version in model.aliases.items()} if model else {}


def registered(client: MlflowClient, name: str) -> RegisteredModel | None:
    """Return a registered model; None if there is none of that name."""
    with suppress_error("RESOURCE_DOES_NOT_EXIST"):
        return client.get_registered_model(name)
    return None

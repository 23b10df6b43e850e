"""Registered models: versions, and the aliases that say which one serves.

The latest registered version is `candidate`; `champion` serves, and moves only to a version whose gates passed;
`previous_champion` is what a rollback returns to. Every rollback is told, with its reason, by the tags of the registered
model; the version it took out of service says so itself, and no release promotes it again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_pipeline.engine.store import digest_file, write_json
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.spec.methods import KINDS
from finetune_pipeline.tracking.mlflow_store import locked, reaching
from finetune_pipeline.tracking.secrets import redact, redact_field
from finetune_pipeline.tracking.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION, PREVIOUS = "candidate", "champion", "previous_champion"
ADAPTER_VERSION, LOGGED_MODEL = "finetune.adapter_version", "finetune.logged_model"
GATES, PASSED = "gates", "passed"
FORGOTTEN, FORGOTTEN_TOLD = "forgotten_rows", "trained on rows that have been forgotten since (finetune forget)"
ROLLED_BACK = "rolled_back"
"""Tag of a version that a rollback took out of service: when and why."""
_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_NEEDED_TO_SERVE = ("mlflow", "torch", "transformers", "peft", "safetensors")


def register(
    tracking: Tracking,
    name: str,
    *,
    kind: str,
    adapter: Path,
    merged: Path,
    base: Path,
    base_identity: Mapping[str, Any],
    adapter_version: str,
    system_prompt: str,
    max_new_tokens: int,
    run_id: str,
    tags: Mapping[str, Any],
) -> int:
    """Register what was trained as a version of model `name` and give it the alias `candidate`. Returns the version.

    kind: see :mod:`finetune_pipeline.spec.methods`. adapter: what training left; an adapter is copied, a fully trained
    model is not. merged, base: model folders (see :mod:`finetune_pipeline.worker.jobs`), never copied: the one that
    answers (`merged` for the kinds full and prompt, else `base`) is referred to by path and digests. base_identity: what
    the base was, for people. run_id: the MLflow run it belongs to. tags: of the version; gates="passed" lets it be promoted.
    The same adapter_version again returns the version it has already, with its tags brought up to date.
    """
    with _registry(tracking) as client:
        found = _version_of_adapter(client, name, adapter_version)
        if found is None:
            whole = KINDS[kind].stored_whole
            folder = model_folder(merged if whole else base)
            files = {p.name: digest_file(p) for p in sorted(folder.iterdir()) if _decides(p, whole)}
            told = {
                "kind": kind,
                "base_model": str(base_identity.get("base_model") or base_identity.get("name") or folder.name),
                "base_identity": dict(base_identity),
                "folder": str(folder.absolute()),
                "files": files,
                "adapter_version": adapter_version,
                "system_prompt": system_prompt,
                "max_new_tokens": max_new_tokens,
            }
            if not any(name.endswith(".safetensors") for name in files):
                raise ValueError(f"{folder} holds no safetensors file: the served model would have no weights")
            found = _create(
                client,
                name,
                adapter=None if kind == "full" else adapter,
                told=told,
                run_id=run_id,
                tags={**_texts(tags), ADAPTER_VERSION: adapter_version},
            )
        else:
            for key, value in _texts(tags).items():
                client.set_model_version_tag(name, str(found), key, value)
        client.set_registered_model_alias(name, CANDIDATE, str(found))
        return found


def store_card(tracking: Tracking, name: str, version: int, card: str, verdict: str) -> None:
    """Put the model card as README.md into the registered model's folder, and the verdict on its page.

    Repeated with another text, the later one stands. Raises ValueError if there is no such version.
    """
    with _registry(tracking) as client, tempfile.TemporaryDirectory(prefix="finetune-card-") as folder:
        told = _version(client, name, version)
        path = Path(folder) / "README.md"
        path.write_text(redact(card), "utf-8")
        client.log_model_artifact(told.tags[LOGGED_MODEL], str(path))
        client.update_model_version(name, str(version), description=redact_field("verdict", verdict))


def champion(tracking: Tracking, name: str) -> int | None:
    """The version that serves, or None (also when no model of that name was ever registered)."""
    return aliases(tracking, name).get(CHAMPION)


def aliases(tracking: Tracking, name: str) -> dict[str, int]:
    """All aliases of a model and the versions they name; empty when it was never registered."""
    with _registry(tracking) as client:
        return _aliases(client, name)


def version_tags(tracking: Tracking, name: str, version: int) -> dict[str, str]:
    """Tags of a version. Raises ValueError if there is no such version."""
    with _registry(tracking) as client:
        return dict(_version(client, name, version).tags)


def promote(tracking: Tracking, name: str, version: int) -> int | None:
    """Move `champion` to `version`; the old one becomes `previous_champion` and is returned (None: there was none).

    Raises ValueError unless the version exists and carries the tag gates="passed", or when a rollback took it out of
    service or it was trained on rows that were forgotten since. Promoting the champion again changes
    nothing and returns the same. Killed in between, `champion` still names the old version; a second call completes it.
    """
    with _registry(tracking) as client:
        tags = _version(client, name, version).tags
        gates = tags.get(GATES)
        if gates != PASSED:
            raise ValueError(
                f"{name} version {version} cannot become champion: its gates are "
                f"{gates or 'not recorded'!r}, not {PASSED!r}. "
                "Its evaluation report says which gate refused it and why"
            )
        known = _aliases(client, name)
        old = known.get(CHAMPION)
        if old != version:
            _refuse_forgotten(name, version, tags)
        if old != version and ROLLED_BACK in tags:
            raise ValueError(
                f"{name} version {version} was taken out of service ({tags[ROLLED_BACK]}) and is not promoted again. "
                f"If that was wrong: `finetune rollback {name}` once more"
            )
        if old == version:
            return known.get(PREVIOUS)
        if old is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(old))
        client.set_registered_model_alias(name, CHAMPION, str(version))
        return old


def rollback(tracking: Tracking, name: str, reason: str = "") -> int:
    """Exchange `champion` and `previous_champion`; returns the new champion.

    reason: for people; kept (secrets removed) as the tag `rolled_back` of the version that served until now, and, one tag
    a rollback (`rollback.TIME`), with the registered model. A second rollback returns to the version of before, and takes
    its mark away. Raises ValueError when there is no previous one, or it was
    trained on forgotten rows. Killed in between, either nothing has moved (call it again), or the new champion serves
    already.
    """
    with _registry(tracking) as client:
        known = _aliases(client, name)
        previous, old = known.get(PREVIOUS), known.get(CHAMPION)
        if previous is None or previous == old:
            raise ValueError(
                f"{name} has no champion before {f'version {old}' if old else 'the first'}: "
                "there is nothing to roll back to"
            )
        _refuse_forgotten(name, previous, _version(client, name, previous).tags)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        why = redact(" ".join(reason.split())) or "no reason given"
        if old is not None:
            client.set_model_version_tag(name, str(old), ROLLED_BACK, f"{now}: {why}")
        if ROLLED_BACK in _version(client, name, previous).tags:
            client.delete_model_version_tag(name, str(previous), ROLLED_BACK)
        client.set_registered_model_tag(name, f"rollback.{now}", f"version {old or 'none'} → {previous}: {why}")
        client.set_registered_model_alias(name, CHAMPION, str(previous))
        if old is not None:
            client.set_registered_model_alias(name, PREVIOUS, str(old))
        return previous


def block_forgotten(tracking: Tracking, name: str, splits: Collection[str]) -> list[int]:
    """Mark every version trained on one of these splits as not to be promoted: people's rows in them were forgotten.

    Returns the versions, also those marked before. May be repeated.
    """
    blocked = []
    with _registry(tracking) as client:
        for version in client.search_model_versions(f"name = '{name}'"):
            if version.tags.get("dataset_version") in splits:
                client.set_model_version_tag(name, version.version, FORGOTTEN, FORGOTTEN_TOLD)
                blocked.append(int(version.version))
    return sorted(blocked)


def _refuse_forgotten(name: str, version: int, tags: Mapping[str, str]) -> None:
    if FORGOTTEN in tags:
        raise ValueError(
            f"{name} version {version} cannot become champion: it was {FORGOTTEN_TOLD}. `finetune run {name}` trains a "
            "model without them"
        )


@contextlib.contextmanager
def _registry(tracking: Tracking) -> Iterator[MlflowClient]:
    """The registry, with its moves made one at a time."""
    client = tracking.client()
    with reaching(tracking.uri()), locked(tracking.place(), "registry"):
        yield client


def _create(
    client: MlflowClient,
    name: str,
    *,
    adapter: Path | None,
    told: Mapping[str, Any],
    run_id: str,
    tags: Mapping[str, str],
) -> int:
    """Log the served model and make it a version. Through the client: MLflow's log_model would set global state."""
    from mlflow.entities import LoggedModelOutput
    from mlflow.exceptions import MlflowException
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema

    if adapter is not None and not (adapter / "adapter_config.json").is_file():
        raise FileNotFoundError(f"{adapter} is no adapter: it holds no adapter_config.json")
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(
        experiment,
        name=name,
        source_run_id=run_id,
        tags=dict(tags),
        params={
            "adapter_version": told["adapter_version"],
            "base_model": redact(told["base_model"]),
            "kind": told["kind"],
        },
    )
    with tempfile.TemporaryDirectory(prefix="finetune-model-") as folder:
        told_file, saved = Path(folder) / "model.json", Path(folder) / "saved"
        write_json(told_file, dict(told))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*An input example was not provided")  # the signature is
            save_model(
                str(saved),
                python_model=str(_SERVED_MODEL),
                artifacts={"model": str(told_file)} | ({"adapter": str(adapter)} if adapter is not None else {}),
                signature=ModelSignature(Schema([ColSpec("string", "text")]), Schema([ColSpec("string")])),
                pip_requirements=_requirements(),
                mlflow_model=Model(
                    model_id=logged.model_id,
                    model_uuid=logged.model_id,
                    run_id=run_id,
                    artifact_path=logged.artifact_location,
                ),
            )
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=0)])
    # the place itself as source: MLflow resolves "models:/…" sources with its global tracking address
    made = client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        tags={**tags, LOGGED_MODEL: logged.model_id},
    )
    return int(made.version)


def _decides(path: Path, whole: bool) -> bool:
    """Whether a served model's answers depend on this file. An export writes the two configurations anew, so that a model
    served from there has others."""
    if not path.is_file():
        return False
    return path.suffix == ".safetensors" or (whole and path.name not in ("config.json", "generation_config.json"))


def _requirements() -> list[str]:
    """What serving needs, as installed here. Named outright: MLflow would import everything to find out."""
    return [f"{n}=={importlib.metadata.version(n).partition('+')[0]}" for n in _NEEDED_TO_SERVE]


def _texts(tags: Mapping[str, Any]) -> dict[str, str]:
    return {key: redact_field(key, value) for key, value in tags.items()}


def _version_of_adapter(client: MlflowClient, name: str, adapter_version: str) -> int | None:
    wanted = f"name = '{name}' and tags.`{ADAPTER_VERSION}` = '{adapter_version}'"
    found = [int(v.version) for v in client.search_model_versions(wanted)]
    return min(found) if found else None


def _version(client: MlflowClient, name: str, version: int) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, str(version))
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise ValueError(f"there is no version {version} of model {name!r}") from None


def _aliases(client: MlflowClient, name: str) -> dict[str, int]:
    from mlflow.exceptions import MlflowException

    try:
        return {alias: int(v) for alias, v in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}

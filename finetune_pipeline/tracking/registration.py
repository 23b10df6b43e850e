"""Registers a model as a version in MLflow: the served model, its tags and its model card."""

from __future__ import annotations

import importlib.metadata
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_pipeline.engine.files import digest_file, read_json, write_json
from finetune_pipeline.evaluation.simple_models.fitted import SAVED
from finetune_pipeline.evaluation.simple_models.skops_files import TRUSTED
from finetune_pipeline.models.hosted import read_hosted
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.model_files import TEXTS
from finetune_pipeline.production.released import ReleaseRequest
from finetune_pipeline.settings import read_settings
from finetune_pipeline.spec.methods import KINDS
from finetune_pipeline.tracking.mlflow_store import redact, redact_field, suppress_error
from finetune_pipeline.tracking.registry import (
    ADAPTER_VERSION,
    CANDIDATE,
    EVALUATION,
    FILES,
    LOGGED_MODEL,
    SHIPPED_FILES,
    WINNER_KIND,
    WINNER_NAME,
    find_trained,
    find_version,
    open_registry,
    settle,
    was_promoted,
)
from finetune_pipeline.tracking.tracking import Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

_SERVED_MODEL = Path(__file__).with_name("served_model.py")
_HOSTED_MODEL = Path(__file__).with_name("hosted_model.py")
_SIMPLE_MODEL = Path(__file__).with_name("simple_model.py")
_PACKAGES_TO_SERVE = ("finetune-pipeline", "mlflow", "torch", "transformers")
_PACKAGES_TO_ASK = ("mlflow", "openai")
_PACKAGES_OF_SIMPLE = ("finetune-pipeline", "mlflow", "scikit-learn", "skops")
_SERVING_KEYS = (
    "name", "kind", "adapter_version", "system_prompt", "max_new_tokens", "precision", "json_schema", "constrained_decoding",
)  # fmt: skip
"""Parts of a request that the served model needs."""


def register(tracking: Tracking, request: ReleaseRequest, *, run_id: str, tags: Mapping[str, object]) -> int:
    """Register a trained model as a version and give it the alias `candidate`. Returns the version.

    Registering an adapter_version again returns its existing version, with updated tags and texts. A version that was promoted
    is no candidate any more: another evaluation of it changes nothing.

    The adapter is copied. The model folder to serve (`merged`, for the kind prefix `base`) is not, but referred to by path and
    digests; of a hosted model only the endpoint is stored. The card becomes README.md in the model's folder;
    the verdict is shown on the version's page, the purpose on the model's.

    Args:
        run_id: MLflow run of the release, which the version names as its source.
        tags: Tags of the version; gates="passed" allows promotion.
    """
    name = request.name
    with open_registry(tracking) as client:
        current_aliases, _ = settle(client, name)
        adapter_version = request.adapter_version
        same_run = find_trained(client, name, adapter_version)
        promoted = (v for v in same_run if was_promoted(v.tags, int(v.version), current_aliases))
        known = next(promoted, None) or next((v for v in same_run if _is_same(v.tags, tags)), None)
        version = int(known.version) if known else None
        other_evaluation = known is not None and known.tags.get(EVALUATION) != tags.get(EVALUATION)
        if known and other_evaluation and was_promoted(known.tags, int(known.version), current_aliases):
            return int(known.version)
        if version is None:
            files = _files_to_serve(request)
            version = _create(client, name, files, run_id, {**_redacted_tags(tags), ADAPTER_VERSION: adapter_version})
        else:
            for key, value in _redacted_tags(tags).items():
                client.set_model_version_tag(name, str(version), key, value)
        with tempfile.TemporaryDirectory(prefix="finetune-card-") as folder:
            readme = Path(folder) / "README.md"
            readme.write_text(redact(request.card), "utf-8")
            client.log_model_artifact(find_version(client, name, version).tags[LOGGED_MODEL], str(readme))
        client.update_model_version(name, str(version), description=redact_field("verdict", request.verdict))
        client.update_registered_model(name, description=redact_field("about", request.about))
        client.set_registered_model_alias(name, CANDIDATE, str(version))
        return version


@dataclass(frozen=True)
class _FilesToServe:
    """What MLflow stores of a model. code: the model code; description: its model.json; folders: copied, by name; sklearn: the
    settings of its scikit-learn flavour."""

    code: Path
    packages: tuple[str, ...]
    description: Mapping[str, Any]
    folders: Mapping[str, Path] = field(default_factory=dict)
    sklearn: Mapping[str, Any] = field(default_factory=dict)


def _files_to_serve(request: ReleaseRequest) -> _FilesToServe:
    merged, kind = Path(request.merged), request.kind
    described = {**{key: getattr(request, key) for key in _SERVING_KEYS}, WINNER_KIND: request.winner_kind or "tuned"}
    if described[WINNER_KIND] == "simple":
        needed = read_json(Path(str(request.shipped), SAVED))["versions"]
        packages = (*_PACKAGES_OF_SIMPLE, *(name for name in needed if name not in _PACKAGES_OF_SIMPLE))
        described |= {"base_model": "none", "files": request.files}
        folders = {"shipped": Path(str(request.shipped))}
        return _FilesToServe(_SIMPLE_MODEL, packages, described, folders, _sklearn_flavour(request.files))
    if described[WINNER_KIND] == "prompt":
        described |= _weights(Path(request.base), request)
        return _FilesToServe(_SERVED_MODEL, _PACKAGES_TO_SERVE, described, {"shipped": Path(str(request.shipped))})
    if hosted := read_hosted(merged):
        described |= {"base_model": hosted.base_model, "endpoint": hosted.to_json()}
        return _FilesToServe(_HOSTED_MODEL, _PACKAGES_TO_ASK, described)
    described |= _weights(merged if KINDS[kind].plain else Path(request.base), request)
    folders = {} if kind == "full" else {"adapter": Path(request.adapter)}
    return _FilesToServe(_SERVED_MODEL, _PACKAGES_TO_SERVE, described, folders)


def _sklearn_flavour(files: Mapping[str, str]) -> dict[str, object]:
    """Return the settings with which `mlflow.sklearn.load_model` loads a simple model; empty if it is no single pipeline."""
    if [name for name in files if name.endswith((".skops", ".crfsuite"))] != ["model.skops"]:
        return {}
    return {
        "pickled_model": f"{SHIPPED_FILES}/model.skops",  # MLflow's name of the file, which is no pickle
        "serialization_format": "skops",
        "skops_trusted_types": list(TRUSTED),
        "sklearn_version": importlib.metadata.version("scikit-learn"),
        "code": None,
    }


def _weights(model: Path, request: ReleaseRequest) -> dict[str, object]:
    """Return the folder to serve, with digests of its files, for a model with local weights."""
    identity, home = request.base_identity, read_settings().home
    folder = model_folder(model)
    files = {path.name: digest_file(path) for path in sorted(folder.iterdir()) if _affects_answers(path)}
    if not any(name.endswith(".safetensors") for name in files):
        raise ValueError(f"{folder} contains no safetensors file: the served model would have no weights")
    return {
        "base_model": str(identity.get("base_model") or identity.get("name") or folder.name),
        "base_identity": dict(identity),
        "home": str(home),
        "folder": os.path.relpath(folder, home),
        "files": files,
    }


def _create(client: MlflowClient, name: str, to_serve: _FilesToServe, run_id: str, tags: Mapping[str, str]) -> int:
    """Log the served model and make it a version. Returns its number.

    Uses the client, since MLflow's log_model would set global state.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model, ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types import ColSpec, Schema

    with suppress_error("RESOURCE_ALREADY_EXISTS"):
        client.create_registered_model(name)
    run, description = client.get_run(run_id), to_serve.description
    condition = f"name = '{name}' AND tags.`{ADAPTER_VERSION}` = '{tags[ADAPTER_VERSION]}'"
    for unregistered in client.search_logged_models([run.info.experiment_id], condition):
        client.delete_logged_model(unregistered.model_id)  # left by a killed process
    logged = client.create_logged_model(
        run.info.experiment_id,
        name=name,
        source_run_id=run_id,
        tags=dict(tags),
        params={
            "adapter_version": description["adapter_version"],
            "base_model": redact(description["base_model"]),
            "kind": description["kind"] if description[WINNER_KIND] == "tuned" else description[WINNER_KIND],
        },
    )
    model = Model(
        model_id=logged.model_id,
        model_uuid=logged.model_id,
        run_id=run_id,
        artifact_path=logged.artifact_location,
    )
    if to_serve.sklearn:
        model.add_flavor("sklearn", **to_serve.sklearn)
    with tempfile.TemporaryDirectory(prefix="finetune-model-") as folder:
        description_file, saved = Path(folder) / "model.json", Path(folder) / "saved"
        write_json(description_file, dict(description))
        files: dict[str, Path] = {"model": description_file, **to_serve.folders}
        with warnings.catch_warnings():
            # an example would only serve to infer the signature, which is given
            warnings.filterwarnings("ignore", message=".*An input example was not provided")
            save_model(
                str(saved),
                python_model=str(to_serve.code),
                # as addresses: in a path, MLflow would take ? and %XX for parts of an address
                artifacts={part: path.absolute().as_uri() for part, path in files.items()},
                signature=ModelSignature(Schema([ColSpec("string", "text")]), Schema([ColSpec("string")])),
                # to infer them, MLflow would load the model
                pip_requirements=[
                    f"{package}=={importlib.metadata.version(package).partition('+')[0]}"
                    for package in to_serve.packages
                ],
                mlflow_model=model,
            )
        client.log_model_artifacts(logged.model_id, str(saved))
    client.finalize_logged_model(logged.model_id, "READY")
    for tracked_run in filter(None, (run_id, run.data.tags.get("mlflow.parentRunId"))):
        client.log_outputs(tracked_run, [LoggedModelOutput(logged.model_id, step=0)])
    # the source is a path, since MLflow resolves "models:/…" with its global tracking address, which may be another
    model_version = client.create_model_version(
        name,
        source=logged.artifact_location,
        run_id=run_id,
        model_id=logged.model_id,
        tags={**tags, LOGGED_MODEL: logged.model_id},
    )
    return int(model_version.version)


def _affects_answers(path: Path) -> bool:
    """Whether a served model's answers depend on this file.

    The two configurations do not count, since an export, from which the model may be served, rewrites them.
    """
    configurations = ("config.json", "generation_config.json")
    return path.is_file() and path.suffix in (*TEXTS, ".safetensors") and path.name not in configurations


def _is_same(known: Mapping[str, str], tags: Mapping[str, object]) -> bool:
    """Whether two evaluations of a run, by their tags, ship the same model."""
    first, second = ((each.get(WINNER_KIND, "tuned"), each.get(WINNER_NAME), each.get(FILES)) for each in (known, tags))
    return first == second


def _redacted_tags(tags: Mapping[str, object]) -> dict[str, str]:
    return {key: redact_field(key, value) for key, value in tags.items()}

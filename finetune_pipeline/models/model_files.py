"""Reads the JSON files of a model folder, which anybody may have written, and refuses values of unexpected types."""

from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from finetune_pipeline.engine.files import DamagedFile, read_json
from finetune_pipeline.findings import Finding, FindingsError

T = TypeVar("T")
Size = Annotated[int, msgspec.Meta(ge=1)]


class _TextConfig(msgspec.Struct):
    """The keys of config.json that this package reads. A family may lack some; planning.preflight names those it needs."""

    model_type: str | None = None
    hidden_size: Size | None = None
    num_attention_heads: Size | None = None
    num_hidden_layers: Size | None = None
    vocab_size: Size | None = None
    intermediate_size: Size | list[Size] | None = None  # a list: one for each layer
    num_key_value_heads: Size | None = None
    head_dim: Size | None = None
    sliding_window: int | None = None
    layer_types: list[str] | None = None


class _Config(_TextConfig):
    text_config: _TextConfig | None = None


def read_config(folder: Path) -> dict[str, Any]:
    """Return a model's config.json; empty without the file. Raises FindingsError like :func:`read_typed`."""
    read_typed(folder / "config.json", _Config)
    return read_typed(folder / "config.json", dict[str, Any])


def read_typed(path: Path, form: type[T]) -> T:
    """Return the JSON in a file of a model folder as a struct or dict; an empty one without the file.
    Raises FindingsError, naming the file, if it is not JSON or has a value of another type."""
    try:
        return msgspec.convert(read_json(path) if path.is_file() else {}, form)
    except msgspec.ValidationError as error:
        raise wrong_file(path, f"has unusable content: {error}") from error
    except DamagedFile as error:
        raise wrong_file(path, f"is not JSON ({error.__cause__})") from error


def read_text(path: Path) -> str:
    """Return a text file of a model folder. Raises FindingsError if it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise wrong_file(path, f"is not UTF-8 text ({error})") from error


def wrong_file(path: Path, problem: str) -> FindingsError:
    message = f"{path.name} of {path.parent.name!r} {problem}"
    fix = f"correct {path}, or fetch the model again"
    return FindingsError([Finding("model.file", "error", "task.yaml: base_model", message, fix)])

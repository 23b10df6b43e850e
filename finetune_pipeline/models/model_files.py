"""Reads the files of a model folder, which anybody may have written: JSON of the expected types, and headers of weights."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec

from finetune_pipeline.engine.files import DamagedFile, read_json
from finetune_pipeline.findings import Finding, FindingsError

MODEL_FILE = "model.json"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
ADAPTER_CLASSES = "classes.json"
"""File beside a classifier's adapter with the labels of its head, which PEFT's files lack."""
TEXTS = (".json", ".jinja", ".model", ".txt")
"""Files of a model folder that hold configuration, tokenizer or template."""
EMBEDDINGS = ("embed_tokens.weight", "embed_in.weight", "word_embeddings.weight", "tok_embeddings.weight")
"""Suffixes of the input embeddings' tensor names in transformers."""
HEADS = ("lm_head.weight", "embed_out.weight")
"""Suffixes of the output head's tensor names; if the files have none of them, the head is tied to the embeddings."""
CLASSIFIER = "ForSequenceClassification"
"""End of the names of transformers' classes of classifiers."""
FLOATS = {"F64", "F32", "F16", "BF16"}
"""Dtypes of weights that are not quantized."""
_LFS_POINTER = b"version "
"""First bytes of a Git LFS pointer file."""
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


def classes_of(folder: Path) -> list[str]:
    """Return the labels of a classifier's folder, in the order of its outputs; empty for any other model.
    Raises FindingsError like :func:`read_typed`."""
    architectures = read_config(folder).get("architectures") or []
    if not any(str(name).endswith(CLASSIFIER) for name in architectures):
        return []
    numbers = read_typed(folder / "config.json", _Classes).label2id
    return sorted(numbers, key=lambda label: numbers[label])


class _Classes(msgspec.Struct):
    label2id: dict[str, int] = {}


def text_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config.json about the text model, which models of several parts keep in ``text_config``."""
    return config.get("text_config") or config


def read_typed(path: Path, form: type[T]) -> T:
    """Return the JSON in a file of a model folder as a struct or dict; an empty one without the file.
    Raises FindingsError, naming the file, if it is not JSON or has a value of another type."""
    try:
        return msgspec.convert(read_json(path) if path.is_file() else {}, form)
    except msgspec.ValidationError as error:
        raise _unusable_file(path, f"has unusable content: {error}") from error
    except DamagedFile as error:
        raise _unusable_file(path, f"is not JSON ({error.__cause__})") from error


def read_text(path: Path) -> str:
    """Return a text file of a model folder. Raises FindingsError if it is not UTF-8."""
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise _unusable_file(path, f"is not UTF-8 text ({error})") from error


def _unusable_file(path: Path, problem: str) -> FindingsError:
    fix = f"correct {path}, or fetch the model again"
    return base_error(f"{path.name} of {path.parent.name!r} {problem}", fix, "file")


def base_error(message: str, fix: str, rule: str = "base_model") -> FindingsError:
    """Return the error for a task's base model that cannot be used."""
    return FindingsError([Finding(f"model.{rule}", "error", "task.yaml: base_model", message, fix)])


def text_files(folder: Path) -> list[Path]:
    """Return a model folder's configuration, tokenizer and template files, sorted; without an artifact's record."""
    return [p for p in sorted(folder.iterdir()) if p.suffix in TEXTS and p.is_file() and p.name != MODEL_FILE]


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files that transformers loads, sorted: model.safetensors, else those that the index names.

    A folder may also contain the same weights in another layout. If it has no config.json (an adapter's), all files count.
    Raises FindingsError if there are none, if one is missing, or if the index is invalid or names files elsewhere.
    """
    files = sorted(folder.glob("*.safetensors"))
    if (folder / ADAPTER_CONFIG).exists() and (folder / "config.json").exists():
        message = f"the folder {folder.name!r} contains a model and an adapter: libraries would load the two together"
        raise base_error(message, f"merge the adapter into the model, or move {ADAPTER_CONFIG} away", "adapter")
    if not files:
        unsupported = sorted(p.name for p in folder.glob("*.bin")) + sorted(p.name for p in folder.glob("*.gguf"))
        contents = f" (it contains {', '.join(unsupported)}, which are not supported)" if unsupported else ""
        message = f"the folder {folder.name!r} contains no safetensors weights{contents}"
        raise base_error(message, "save the model with `save_pretrained`, which writes safetensors", "weights")
    if (single := folder / "model.safetensors") in files:
        return [single]
    if (folder / INDEX).exists():
        return _files_in_index(folder)
    if not (folder / "config.json").exists():
        return files
    message = f"the folder {folder.name!r} contains {files[0].name}, but neither model.safetensors nor {INDEX}"
    raise base_error(message, "fetch the model again, all its files", "weights")


def _files_in_index(folder: Path) -> list[Path]:
    place, fix = f"{INDEX} of {folder.name!r}", "fetch the model again"
    try:
        names = sorted(set(read_json(folder / INDEX)["weight_map"].values()))
    except (KeyError, TypeError, AttributeError) as error:
        raise base_error(f"{place} does not say which file holds which tensor", fix, "index") from error
    if outside := [n for n in names if Path(str(n)).name != n or not n.endswith(".safetensors")]:
        message = f"{place} names {outside[0]!r}, which is not a file of this folder"
        raise base_error(message, "do not use this model", "index")
    if missing := [n for n in names if not (folder / n).is_file()]:
        raise base_error(f"{place} names {', '.join(missing)}, which is missing", fix, "index")
    return [folder / n for n in names]


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor of a safetensors file. dtype: its name there, such as BF16; size: in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size: int


def tensor_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Read only the header of a safetensors file: (its tensors by name, its metadata).
    Raises DamagedFile if the file is missing, truncated, damaged or not a safetensors file."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise DamagedFile(f"{file} is missing, or is not a file", "fetch it again")
    with file.open("rb") as handle:
        if (first_bytes := handle.read(8)).startswith(_LFS_POINTER):
            raise DamagedFile(f"{file} is a Git LFS pointer, not the weights", "run `git lfs pull` in its folder")
        try:
            safe_open(file, framework="np")  # checks all of the header, and the file's length
        except SafetensorError as error:
            problem = f"{file} ({file.stat().st_size:,} bytes) is truncated, damaged or not a safetensors file: {error}"
            raise DamagedFile(problem, "fetch it again") from error
        header_length = int.from_bytes(first_bytes, "little")
        header = json.loads(handle.read(header_length))
    metadata = header.pop("__metadata__", None) or {}
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = StoredTensor(entry["dtype"], tuple(entry["shape"]), end - begin)
    return tensors, metadata


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return every tensor in a folder's weight files, by name. Reads headers only."""
    return {name: tensor for file in weight_files(folder) for name, tensor in tensor_header(file)[0].items()}


def quantization(config: Mapping[str, object], folder: Path | None = None) -> str | None:
    """Return how a model's weights are quantized, from its config.json or the dtypes in its folder; None if they are not.
    They cannot be used: loading ignores their scales. Only tensors named ``….weight`` count; others may be integers."""
    if declared := config.get("quantization_config"):
        settings = declared if isinstance(declared, Mapping) else {}
        return str(settings.get("quant_method", "some way"))
    tensors = stored_tensors(folder).items() if folder else ()
    return ", ".join(sorted({t.dtype for name, t in tensors if name.endswith(".weight")} - FLOATS)) or None

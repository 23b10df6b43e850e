"""Writes and reads fitted scikit-learn models with skops, which loads no code. Equal models give equal bytes."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

TRUSTED = ("scipy.sparse._csr.csr_matrix",)
"""Types in our pipelines that skops does not trust by default: a matrix of numbers."""
_SCHEMA = "schema.json"
_TIME = (1980, 1, 1, 0, 0, 0)


def write_skops(path: Path, model: Any) -> None:
    """Write a fitted model. skops names parts by their place in memory and files by the time: here they are numbered."""
    import skops.io

    numbers: dict[int, int] = {}
    with zipfile.ZipFile(io.BytesIO(skops.io.dumps(model))) as written, zipfile.ZipFile(path, "w") as archive:
        names = {name: name for name in written.namelist()}

        def number(part: int, file: str | None) -> int:
            numbers.setdefault(part, len(numbers))
            if file in names:
                names[file] = f"{numbers[part]}{Path(file).suffix}"
            return numbers[part]

        schema = json.loads(written.read(_SCHEMA))
        _number_parts(schema, number)
        _name_files(schema, names)
        for name in sorted(names, key=lambda name: names[name]):
            content = json.dumps(schema).encode() if name == _SCHEMA else written.read(name)
            archive.writestr(zipfile.ZipInfo(names[name], _TIME), content)


def read_skops(path: Path) -> Any:
    """Read a model. Raises skops' UntrustedTypesFoundException if the file holds other types than ours."""
    import skops.io

    return skops.io.load(path, trusted=list(TRUSTED))


def _is_part(value: Any) -> bool:
    """Whether a JSON object describes a part of the model, and is no dictionary in it."""
    return isinstance(value, dict) and "__loader__" in value and isinstance(value.get("__id__"), int)


def _number_parts(value: Any, number: Callable[[int, str | None], int]) -> None:
    if _is_part(value):
        value["__id__"] = number(value["__id__"], value.get("file"))
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _number_parts(child, number)


def _name_files(value: Any, names: dict[str, str]) -> None:
    if _is_part(value) and value.get("file") in names:
        value["file"] = names[value["file"]]
    for child in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _name_files(child, names)

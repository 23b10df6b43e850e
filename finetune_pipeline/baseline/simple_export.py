"""Exports a simple model as a folder: scikit-learn pipelines, a prediction script, a model card and a manifest."""

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.evaluation.simple_models import (
    SimpleModel,
    fitted,
    skops_files,
    slot_filler,
    span_tagger,
    static_encoder,
    text_encoder,
)
from finetune_pipeline.evaluation.simple_models.fitted import SLOTS, TAGGED

MANIFEST = "simple_model.json"
_PACKAGE = fitted.__name__.rpartition(".")[0]
_EXAMPLE = '''"""Answer texts with the simple model of this folder: one text per line on standard input, one answer per line out.

Needs the packages under "versions" in simple_model.json. Nothing in this folder is a pickle: skops loads no code.
"""

import sys
from pathlib import Path

from fitted import Fitted

FOLDER = Path(__file__).resolve().parent
MODEL = Fitted.load(FOLDER)
if MODEL.encodings:
    from text_encoder import beside

    MODEL.encoders = beside(FOLDER, MODEL.encodings)


def answer(texts):
    """The answers to a list of texts."""
    return MODEL.predict(texts)


if __name__ == "__main__":
    for line in answer([line.rstrip("\\n") for line in sys.stdin]):
        print(line)
'''


@dataclass(frozen=True)
class SimpleSource:
    """Facts about a simple model for its card.

    Attributes:
        dataset_version: Version of the splits whose training rows it was fitted on.
        scores: {validation or test: {n, accuracy, interval, primary {name, value, interval}}}, if scored.
        compared: The evaluation's comparison with the fine-tuned model; empty if there is none.
    """

    task: str
    description: str
    dataset_version: str
    rows: int
    scores: Mapping[str, Mapping[str, Any]]
    compared: str = ""


def export_simple(model: SimpleModel, source: SimpleSource, out: Path) -> dict[str, Any]:
    """Write the model into the empty folder `out`. Returns the manifest, which is also written."""
    manifest: dict[str, Any] = {
        "format": 2,
        **model.save(out),
        "trusted": list(skops_files.TRUSTED),
        "task": source.task,
        "description": source.description,
        "dataset_version": source.dataset_version,
        "training_rows": source.rows,
        "scores": {where: dict(scores) for where, scores in source.scores.items()},
    }
    modules = [fitted, skops_files]
    modules += [span_tagger] if TAGGED in model.pipelines else []
    modules += [slot_filler] if SLOTS in model.pipelines else []
    modules += [static_encoder, text_encoder] if model.encodings else []
    for module in modules:
        (out / f"{module.__name__.rpartition('.')[2]}.py").write_text(_standalone(module), "utf-8")
    (out / "predict.py").write_text(_EXAMPLE, "utf-8")
    (out / "README.md").write_text(_card(manifest, source), "utf-8")
    manifest["files"] = {
        path.name: {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
        for path in sorted(out.iterdir())
    }
    (out / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return manifest


def _standalone(module: ModuleType) -> str:
    """Return a module's source, with the modules it imports from its package beside it."""
    return inspect.getsource(module).replace(f"from {_PACKAGE}.", "from ")


def _card(manifest: Mapping[str, Any], source: SimpleSource) -> str:
    lines = [
        f"# {manifest['task']}: {manifest['title']}",
        "",
        " ".join(source.description.split()),
        "",
        f"A model fitted on {source.rows:,} training rows (data version `{source.dataset_version}`). {_what_it_needs(manifest)}",
        *_how_fields(manifest["fields"]),
        "",
        "```sh",
        "pip install " + " ".join(f'"{name}=={version}"' for name, version in manifest["versions"].items()),
        "echo 'a text to answer' | python predict.py",
        "```",
        "",
        "From Python: `from predict import answer; answer([text])`. The text is all user turns of a request, joined by newlines.",
        "",
        *_score_table(source.scores),
        source.compared,
        "",
        "It knows only the words of its training rows, and it answers every text, even one unlike all of them.",
    ]
    return "\n".join(lines) + "\n"


def _what_it_needs(manifest: Mapping[str, Any]) -> str:
    needs = {encoding["source"]: encoding["encoder"] for encoding in manifest["encodings"].values()}
    if not needs:
        return "It holds no language model, runs on any CPU and answers in about a millisecond."
    return " ".join(
        f"It reads vectors of {encoder['name']}, which is not in this folder: put that model, in the transformers format, into "
        f"the folder `{source}` here, or let {source.upper()}_FOLDER name its folder. Its digest is checked."
        for source, encoder in needs.items()
    )


def _how_fields(fields: Mapping[str, Sequence[Sequence[str]]]) -> list[str]:
    """Say of a JSON answer which fields are made how; a later part counts for a field that several make."""
    made_by = {tuple(path): part for part, paths in fields.items() for path in paths}
    how = {"tagged": "found in the text", "closed": "classified", "open": "copied from the training row most like it"}
    names = {part: [".".join(path) or "the whole" for path, by in made_by.items() if by == part] for part in how}
    return (
        ["", *(f"- {how[part]}: {', '.join(of_part)}" for part, of_part in names.items() if of_part)] if fields else []
    )


def _score_table(scores: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    if not scores:
        return []
    rows = []
    for where, row_scores in scores.items():
        primary = row_scores["primary"]
        score = score_text(primary["name"], primary["value"], primary["interval"])
        rows.append(f"| {where} | {row_scores['n']} | {metric_title(primary['name'])} | {score} |")
    return ["| rows | n | metric | score (interval) |", "|---|---:|---|---:|", *rows, ""]

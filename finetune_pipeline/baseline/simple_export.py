"""Exports a simple model as a folder: scikit-learn pipelines, a prediction script, a model card and a manifest."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from msgspec.structs import asdict, replace

from finetune_pipeline.engine.files import write_json
from finetune_pipeline.evaluation.metrics import metric_title, score_text
from finetune_pipeline.evaluation.rivals import BaselineScores
from finetune_pipeline.evaluation.simple_models import (
    SimpleModel,
    fitted,
    skops_files,
    slot_filler,
    span_tagger,
    static_encoder,
    text_encoder,
)
from finetune_pipeline.evaluation.simple_models.base import SavedModel
from finetune_pipeline.evaluation.simple_models.fitted import SLOTS, TAGGED, Keys
from finetune_pipeline.models.manifest import ExportedFile

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
        scores: On validation or on the sealed test, if scored.
        compared: The evaluation's comparison with the fine-tuned model; empty if there is none.
    """

    task: str
    description: str
    dataset_version: str
    rows: int
    scores: Mapping[str, BaselineScores]
    compared: str = ""


class SimpleManifest(SavedModel, frozen=True, kw_only=True, omit_defaults=False):
    """The manifest of an exported simple model. trusted: types that skops may load; training_rows: their number."""

    format: int = 2
    trusted: list[str]
    task: str
    description: str
    dataset_version: str
    training_rows: int
    scores: dict[str, BaselineScores]
    files: dict[str, ExportedFile]


def export_simple(model: SimpleModel, source: SimpleSource, out: Path) -> SimpleManifest:
    """Write the model into the empty folder `out`. Returns the manifest, which is also written."""
    manifest = SimpleManifest(
        **asdict(model.save(out)),
        trusted=list(skops_files.TRUSTED),
        task=source.task,
        description=source.description,
        dataset_version=source.dataset_version,
        training_rows=source.rows,
        scores=dict(source.scores),
        files={},
    )
    modules = [fitted, skops_files]
    modules += [span_tagger] if TAGGED in model.pipelines else []
    modules += [slot_filler] if SLOTS in model.pipelines else []
    modules += [static_encoder, text_encoder] if model.encodings else []
    for module in modules:
        (out / f"{module.__name__.rpartition('.')[2]}.py").write_text(_standalone(module), "utf-8")
    (out / "predict.py").write_text(_EXAMPLE, "utf-8")
    (out / "README.md").write_text(_card(manifest, source), "utf-8")
    manifest = replace(manifest, files=ExportedFile.of_folder(out))
    write_json(out / MANIFEST, manifest.to_json())
    return manifest


def _standalone(module: ModuleType) -> str:
    """Return a module's source, with the modules it imports from its package beside it."""
    return inspect.getsource(module).replace(f"from {_PACKAGE}.", "from ")


def _card(manifest: SimpleManifest, source: SimpleSource) -> str:
    lines = [
        f"# {manifest.task}: {manifest.title}",
        "",
        " ".join(source.description.split()),
        "",
        f"A model fitted on {source.rows:,} training rows (data version `{source.dataset_version}`). {_what_it_needs(manifest)}",
        *_how_fields(manifest.fields),
        "",
        "```sh",
        "pip install " + " ".join(f'"{name}=={version}"' for name, version in manifest.versions.items()),
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


def _what_it_needs(manifest: SavedModel) -> str:
    needs = {encoding.source: encoding.encoder for encoding in manifest.encodings.values()}
    if not needs:
        return "It holds no language model, runs on any CPU and answers in about a millisecond."
    return " ".join(
        f"It reads vectors of {encoder['name']}, which is not in this folder: put that model, in the transformers format, into "
        f"the folder `{source}` here, or let {source.upper()}_FOLDER name its folder. Its digest is checked."
        for source, encoder in needs.items()
    )


def _how_fields(fields: Mapping[str, Sequence[Keys]]) -> list[str]:
    """Say of a JSON answer which fields are made how; a later part counts for a field that several make."""
    made_by = {path: part for part, paths in fields.items() for path in paths}
    how = {"tagged": "found in the text", "closed": "classified", "open": "copied from the training row most like it"}
    names = {part: [".".join(path) or "the whole" for path, by in made_by.items() if by == part] for part in how}
    return (
        ["", *(f"- {how[part]}: {', '.join(of_part)}" for part, of_part in names.items() if of_part)] if fields else []
    )


def _score_table(scores: Mapping[str, BaselineScores]) -> Sequence[str]:
    if not scores:
        return []
    rows = []
    for where, of_rows in scores.items():
        name = of_rows.primary.name
        score = score_text(name, of_rows.primary.value, of_rows.primary.interval)
        rows.append(f"| {where} | {of_rows.n} | {metric_title(name)} | {score} |")
    return ["| rows | n | metric | score (interval) |", "|---|---:|---|---:|", *rows, ""]

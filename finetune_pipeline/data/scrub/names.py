"""Names of people and postal addresses, with a recogniser model that the user has installed (spaCy)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

from finetune_pipeline.data.scrub.addresses import addresses
from finetune_pipeline.data.scrub.find import Recogniser
from finetune_pipeline.data.scrub.kinds import Span
from finetune_pipeline.findings import Finding, FindingsError

_PEOPLE = ("PERSON", "PER")
"""What models call a person: OntoNotes' label and WikiNER's."""
_TITLE = re.compile(
    r"(?i)\A(?:(?:mr|mrs|ms|miss|dr|prof|sir|herr|frau|monsieur|madame|m|mme|señora?|sra?|dona?)\.?\s+)+"
)
_LETTER = re.compile(r"[^\W\d_]")
_UNLIKE = re.compile(r"[\d@_=<>\[\]{}|\\/]")
_INSTALL = "pip install 'spacy>=3.8,<4' && python -m spacy download en_core_web_sm, or set data.scrub_names: false"


@cache
def load_recogniser(models: tuple[str, ...] = ()) -> Recogniser:
    """A function that finds names (with spaCy's installed pipelines) and street addresses (by shape) in a text.

    models: names of installed pipelines, or folders; empty: every installed one that recognises people, at most one a
    language, the largest of it. Loaded once a process. Raises FindingsError, with the command that helps, when spaCy or
    such a model is missing: names are never left in the text silently.
    """
    try:
        import spacy
    except ImportError:
        raise _missing("spaCy is not installed") from None
    chosen = list(models) or _best(spacy.util.get_installed_models())
    pipelines = []
    for model in chosen:
        try:
            pipeline = spacy.load(model, exclude=["lemmatizer", "attribute_ruler", "tagger", "parser", "senter"])
        except (OSError, ImportError, ValueError) as error:
            raise _missing(f"the model {model} cannot be loaded: {error}") from error
        if "ner" in pipeline.pipe_names:
            pipeline.max_length = 1 << 40  # the cap is there for parsers; a cut text would keep its names
            pipelines.append(_without_idle_parts(pipeline))
    if not pipelines:
        raise _missing("no installed model recognises people")

    def recognise(text: str) -> list[Span]:
        found = [Span(start, end, "address") for start, end in addresses(text)]
        for pipeline in pipelines:
            found += _people(pipeline, text)
        return found

    return recognise


def _without_idle_parts(pipeline: Any) -> Any:
    """The pipeline without the shared vectors where its recogniser has its own: about half the time."""
    if "tok2vec" in pipeline.pipe_names and "ner" not in getattr(
        pipeline.get_pipe("tok2vec"), "listener_map", {"ner": True}
    ):
        pipeline.disable_pipe("tok2vec")
    return pipeline


def _people(pipeline: Any, text: str) -> list[Span]:
    found = []
    for entity in pipeline(text).ents:
        if entity.label_ not in _PEOPLE:
            continue
        start, end = entity.start_char, entity.end_char
        first_line = text[start:end].partition("\n")[0]
        end = start + len(first_line.rstrip(" ,.;:-"))
        title = _TITLE.match(text[start:end])
        start += title.end() if title else 0
        for tail in ("'s", "’s"):
            if text[start:end].endswith(tail):
                end -= 2
        value = text[start:end]
        if len(value) > 1 and _LETTER.search(value) and not _UNLIKE.search(value) and not value.islower():
            found.append(Span(start, end, "name"))
    return found


def _best(installed: Sequence[str]) -> list[str]:
    """The largest model of each language among those installed, by the last part of the name (sm, md, lg, trf)."""
    sizes = {"sm": 1, "md": 2, "lg": 3, "trf": 4}
    best: dict[str, tuple[int, str]] = {}
    for name in sorted(installed):
        size = max((sizes.get(part, 0) for part in name.split("_")), default=0)
        language = name.split("_")[0]
        best[language] = max(best.get(language, (-1, "")), (size, name))
    return [name for _, name in sorted(best.values(), key=lambda v: v[1])]


def _missing(what: str) -> FindingsError:
    return FindingsError(
        [
            Finding(
                "data.no_recogniser",
                "error",
                "task.yaml: data.scrub_names",
                f"{what}, and names are to be found",
                _INSTALL,
            )
        ]
    )

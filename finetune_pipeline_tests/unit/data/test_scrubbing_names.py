from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from finetune_pipeline.data.examples import Example
from finetune_pipeline.data.scrub import Span, find_spans, finder_of, load_recogniser, scrub_example
from finetune_pipeline.data.scrub.names import addresses
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.spec.data import DataSpec
from finetune_pipeline_tests.unit.data.scrubbing_rows import labelled_rows

NAMES = DataSpec(scrub_names=True)

PEOPLE = ("Margaret Holloway", "Dr. Susan Whitfield", "Jane Doe's", "EMAIL_1", "a1b2", "Tom\nHead of Facilities")


class Pipeline:
    """A stand-in for a spaCy pipeline: spaCy is an extra that need not be there."""

    def __init__(self) -> None:
        self.pipe_names = ["ner"]
        self.max_length = 100

    def __call__(self, text: str) -> Any:
        places = [("PERSON", text.index(name), text.index(name) + len(name)) for name in PEOPLE if name in text]
        ents = [SimpleNamespace(label_=n, start_char=a, end_char=b) for n, a, b in [*places, ("ORG", 0, 3)]]
        return SimpleNamespace(ents=ents)


@pytest.fixture
def spacy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A spaCy with the pipelines a test puts into `installed`."""
    module: Any = ModuleType("spacy")
    module.installed = {}
    module.util = SimpleNamespace(get_installed_models=lambda: list(module.installed))

    def load(name: str, exclude: list[str]) -> Pipeline:
        if name not in module.installed:
            raise OSError("no such model")
        return module.installed[name]

    module.load = load
    monkeypatch.setitem(sys.modules, "spacy", module)
    load_recogniser.cache_clear()
    yield module
    load_recogniser.cache_clear()


def found(text: str) -> list[tuple[str, str]]:
    return [(s.kind, text[s.start : s.end]) for s in find_spans(text, load_recogniser())]


def test_without_spacy_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    load_recogniser.cache_clear()
    monkeypatch.setitem(sys.modules, "spacy", None)
    row = Example(id="0" * 16, messages=[{"role": "user", "content": "hello"}])
    said = r"spaCy is not installed.*\n.*pip install 'spacy.*python -m spacy download"
    with pytest.raises(FindingsError, match=said):
        scrub_example(row, find=finder_of(NAMES))
    assert scrub_example(row)[0] is row


def test_names_without_titles_possessives_and_placeholders(spacy: Any) -> None:
    spacy.installed["en_core_web_sm"] = Pipeline()
    said = found("Margaret Holloway met Dr. Susan Whitfield at Jane Doe's house")
    assert said == [("name", "Margaret Holloway"), ("name", "Susan Whitfield"), ("name", "Jane Doe")]
    assert found("[EMAIL_1] has the code a1b2") == []
    assert found("Signed,\nTom\nHead of Facilities") == [("name", "Tom")]


def test_examples_get_names_and_addresses(spacy: Any) -> None:
    spacy.installed["en_core_web_sm"] = Pipeline()
    text = "Margaret Holloway, 742 Evergreen Terrace, Springfield, IL 62704, m@example.com"
    row = Example(id="0" * 16, messages=[{"role": "user", "content": text}])
    done, counts, _ = scrub_example(row, find=finder_of(NAMES))
    assert done.messages[0]["content"] == "[NAME_1], [ADDRESS_1], [EMAIL_1]"
    assert counts == {"email": 1, "address": 1, "name": 1}
    assert scrub_example(done, find=finder_of(NAMES)) == (done, {}, [])


def test_addresses_of_the_labelled_texts() -> None:
    rows = labelled_rows()
    hits = [(row, Span(*place, "address")) for row in rows for place in addresses(row.text)]
    wanted = [(row, span) for row in rows for span in row.spans if span.kind == "address"]
    assert len(wanted) >= 20
    assert sum(pair in hits for pair in wanted) >= 0.95 * len(wanted)
    assert sum(pair in wanted for pair in hits) >= 0.95 * len(hits)


@pytest.mark.parametrize(
    "text", ["12 angry men in court", "the Main Street of 1984", "via email 25", "Raum 030, Weg 12"]
)
def test_lookalikes_of_addresses_stay(text: str) -> None:
    assert list(addresses(text)) == []

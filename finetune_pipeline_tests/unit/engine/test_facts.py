"""Facts: what is misspelt, missing or wrong is an error, in the struct, in its JSON, and within a pydantic model."""

import json
from pathlib import Path

import jsonschema
import pytest
from pydantic import BaseModel, ValidationError

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import DamagedFile


class Part(Facts, frozen=True, kw_only=True):
    rows: int
    share: float | None = None


class Whole(Facts, frozen=True, kw_only=True):
    name: str
    loss: float | None
    parts: dict[str, Part]
    best: Part | None = None


class Figure(BaseModel):
    number: int
    title: str = ""


class Drawn(Facts, frozen=True, kw_only=True):
    figures: list[Figure]
    last: Figure | None = None


class Passed(Facts, frozen=True, kw_only=True):
    settings: dict[str, object]
    figure: Figure


class Page(BaseModel):
    whole: Whole


class Folder(BaseModel):
    passed: Passed


WHOLE = Whole(name="a", loss=None, parts={"train": Part(rows=3)})
STORED = {"name": "a", "loss": None, "parts": {"train": {"rows": 3}}}
WRONG = [
    ({"name": "a", "parts": {}}, "missing required field `loss`"),
    (STORED | {"loss": "0.5"}, r"Expected `float \| null`, got `str` - at `\$.loss`"),
    (STORED | {"parts": {"train": {"rows": 3.5}}}, r"Expected `int`, got `float` - at `\$.parts\[...\].rows`"),
    (STORED | {"best": {"share": 0.5}}, r"missing required field `rows` - at `\$.best`"),
]


def test_facts_are_the_same_after_json_and_defaults_are_left_out() -> None:
    assert WHOLE.to_json() == STORED and Whole.of(json.loads(json.dumps(STORED))) == WHOLE
    assert Whole.of(STORED | {"of_a_later_release": 1}) == WHOLE


def test_a_part_may_be_a_model_of_pydantic() -> None:
    drawn = Drawn(figures=[Figure(number=1)])
    assert drawn.to_json() == {"figures": [{"number": 1}]} and Drawn.of(drawn.to_json()) == drawn
    with pytest.raises(ValueError, match=r"number\n +Field required"):
        Drawn.of({"figures": [{"title": "a"}]})
    with pytest.raises(NotImplementedError, match="facts cannot contain"):
        Drawn(figures=[object()]).to_json()  # type: ignore[list-item]


def test_json_that_is_only_passed_on_stays_as_it_is() -> None:
    stored = {"settings": {"lora": {"r": 16}, "layers": [1, None, "all"]}, "figure": {"number": 2}}
    passed = Passed.of(stored)
    assert passed.settings == stored["settings"] and passed.to_json() == stored
    schema = Folder.model_json_schema()
    jsonschema.validate({"passed": stored}, schema)
    with pytest.raises(jsonschema.ValidationError, match="number"):
        jsonschema.validate({"passed": stored | {"figure": {}}}, schema)


def test_a_misspelt_or_missing_field_is_an_error_where_facts_are_made() -> None:
    with pytest.raises(TypeError, match="row"):
        Part(row=3)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Missing required argument 'loss'"):
        Whole(name="a", parts={})  # type: ignore[call-arg]


@pytest.mark.parametrize(("stored", "problem"), WRONG)
def test_wrong_json_is_refused_with_its_place(stored: dict[str, object], problem: str, tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    path.write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=problem):
        Whole.of(stored)
    with pytest.raises(DamagedFile, match=rf"result\.json is damaged: .*{problem}"):
        Whole.read(path)
    with pytest.raises(ValidationError, match=problem):
        Page.model_validate({"whole": stored})


def test_a_pydantic_model_contains_facts_and_describes_them() -> None:
    page = Page(whole=WHOLE)
    assert page.whole is WHOLE and json.loads(page.model_dump_json()) == {"whole": STORED}
    assert Page.model_validate_json(page.model_dump_json()) == page
    schema = Page.model_json_schema(mode="serialization")
    jsonschema.validate({"whole": STORED}, schema)
    for wrong in ({"whole": STORED | {"loss": "x"}}, {"whole": {"name": "a", "loss": 1.0, "parts": {"t": {}}}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)

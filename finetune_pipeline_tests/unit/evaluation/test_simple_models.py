"""Simple models learn what words tell, from the training rows alone, in every kind of answer."""

import json
from pathlib import Path

import pytest

from finetune_pipeline.engine.files import DamagedFile
from finetune_pipeline.evaluation.simple_models import Shared, fit_simple_models, load_simple_model, load_simple_models
from finetune_pipeline.evaluation.simple_models.fitted import joined_json
from finetune_pipeline.evaluation.simple_models.linear import linear_pipeline
from finetune_pipeline.spec.outputs import JsonOutput, LabelsOutput, TextOutput

TRAIN = [(f"the app crashes on screen {i}", "bug") for i in range(12)]
TRAIN += [(f"invoice {i} was charged twice", "billing") for i in range(12)]
TRAIN += [(f"please add dark mode {i}", "feature") for i in range(3)]
TEXTS, ANSWERS = [t for t, _ in TRAIN], [a for _, a in TRAIN]
LABELS = LabelsOutput(labels=["bug", "billing", "feature"])
ORDERS = JsonOutput(json_schema={"type": "object"}, unordered=["extras"])
ASKED = ["it crashes when the screen opens", "charged twice again", "add a mode please"]


def test_texts_without_spaces_are_read_too() -> None:
    train = [f"网络连接断开了{i}" for i in range(8)] + [f"请退还我的付款{i}" for i in range(8)]
    model = linear_pipeline(train, ["net"] * 8 + ["pay"] * 8)
    assert model.predict(["连接又断开", "付款请退还"]).tolist() == ["net", "pay"]
    first, second = (linear_pipeline(TEXTS, ANSWERS, 3).predict_proba(ASKED) for _ in range(2))
    assert (first == second).all(), "a linear model repeats itself"
    with pytest.raises(ValueError, match="as many are needed, and at least one"):
        linear_pipeline(["a"], ["x", "y"])


def test_labels_have_three_rivals_and_free_text_two() -> None:
    fitted = fit_simple_models(TEXTS, ANSWERS, LABELS)
    assert [*fitted][:1] == ["commonest"] and {"nearest", "linear"} <= fitted.keys()
    assert fitted["commonest"].predict(ASKED) == ["billing"] * 3, "of two labels as common, the first by name"
    for learned in ("nearest", "linear"):
        assert fitted[learned].predict(ASKED) == ["bug", "billing", "feature"]
    assert not any(model.predict([]) for model in fitted.values())
    fitted = fit_simple_models(TEXTS, [f"answer {'abcdefghi'[i % 9]}" for i in range(len(TEXTS))], TextOutput())
    assert {"commonest", "nearest"} <= fitted.keys() and "linear" not in fitted
    assert fitted["nearest"].predict([TEXTS[4]]) == ["answer e"]


def test_a_model_that_measures_it_says_how_likely_each_label_is(tmp_path: Path) -> None:
    fitted = fit_simple_models(TEXTS, ANSWERS, LABELS)
    for name, model in fitted.items():
        model.save(tmp_path / name)
    loaded = load_simple_models(tmp_path)
    assert list(loaded) == list(fitted)
    first, *_ = loaded["linear"].probabilities(ASKED) or ()
    assert {*first} == {"bug", "billing", "feature"} and sum(first.values()) == pytest.approx(1)
    assert max(first, key=lambda label: first[label]) == "bug"
    assert loaded["nearest"].probabilities(ASKED) is None, "the nearest row's answer is not measured to be sure"


def _order(i: int) -> tuple[str, str]:
    fruit, urgent = ("apples", "pears")[i % 2], i % 3 == 0
    value = {"fruit": fruit, "number": i, "extras": ["box", "card"] if i % 4 else ["card", "box"]}
    value |= {"delivery": {"urgent": urgent}} if i % 5 else {}
    return f"order {i} of {fruit}{' at once' if urgent else ''} for shop {i}", json.dumps(value)


def test_json_fields_are_classified_found_in_the_text_or_copied() -> None:
    rows = [_order(i) for i in range(120)]
    fitted = fit_simple_models([t for t, _ in rows], [a for _, a in rows], ORDERS)
    assert {"commonest", "commonest_fields", "nearest", "tagger"} <= fitted.keys()
    fields = fitted["tagger"].fields
    assert fields["open"] == [("number",), ("extras",)], "too many values, or one only"
    assert {*fields["closed"]} == {("fruit",), ("delivery", "urgent")} and fields["tagged"] == [("number",)]
    answer = json.loads(fitted["tagger"].predict(["order 9731 of pears at once for shop 9731"])[0])
    assert answer["fruit"] == "pears" and answer["number"] == 9731 and answer["extras"] == ["box", "card"]
    usual = json.loads(fitted["commonest_fields"].predict(["x"])[0])
    assert usual["delivery"] == {"urgent": False} and usual["extras"] == ["box", "card"]


def test_a_field_has_the_probability_of_the_part_that_gives_it_and_none_if_it_is_copied(tmp_path: Path) -> None:
    rows = [_order(i) for i in range(120)]
    fitted = fit_simple_models([t for t, _ in rows], [a for _, a in rows], ORDERS)
    assert fitted["nearest"].field_probabilities(["x"]) is fitted["commonest_fields"].field_probabilities(["x"]) is None
    fitted["tagger"].save(tmp_path / "tagger")
    tagger = load_simple_model(tmp_path / "tagger")
    assert tagger.labels == [] and tagger.probabilities(["x"]) is None and tagger.field_probabilities([]) == []
    asked = ["order 9731 of pears at once for shop 9731", "hello"]
    sure, unsure = tagger.field_probabilities(asked) or ()
    assert sure["extras"] == unsure["extras"] == 121 / 122, "all rows have the same value"
    assert {*sure} == {"fruit", "number", "extras", "delivery.urgent"}
    assert sure["fruit"] > 0.9 > unsure["fruit"] and sure["number"] > 0.9
    classifier = tagger.pipelines["closed"]
    by_field = dict(zip(tagger.fields["closed"], classifier.predict_proba(asked), strict=True))
    assert sure["delivery.urgent"] == pytest.approx(by_field["delivery", "urgent"][0].max())
    copied = [
        (text, json.dumps({**json.loads(answer), "code": f"X{i * 7919}"})) for i, (text, answer) in enumerate(rows)
    ]
    model = fit_simple_models([t for t, _ in copied], [a for _, a in copied], ORDERS)["tagger"]
    assert (model.field_probabilities(asked) or [])[0]["code"] == 0


def test_a_few_words_for_a_value_keep_the_probability_that_nothing_is_tagged() -> None:
    """A number that is tagged or else classified: of the classified one, both must be right."""
    words = {1: "one", 2: "two"}
    rows = [
        (f"send {words.get(i % 4, i % 4)} boxes to shop {chr(97 + i % 20)}", json.dumps({"boxes": i % 4}))
        for i in range(120)
    ]
    tagger = fit_simple_models([t for t, _ in rows], [a for _, a in rows], ORDERS)["tagger"]
    assert tagger.fields == {"closed": [("boxes",)], "tagged": [("boxes",)]}
    text = "some to shop a"
    ((value, untagged),) = tagger.pipelines["tagged"].predict_with_shares([text])[0]
    (classified,) = tagger.pipelines["closed"].predict_proba([text])
    assert value is None
    assert tagger.field_probabilities([text]) == [{"boxes": pytest.approx(untagged * classified.max())}]


def test_slots_of_the_nearest_answer_are_filled_from_the_text_or_the_model_is_left_out(tmp_path: Path) -> None:
    cities = ("Rome", "Oslo", "New York", "Bonn")
    rows = [
        (f"where is order {i} for {cities[i % 4]}?", f"Order {i} is on its way to {cities[i % 4]}.") for i in range(40)
    ]
    rows += [(f"please cancel parcel {i}, thanks", f"Parcel {i} will not be sent.") for i in range(20)]
    shared = Shared()
    texts, answers = [text for text, _ in rows], [answer for _, answer in rows]
    fitted = fit_simple_models(texts, answers, TextOutput(), shared=shared)
    assert {"commonest", "nearest", "slots"} <= fitted.keys() and not shared.left_out
    asked = ["where is order 977 for Buenos Aires?", "please cancel parcel 4711, thanks", "hello"]
    expected = ["Order 977 is on its way to Buenos Aires.", "Parcel 4711 will not be sent."]
    assert fitted["slots"].predict(asked)[:2] == expected
    fitted["slots"].save(tmp_path)
    assert load_simple_model(tmp_path).predict(asked) == fitted["slots"].predict(asked)
    assert fitted["slots"].predict(asked)[2] in answers, "no slot has a place here: the answer stays as it was"
    others = fit_simple_models(
        texts, [f"answer {'abcdefghi'[i % 9]}" for i in range(len(texts))], TextOutput(), 0, shared
    )
    assert "slots" not in others
    assert shared.left_out["slots"].startswith("the answers share no template: only ")


def test_a_field_that_is_a_value_in_one_row_and_an_object_in_another_is_predicted() -> None:
    """An empty object says that there is nothing to extract, and null that a nested object is missing."""
    kinds = [("nothing here", {}), ("ship it to Rome", {"to": {"city": "Rome"}}), ("pick it up", {"to": None})]
    rows = [(f"{text} {i}", json.dumps(value)) for i in range(12) for text, value in kinds]
    fitted = fit_simple_models([t for t, _ in rows], [a for _, a in rows], ORDERS)
    answers = fitted["tagger"].predict([text for text, _ in kinds])
    assert [json.loads(answer) for answer in answers] == [value for _, value in kinds]
    assert fitted["commonest_fields"].predict(["x"]) == ["{}"]
    both = {(): "{}", ("to",): "null", ("to", "city"): '"Rome"'}
    assert json.loads(joined_json(both)) == {"to": {"city": "Rome"}}


def test_a_model_that_cannot_be_fitted_is_an_error() -> None:
    """Without it, a candidate would have to beat the others only."""
    with pytest.raises(ValueError, match="empty vocabulary"):
        fit_simple_models(["", " "], ["a", "b"], LABELS)
    with pytest.raises(ValueError, match="not JSON"):
        fit_simple_models(["a text"], ["no json"], ORDERS)


def test_a_saved_model_answers_as_the_fitted_one_and_its_files_are_the_same_each_time(tmp_path: Path) -> None:
    orders = [_order(i) for i in range(120)]
    tasks = [(LABELS, TEXTS, ANSWERS, ASKED), (ORDERS, *zip(*orders, strict=True), ["order 9731 of pears at once"])]
    for output, texts, answers, asked in tasks:
        for name, model in fit_simple_models(texts, answers, output).items():
            first, second = tmp_path / f"{output.kind}_{name}", tmp_path / f"{output.kind}_{name}_again"
            for folder in (first, second):
                folder.mkdir()
                model.save(folder)
            loaded = load_simple_model(first)
            assert (loaded.name, loaded.predict(asked)) == (name, model.predict(asked)), name
            assert loaded.predict(texts) == model.predict(texts)
            assert {p.name: p.read_bytes() for p in first.iterdir()} == {
                p.name: p.read_bytes() for p in second.iterdir()
            }
            assert not list(first.glob("*.pkl"))
    damaged = tmp_path / "labels_linear" / "fitted.json"
    damaged.write_text("{}")
    with pytest.raises(DamagedFile, match=r"fitted\.json"):
        load_simple_model(damaged.parent)

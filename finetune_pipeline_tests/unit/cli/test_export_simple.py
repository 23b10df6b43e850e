"""``finetune export --simple``: a folder that plain scikit-learn loads and that answers as the rival that was compared."""

import io
import json
import runpy
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_pipeline.data.examples import SPLIT_FILES, Example, write_examples
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.engine.store import ArtifactStore, Builder
from finetune_pipeline.evaluation.rivals import score_baselines
from finetune_pipeline.evaluation.simple_models import FITTED, SIMPLE_MODELS, Shared, fit_simple_models
from finetune_pipeline.evaluation.simple_models.encoders import base_encoder
from finetune_pipeline.evaluation.simple_models.hidden import HiddenStates
from finetune_pipeline.spec import load_task
from finetune_pipeline.spec.outputs import LabelsOutput
from finetune_pipeline_tests.tiny_model import make_tiny_model
from finetune_pipeline_tests.unit.evaluation.baselines import baseline_of
from finetune_pipeline_tests.unit.evaluation.fake_run import report_facts
from finetune_pipeline_tests.unit.evaluation.rows import row

LABELS = ["billing", "bug"]
ORDER = {"type": "object", "properties": {"fruit": {"type": "string"}, "number": {"type": "integer"}}}
Kind = tuple[dict[str, Any], Callable[[int], tuple[str, str]]]


def ticket(i: int) -> tuple[str, str]:
    return f"{'invoice' if i % 2 else 'crash'} number {i}", LABELS[i % 2 == 0]


def order(i: int) -> tuple[str, str]:
    fruit = "apples" if i % 2 else "pears"
    if i % 3 == 0:
        return f"nothing today, {i} thanks", "{}"
    return f"{fruit} please, {i} of them", json.dumps({"fruit": fruit, "number": i})


KINDS: dict[str, Kind] = {
    "labels": ({"kind": "labels", "labels": LABELS}, ticket),
    "json": ({"kind": "json", "json_schema": ORDER}, order),
    "text": ({"kind": "text"}, order),
}


def make_store(
    root: Path,
    kind: str,
    best: str,
    evaluated: dict[str, float] | None = None,
    encoders: Mapping[str, Any] | None = None,
) -> None:
    """A task, and the artifacts of a baseline whose simple model `best` is right most often; with `evaluated` also a report
    with these scores on the sealed test."""
    output, make = KINDS[kind]
    folder = root / "data" / "demo"
    folder.mkdir(parents=True)
    spec = {"name": "demo", "description": "Sorts *things*.", "system_prompt": "Answer billing or bug."}
    (folder / "task.yaml").write_text(yaml.safe_dump({**spec, "output": output}))
    task, store = load_task(folder).spec, ArtifactStore(root / "home" / "artifacts")

    def split(builder: Builder) -> None:
        rows = []
        for i, (text, answer) in enumerate(make(i) for i in range(60)):
            messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
            rows.append(Example(id=f"{i:016x}", messages=messages, label=answer if kind == "labels" else None))
        (builder.folder / "train").mkdir()
        write_examples(builder.folder / SPLIT_FILES["train"], rows)

    def score(builder: Builder) -> None:
        gold = [make(i)[1] for i in range(20)]
        rows = {"zero_shot": [row(i, g, "", label_scores=[]) for i, g in enumerate(gold)]}
        for name in SIMPLE_MODELS:
            n_right = 18 if name == best else 5
            rows[f"simple_{name}"] = [
                row(i, g, g if i < n_right else "no", label_scores=[]) for i, g in enumerate(gold)
            ]
        builder.facts.update(baseline_of(score_baselines(task, rows)).to_json())
        texts, answers = zip(*[make(i) for i in range(60)], strict=True)
        for name, model in fit_simple_models(texts, answers, task.output, shared=Shared(encoders or {})).items():
            model.save(builder.folder / FITTED / name)

    def report(builder: Builder) -> None:
        scores = {
            f"simple_{name}": {"n": 40, "correct": round(40 * share), "accuracy": share, "interval": [0.1, 0.9]}
            | {"primary": {"name": "accuracy", "value": share, "interval": [0.1, 0.9]}}
            for name, share in (evaluated or {}).items()
        }
        write_json(builder.folder / "report.json", {"scores": scores})
        builder.facts |= report_facts(verdict="Better than prompting, but not significantly better than that.")

    splits = store.build("demo", "splits", code_version="1", inputs={}, settings=None, make=split)
    inputs = {"train_split": splits.version}
    baseline = store.build("demo", "few_shot_baseline", code_version="1", inputs=inputs, settings=None, make=score)
    if evaluated:
        inputs = {"few_shot_baseline": baseline.version}
        store.build("demo", "evaluation_report", code_version="1", inputs=inputs, settings=None, make=report)


@pytest.mark.parametrize(("kind", "name"), [("labels", "linear"), ("json", "tagger"), ("text", "slots")])
def test_the_folder_answers_as_the_rival_that_was_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, finetune: Any, kind: str, name: str
) -> None:
    import skops.io  # takes seconds

    make_store(tmp_path, kind, best=name)
    result = finetune("export", "demo", "--simple", "--to", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    out, spec = tmp_path / "out", load_task(tmp_path / "data" / "demo").spec
    manifest = json.loads((out / "simple_model.json").read_text())
    assert manifest["model"] == name and SIMPLE_MODELS[name].title in result.stdout
    rows = [KINDS[kind][1](i) for i in range(60)]
    model = SIMPLE_MODELS[name]().fit([text for text, _ in rows], [answer for _, answer in rows], spec.output)
    texts = ["crash number 7", "apples please, 33 of them", "nothing today, 9 thanks", "something else"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    monkeypatch.syspath_prepend(out)  # as for a script that is run
    runpy.run_path(str(out / "predict.py"), run_name="__main__")
    assert capfd.readouterr().out.splitlines() == model.predict(texts)
    pipelines = set(manifest["parts"]) - {"tagged", "slots"}
    parts = {f"{part}.skops" for part in pipelines}
    files = {"README.md", "predict.py", "fitted.py", "skops_files.py", "fitted.json", *parts}
    for part in pipelines:
        untrusted = skops.io.get_untrusted_types(file=out / f"{part}.skops")
        assert set(untrusted) <= set(manifest["trusted"]), "nothing in it can run code"
    if kind == "json":
        files |= {"span_tagger.py", "span_tagger.json", "span_tagger_0.crfsuite"}
        card = (out / "README.md").read_text()
        assert "- found in the text: number" in card and "python-crfsuite==" in card
    files |= {"slot_filler.py", "slots.json"} if kind == "text" else set()
    assert set(manifest["files"]) == files


def test_a_model_that_reads_hidden_states_names_its_base_and_answers_with_it_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any, finetune: Any
) -> None:
    for name, seed in (("base", 0), ("other", 9)):
        make_tiny_model(tmp_path / name, layers=3, seed=seed)
    encoders = {"base": base_encoder(tmp_path / "base", "float32")}
    make_store(tmp_path, "labels", best="hidden", encoders=encoders)
    result = finetune("export", "demo", "--simple", "--to", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It reads vectors of base, which is not in this folder" in card and "transformers==" in card
    texts = ["crash number 7", "invoice number 12", "something else"]
    rows = [ticket(i) for i in range(60)]
    model = HiddenStates().fit(
        [text for text, _ in rows], [answer for _, answer in rows], LabelsOutput(labels=LABELS), 0, Shared(encoders)
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(texts)))
    monkeypatch.syspath_prepend(tmp_path / "out")
    script = str(tmp_path / "out" / "predict.py")
    with pytest.raises(ValueError, match="base is needed in .*out/base, or in a folder that BASE_FOLDER names"):
        runpy.run_path(script, run_name="__main__")
    monkeypatch.setenv("BASE_FOLDER", str(tmp_path / "other"))
    with pytest.raises(ValueError, match="other is not base with the digest"):
        runpy.run_path(script, run_name="__main__")
    monkeypatch.setenv("BASE_FOLDER", str(tmp_path / "base"))
    runpy.run_path(script, run_name="__main__")
    assert capfd.readouterr().out.splitlines() == model.predict(texts) and set(model.predict(texts)) == set(LABELS)


def test_the_card_says_what_it_is_and_how_good(tmp_path: Path, finetune: Any) -> None:
    make_store(tmp_path, "labels", best="nearest", evaluated={"commonest": 0.5, "nearest": 0.7, "linear": 0.85})
    answer = finetune("export", "demo", "--simple", "--to", tmp_path / "out", "--json").json
    assert answer["manifest"]["model"] == "linear", "what the sealed test says counts for more than validation"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "# demo: TF-IDF and logistic regression" in card and "60 training rows" in card
    assert "| the sealed test | 40 | accuracy | 85.0% (10.0% to 90.0%) |" in card and "| validation | 20 |" in card
    assert "Better than prompting, but not significantly better than that." in card


def test_a_model_that_was_changed_since_is_not_exported(tmp_path: Path, finetune: Any) -> None:
    make_store(tmp_path, "labels", best="linear", evaluated={"linear": 0.85})
    (stored,) = (tmp_path / "home/artifacts/demo/few_shot_baseline").glob("*/simple_models/linear/model.skops")
    for content in (stored.read_bytes()[:50], stored.read_bytes() + b"x"):
        stored.write_bytes(content)
        result = finetune("export", "demo", "--simple", "--to", tmp_path / "out")
        assert (result.returncode, (tmp_path / "out").exists()) == (1, False)
        assert "simple_models/linear/model.skops has changed" in result.stderr and "fix: remove" in result.stderr

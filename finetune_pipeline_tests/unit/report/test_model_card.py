"""The model card: valid by huggingface_hub's own reader, the report's own numbers, and nothing of the data in it."""

from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from msgspec.structs import replace

from finetune_pipeline.evaluation.decisions import DefaultGate
from finetune_pipeline.evaluation.gates import decide, decide_finalists
from finetune_pipeline.models.facts import Parity
from finetune_pipeline.models.manifest import BaseRecord, ExportedFile, Generation, Manifest, Origin, Prompting
from finetune_pipeline.report.model_card import model_card
from finetune_pipeline.spec.model import CardSpec
from finetune_pipeline_tests.unit.evaluation.fake_run import (
    SUPERVISION,
    arguments,
    evaluation,
    json_evaluation,
    refusal,
    text_evaluation,
    usual,
)
from finetune_pipeline_tests.unit.evaluation.rows import answers, json_spec, spec, text_spec
from finetune_pipeline_tests.unit.report.parsed import HOSTILE

MANIFEST = Manifest(
    format=1, task="tickets", description="Sorts tickets.", what="model", kind="lora", target="vllm", method="lora",
    model_version=None,
    prompt=Prompting(
        system_prompt="Answer with one label.", chat_template="chat_template.jinja", chat_template_sha256="ab" * 32,
        rendered="<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n",
        control_tokens=["<|im_end|>", "<|im_start|>"], prompt_prefix="", soft_tokens=[],
    ),
    generation=Generation(max_new_tokens=12, stop_token_ids=[2], stop_tokens=["<|im_end|>"], json_schema=None),
    labels=["bug", "billing", "other"], dtype="bfloat16", stored_float32_because=None,
    base_model=BaseRecord(
        id="acme/tiny", revision="0123abc", identity={"kind": "hub"}, weights={"model.safetensors": "cd" * 32},
        licence_note="The licence of acme/tiny also applies.",
    ),
    endpoint=None,
    artifacts=Origin(merged_model="m1", adapter="a1", base_model="b1", dataset="d1", adapter_sha256="e1"),
    training={"method": "lora", "epochs": 2.0, "learning_rate": 2e-4, "lora": {"r": 16, "alpha": 32}},
    parity=Parity(kind="lora", rows=32, passed=True, same_greedy_share=1.0, mean_kl=1e-5),
    evaluation=None, card=CardSpec(), versions={"torch": "2.13.0"},
    files={"model.safetensors": ExportedFile(sha256="cd" * 32, bytes=5)},
)  # fmt: skip


def manifest(what: str = "model", **changes: Any) -> Manifest:
    """Of an export."""
    return replace(MANIFEST, what=what, **changes)


def read(text: str) -> ModelCard:
    """As the Hub's library reads it; nothing of its metadata is lost on the way through."""
    card = ModelCard(text)
    header = yaml.safe_load(text.split("---\n")[1])
    assert yaml.safe_load(card.data.to_yaml()) == header
    return card


@pytest.fixture(scope="module")
def good() -> ModelCard:
    result = usual()
    return read(model_card(manifest(), result, decide(spec(), result)))


def test_loosened_gates_are_named_at_the_top(good: ModelCard) -> None:
    task = spec(gates={"confidence": 0.6, "max_ability_loss": 0.9})
    result = evaluation(spec=task)
    held_back = {"held_back_by": [DefaultGate(name="robust", message="Greetings cost 43 points.")]}
    result = result.model_copy(update={"loosened": result.loosened.model_copy(update=held_back)})
    top = read(model_card(manifest(), result, decide(task, result))).text.split("##")[0].replace("\\", "")
    for text in (
        "gates.confidence 0.6 (default 0.95)",
        "gates.max_ability_loss 0.9 (default 0.1)",
        "Greetings cost 43",
    ):
        assert text in top
    assert "ooser than" not in good.text


def test_the_metadata_is_what_the_hub_wants(good: ModelCard) -> None:
    data = good.data
    assert data.base_model == "acme/tiny" and data["base_model_relation"] == "finetune"
    assert (data.library_name, data.pipeline_tag) == ("transformers", "text-generation")
    assert data.tags == ["finetune-pipeline", "lora", "tickets"] and data.model_name == "tickets"
    assert data.license == "other" and data.license_link == "https://huggingface.co/acme/tiny"
    assert data.language is None and data.datasets is None
    adapter = read(model_card(manifest("adapter"))).data
    assert adapter.library_name == "peft" and adapter["base_model_relation"] == "adapter"
    assert adapter.eval_results is None


def test_results_are_the_reports(good: ModelCard) -> None:
    scores = usual().scores["candidate"]
    listed = {(r.dataset_type, r.metric_name): r for r in good.data.eval_results}
    low, high = scores.interval or (0.0, 0.0)
    accuracy = listed["tickets", f"Accuracy (95% interval {low:.3f} to {high:.3f})"]
    assert accuracy.metric_value == scores.accuracy == 0.8 and accuracy.dataset_split == "test"
    assert accuracy.dataset_revision == "t1" and accuracy.dataset_name == "tickets, sealed test of 200 rows"
    low, high = scores.metric_interval("macro_f1") or (0.0, 0.0)
    macro_f1 = listed["tickets", f"Macro-F1 (95% interval {low:.3f} to {high:.3f})"]
    assert macro_f1.metric_value == round(scores.macro_f1 or 0, 4) and low < macro_f1.metric_value < high
    assert listed["general_ability", "Accuracy (95% interval 0.460 to 0.580)"].metric_value == 0.521
    assert good.data.metrics == ["accuracy", "f1", "valid_answers"]


@pytest.mark.parametrize(
    ("make", "of", "names"),
    [(json_evaluation, json_spec, {"Exact answers (95% interval 0.799 to 0.953)": 0.9}),
        (text_evaluation, text_spec, {"ROUGE-L (95% interval 0.814 to 1.000)": 1.0})],
)  # fmt: skip
def test_written_answers_have_their_own_metrics(make: Any, of: Any, names: dict[str, float]) -> None:
    result = make()
    card = read(model_card(manifest(labels=[]), result, decide(of(), result)))
    results = {r.metric_name: r.metric_value for r in card.data.eval_results if r.dataset_type == "tickets"}
    assert names.items() <= results.items()
    assert not [name for name in results if name.startswith("Accuracy")], "the same number under its right name only"


def test_every_section_tells_the_reports_numbers(good: ModelCard) -> None:
    text = good.text
    titles = [line[3:] for line in text.splitlines() if line.startswith("## ")]
    assert titles == [
        "What it is", "How to prompt it", "How to serve it", "Training data", "Training", "Evaluation", "Limits",
        "General ability", "Cost", "Lineage", "Licence",
    ]  # fmt: skip
    for fact in (
        "**Fine-tuned (qlora)**", "80.0%", "73.9% to 85.0%", "base model with its best prompt | +27.5 | +20.7 to +34.6",
        "email (14)", "| **all** | **700** |", "1,042", "| learning\\_rate | 0.0002 |", "| lora.r | 16 |",
        "| billing | other | 14 |", "another label (40)", "53.4%", "52.1%", "1 min 15 s", "cd" * 32, "| adapter | a1 |",
        "| splits | t1 |", "prompt.control_tokens", "Answer with one label.", "<|im_start|>user\n{text}<|im_end|>",
        "vllm serve . --served-model-name tickets --dtype",
    ):  # fmt: skip
        assert fact in text, fact
    assert "75.2" not in text
    for target, command in (("tgi", "text-generation-launcher --model-id ."), ("transformers", "AutoModelForCausalLM")):
        assert command in read(model_card(manifest(target=target))).text


def test_a_model_whose_gates_failed_says_so_first() -> None:
    result = usual()
    text = read(model_card(manifest(), result, [refusal()])).text
    first = text[: text.index("## What it is")]
    assert "did not pass its gates" in first and "Refused by beats" in first
    assert "| no | It is not better. |" in text
    passed = read(model_card(manifest(), result, decide(spec(), result))).text
    assert "did not pass" not in passed and "> No gate failed: " in passed
    nothing = read(model_card(manifest(), result, [])).text
    assert "did not pass its gates" in nothing, "no gate asked is no gate passed"
    base = [row | {"label_scores": []} for row in answers(100)]
    simple = {
        k: {row["example_id"]: row["text"] for row in answers(n)} for k, n in (("commonest", 80), ("linear", 160))
    }
    beaten = evaluation(predictions=[*base, *answers(100, model="candidate")], simple=simple)
    card = read(model_card(manifest(), decide_finalists(spec(), beaten), decide(spec(), beaten))).text
    assert "did not pass its gates" in card, "what is shipped is a simple model"


def test_texts_of_strangers_are_no_markup_and_rows_of_the_data_stay_out() -> None:
    texts = {row["example_id"]: f"SECRET-ROW {row['example_id']}" for row in arguments()["predictions"]}
    people = {
        "rated": 1, "unknown": 0, "raters": {"Ann": 1}, "random": None, "selected": None, "agreement": None,
        "comments": [{"id": "e1", "candidate": True, "base": False, "comment": "SECRET-COMMENT", "rater": "Ann"}],
        "of_earlier_candidates": 0,
    }  # fmt: skip
    result = evaluation(texts=texts, people=people, supervision=SUPERVISION)
    card = CardSpec(intended_use=HOSTILE, out_of_scope=HOSTILE, data_licenses=[HOSTILE])
    fence = "```\n# not a title\n<script>"
    dirty = manifest(
        description=f"---\nlicense: mit\n---\n{HOSTILE}",
        card=card,
        prompt=replace(MANIFEST.prompt, system_prompt=fence, rendered=fence),
        stored_float32_because=HOSTILE,
        base_model=replace(MANIFEST.base_model, id=f"a`b{HOSTILE}", licence_note=HOSTILE, identity={"kind": "local"}),
    )
    card_text = model_card(dirty, result, decide(spec(), result))
    parsed = read(card_text)
    assert parsed.data.license == "other" and parsed.data.base_model is None
    assert "SECRET" not in card_text and "Ann" not in card_text and "text of" not in card_text
    block = f"````text\n{fence}\n````"
    assert card_text.count(block) == 2
    outside = card_text.replace(block, "")
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(card_text.split("---\n", 2)[2])
    kinds = {t.type for block in tokens for t in (block, *(block.children or []))}
    assert not kinds & {"html_inline", "html_block", "link_open", "image"}
    assert [t.content for t in tokens if t.type == "fence" and "<script>" in t.content] == [f"{fence}\n"] * 2
    assert not [line for line in outside.splitlines() if line.startswith("# ")][1:]


@pytest.mark.parametrize(
    ("base", "card", "expected"),
    [
        ("Apache-2.0", {}, {"license": "apache-2.0"}),
        ("Gemma terms of use (ai.google.dev/gemma/terms)", {},
         {"license": "other", "license_name": "that-of-the-base-model", "license_link": "https://ai.google.dev/gemma/terms"}),
        (None, {"license": "mit"}, {"license": "mit"}),
        ("Apache-2.0", {"license": "acme-1.0", "license_link": "https://acme.example/l"},
         {"license": "other", "license_name": "acme-1.0", "license_link": "https://acme.example/l"}),
    ],
)  # fmt: skip
def test_the_licence(base: str | None, card: dict[str, Any], expected: dict[str, str]) -> None:
    exported = manifest(card=CardSpec(**card), base_model=replace(MANIFEST.base_model, licence=base))
    data = read(model_card(exported)).data.to_dict()
    assert {k: v for k, v in data.items() if k.startswith("license")} == expected


def test_what_the_spec_tells() -> None:
    card = CardSpec(
        language=["en", "multilingual"], datasets=["acme/tickets"], data_licenses=["CC BY 4.0"], intended_use="Routing.",
        out_of_scope="Medical advice.",
    )  # fmt: skip
    result = usual()
    parsed = read(model_card(manifest(card=card), result, decide(spec(), result)))
    assert parsed.data.language == ["en", "multilingual"] and parsed.data.datasets == ["acme/tickets"]
    assert "Licences of the rows: CC BY 4.0." in parsed.text and "Out of scope: Medical advice." in parsed.text
    assert "Made from acme/tickets." in parsed.text and "Intended use: Routing." in parsed.text
    with pytest.raises(ValueError, match="language"):
        CardSpec(language=["English"])
    with pytest.raises(ValueError, match="license"):
        CardSpec(license="Apache 2")

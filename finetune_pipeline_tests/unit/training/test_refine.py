"""The second stage: its rows and losses are TRL's, planted faults stop it, a stopped one ends with the same bits, and it learns
what thumbs prefer."""

import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from msgspec.structs import replace
from trl import DPOTrainer, KTOTrainer

from finetune_pipeline.data.json_lines import write_rows
from finetune_pipeline.data.preferences.rows import Preference, preference
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.jobs import RefineJob
from finetune_pipeline.models.chat import end_ids, load_tokenizer
from finetune_pipeline.spec.training import RefineSpec
from finetune_pipeline.training import refine as stage
from finetune_pipeline.training.micro_batch import PassTooLarge
from finetune_pipeline.training.model import build, save_trained
from finetune_pipeline.training.preference_rows import encode_preferences, with_mismatched
from finetune_pipeline.training.refine import refine, weights_of
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, tiny_messages
from finetune_pipeline_tests.unit.training.jobs import settings

SETTINGS = settings(method="lora", batch_size=8, micro_batch_size=8, evals_per_epoch=1)


def labelled(count: int = 24) -> list[Preference]:
    """Pairs, and thumbs up and down, on the labels of tickets."""
    rows = []
    for i in range(count):
        good, bad = LABELS[i % 3], LABELS[(i + 1) % 3]
        sides = [(good, bad), (good, bad), (good, None), (None, bad)][i % 4]
        rows.append(preference(tiny_messages(i, answer=False), *sides))
    return rows


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and an adapter that changes it."""
    folder = tmp_path_factory.mktemp("first")
    base = make_tiny_model(folder / "base")
    tokenizer = load_tokenizer(base)
    torch.manual_seed(1)
    model = build(base, SETTINGS, torch.float32, torch.device("cpu"), tokenizer, "").model
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.05)
    save_trained(model, tokenizer, base, "lora", folder / "adapter")
    return folder


def job(first: Path, folder: Path, rows: list[Preference], method: str, **changes: Any) -> RefineJob:
    folder.mkdir(parents=True, exist_ok=True)
    write_rows(folder / "rows.jsonl", rows)
    section = RefineSpec.model_validate({"method": method, "learning_rate": 1e-3, **changes})
    return RefineJob(
        base=first / "base", start_from=first / "adapter", rows=folder / "rows.jsonl", settings=SETTINGS,
        refine=section, out=folder / "out", work=folder / "work",
    )  # fmt: skip


def weights(job: RefineJob) -> bytes:
    return (job.out / "adapter/adapter_model.safetensors").read_bytes()


class Seen(Exception):
    pass


def trainer_of(job: RefineJob, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The trainer of a job before its first step."""
    trainers: list[Any] = []

    def catch(trainer: Any, **_: Any) -> None:
        trainers.append(trainer)
        raise Seen

    name = "KtoTrainer" if job.refine.method == "kto" else "DpoTrainer"
    monkeypatch.setattr(getattr(stage, name), "train", catch)
    with pytest.raises(Seen):
        refine(job)
    return trainers[0]


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_rows_are_those_that_trl_makes_of_the_same_turns(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """With TRL's own preparation, which reads each conversation by the chat template: prompt, answers and mismatched answers."""
    trainer = trainer_of(job(first, tmp_path, labelled(), method), monkeypatch)
    ours = trainer.train_dataset.to_list()
    tokenizer = trainer.processing_class
    by_id = {f"{p.id}-{side}": p for p in labelled() for side in ("chosen", "rejected")}

    def turns(text: str | None) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": str(text)}]

    raw = []
    for row in ours:
        source = by_id[row["id"]]
        if method == "dpo":
            raw.append({"prompt": source.prompt, "chosen": turns(source.chosen), "rejected": turns(source.rejected)})
        else:
            text = source.chosen if row["label"] else source.rejected
            raw.append({"prompt": source.prompt, "completion": turns(text), "label": row["label"]})
    trl_class = KTOTrainer if method == "kto" else DPOTrainer
    theirs = trl_class._prepare_dataset(trainer, Dataset.from_list(raw), tokenizer, trainer.args, "train").to_list()
    names = [
        "prompt_ids",
        *(["completion_ids", "KL_completion_ids", "label"] if method == "kto" else ["chosen_ids", "rejected_ids"]),
    ]
    (line_break,) = tokenizer("\n", add_special_tokens=False)["input_ids"]
    for mine, its in zip(ours, theirs, strict=True):
        for name in names:
            expected = its[name]
            if name.endswith(("completion_ids", "chosen_ids", "rejected_ids")):
                assert mine[name][-1] in end_ids(tokenizer)
                expected = expected[:-1] if expected[-1] == line_break else expected  # generation has stopped before it
            assert mine[name] == expected, name


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_the_loss_is_the_papers_with_the_first_stage_as_reference(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Computed anew from the model's logits, after the adapter has moved: loss and gradients of a batch."""
    trainer = trainer_of(job(first, tmp_path, labelled(), method, beta=0.3), monkeypatch)
    model, size = trainer.model, 8
    assert list(model.peft_config) == ["default"]
    batch = trainer.data_collator([trainer.train_dataset[i] for i in range(size if method == "kto" else 4)])

    def log_probabilities(ids: torch.Tensor, attention: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=ids, attention_mask=attention).logits.log_softmax(-1)[:, :-1]
        picked = logits.gather(2, ids[:, 1:, None])[..., 0]
        return (picked * mask[:, 1:]).sum(1)

    def sides(prefix: str = "") -> torch.Tensor:
        return log_probabilities(
            *(batch[f"{prefix}{name}"] for name in ("input_ids", "attention_mask", "completion_mask"))
        )

    with torch.no_grad():
        reference, mismatched = sides(), sides("KL_") if method == "kto" else None
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                torch.manual_seed(len(name))
                parameter.add_(0.03 * torch.randn_like(parameter))
    ratio = sides() - reference
    if method == "dpo":
        chosen, rejected = ratio.chunk(2)
        expected = -torch.nn.functional.logsigmoid(0.3 * (chosen - rejected)).mean()
    else:
        with torch.no_grad():
            divergence = (sides("KL_") - mismatched).mean().clamp(min=0)
        liked_weight, disliked_weight = trainer.args.desirable_weight, trainer.args.undesirable_weight
        value = torch.where(batch["label"], ratio - divergence, divergence - ratio)
        weight = torch.where(batch["label"], liked_weight, disliked_weight)
        expected = (weight * (1 - torch.sigmoid(0.3 * value))).mean()
    parameters = [p for p in model.parameters() if p.requires_grad]
    expected_gradients = torch.autograd.grad(expected, parameters)
    loss = trainer.compute_loss(model, batch)
    gradients = torch.autograd.grad(loss, parameters)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5) and expected.item() > 0.01
    for ours, theirs in zip(expected_gradients, gradients, strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-6)


def test_the_rarer_kind_weighs_as_much_in_all() -> None:
    assert weights_of([True] * 300 + [False] * 100) == (1.0, 3.0)
    assert weights_of([True] * 20 + [False] * 50) == (2.5, 1.0)


def test_mismatched_answers_stay_in_their_batch() -> None:
    rows = [{"completion_ids": [i]} for i in range(5)]
    assert [row["KL_completion_ids"] for row in with_mismatched(rows, 3)] == [[2], [0], [1], [4], [3]]


def in_loss(row: dict[str, Any]) -> dict[str, Any]:
    """The prompt's last token is learned."""
    return {**row, "prompt_ids": row["prompt_ids"][:-1], "chosen_ids": [row["prompt_ids"][-1], *row["chosen_ids"]]}


def no_end(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "rejected_ids": row["rejected_ids"][:-1]}


def swapped(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "chosen_ids": row["rejected_ids"], "rejected_ids": row["chosen_ids"]}


def other_prompt(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "prompt_ids": [row["prompt_ids"][0], *row["prompt_ids"]]}


@pytest.mark.parametrize(
    ("plant", "rule"),
    [
        (in_loss, "audit.rows_with_loss_on_prompt"),
        (no_end, "audit.rows_without_eos"),
        (swapped, "audit.answers_cut"),
        (other_prompt, "audit.template_mismatch"),
    ],
)
def test_a_planted_fault_stops_the_stage_before_its_first_step(
    first: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    plant: Callable[[dict[str, Any]], dict[str, Any]],
    rule: str,
) -> None:
    def planted(*arguments: Any) -> Any:
        encoded = encode_preferences(*arguments)
        encoded.rows[2] = plant(encoded.rows[2])
        return encoded

    monkeypatch.setattr(stage, "encode_preferences", planted)
    with pytest.raises(FindingsError) as caught:
        refine(job(first, tmp_path, labelled(), "dpo"))
    assert rule in {f.rule for f in caught.value.findings}
    assert all(f.message.startswith(("1 of", "2 of")) for f in caught.value.findings)
    assert not (tmp_path / "out/adapter").exists()


def test_long_rows_stop_the_stage_or_are_left_out_and_counted(first: Path, tmp_path: Path) -> None:
    rows = [*labelled(), preference(tiny_messages(1, answer=False), "yes " * 200, "no")]
    with pytest.raises(FindingsError, match="longer than 200 tokens"):
        refine(job(first, tmp_path / "fail", rows, "dpo"))
    dropping = replace(job(first, tmp_path / "drop", rows, "dpo"), settings=SETTINGS.changed(over_length="drop"))
    facts, _ = refine(dropping)
    assert (facts.rows, facts.too_long) == (12, 1)


@pytest.mark.parametrize("method", ["kto", "dpo"])
def test_a_stopped_stage_ends_with_the_same_bits(first: Path, tmp_path: Path, method: str) -> None:
    whole = job(first, tmp_path / "whole", labelled(40), method, epochs=3.0)
    facts, _ = refine(whole)
    stopped = replace(whole, out=tmp_path / "again", work=tmp_path / "work")
    shutil.copytree(whole.work, stopped.work)
    checkpoints = sorted((stopped.work / "checkpoints").iterdir(), key=lambda path: int(path.name.split("-")[1]))
    assert len(checkpoints) == 2
    shutil.rmtree(checkpoints[-1])
    again, measured = refine(stopped)
    assert measured["resumed_from"] == checkpoints[0].name and again == facts
    assert weights(stopped) == weights(whole)
    assert weights(whole) != (first / "adapter/adapter_model.safetensors").read_bytes()
    other = replace(stopped, out=tmp_path / "other", refine=stopped.refine.model_copy(update={"beta": 0.5}))
    _, measured = refine(other)
    assert measured["resumed_from"] is None and len(measured["checkpoints_skipped"]) == 2


@pytest.mark.parametrize(("method", "trainer"), [("kto", "KtoTrainer"), ("dpo", "DpoTrainer")])
def test_a_pass_that_does_not_fit_is_halved_and_ends_with_the_bits_of_the_smaller_one(
    first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, trainer: str
) -> None:
    small = replace(job(first, tmp_path / "small", labelled(), method), settings=SETTINGS.changed(micro_batch_size=2))
    refine(small)
    step, fitting = getattr(stage, trainer).training_step, 2

    def limited(self: Any, *arguments: Any, **more: Any) -> Any:
        if self.args.per_device_train_batch_size > fitting:
            torch.empty(1 << 50)
        return step(self, *arguments, **more)

    monkeypatch.setattr(getattr(stage, trainer), "training_step", limited)
    halved = job(first, tmp_path / "halved", labelled(), method)
    _, measured = refine(halved)
    assert (measured["micro_batch"], weights(halved)) == (2, weights(small))
    fitting = 1
    least = job(first, tmp_path / "least", labelled(), method)
    if method == "dpo":
        assert refine(least)[1]["micro_batch"] == 1
    else:  # which compares a row with another one
        with pytest.raises(PassTooLarge, match="2 rows at once"):
            refine(least)


def test_four_hundred_thumbs_teach_to_answer_shortly(first: Path, tmp_path: Path) -> None:
    """Short answers are liked and long ones disliked: on prompts without thumbs, the short one becomes likelier."""
    dice = random.Random(0)
    short, long = [["fine", "done", "yes"], ["it is fine and it is done", "yes it is done and fine now"]]
    rows = []
    for i in range(400):
        liked = i % 4 > 0  # three of four
        answer = dice.choice(short if liked else long)
        rows.append(preference(tiny_messages(i, answer=False), answer if liked else None, None if liked else answer))
    facts, _ = refine(job(first, tmp_path, rows, "kto", learning_rate=3e-3))
    assert (facts.rows, facts.liked, facts.disliked, facts.liked_weight, facts.disliked_weight) == (400, 300, 100, 1, 3)
    tokenizer = load_tokenizer(first / "base")
    margins = {}
    for name, adapter in (("before", first / "adapter"), ("after", tmp_path / "out/adapter")):
        model = build(first / "base", SETTINGS, torch.float32, torch.device("cpu"), tokenizer, "", adapter).model.eval()
        scores = [
            sum(score(model, tokenizer, number, text) * sign for text, sign in ((short[0][0], 1), (long[0], -1)))
            for number in range(1000, 1030)
        ]
        margins[name] = scores
    risen = [after - before for before, after in zip(margins["before"], margins["after"], strict=True)]
    assert min(risen) > 1.0 and all(map(math.isfinite, risen)), "nats, on every one of thirty new prompts"


def score(model: Any, tokenizer: Any, number: int, answer: str) -> float:
    """Log-likelihood of an answer with its end."""
    pair = preference(tiny_messages(number, answer=False), answer, None)
    (row,) = encode_preferences(tokenizer, [pair], "kto", 500, "fail").rows
    ids = torch.tensor([row["prompt_ids"] + row["completion_ids"]])
    with torch.no_grad():
        picked = model(input_ids=ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])
    return float(picked[len(row["prompt_ids"]) - 1 :].sum())

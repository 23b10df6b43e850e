"""Fast prediction against the plain way: one row at a time through `generate`, every label encoded anew. Prompts are put
behind the beginnings that save the most reading; a single odd one spoils nothing."""

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM

from finetune_pipeline.evaluation.predict import encode_labels
from finetune_pipeline.faults import JobError
from finetune_pipeline.jobs import BaseJob
from finetune_pipeline.models.chat import common_prefix, encode_prompt, end_ids, load_tokenizer
from finetune_pipeline.models.inference import generation, reader
from finetune_pipeline.models.inference.constrained import Grammar, Restriction
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.prefix_attention import behind_prefix
from finetune_pipeline.models.inference.reader import Reader
from finetune_pipeline.models.inference.shared_reading import families
from finetune_pipeline.models.inference.trial import APART, PLAIN, TREES, way_of_reading
from finetune_pipeline.models.loading import load_for_prediction
from finetune_pipeline.worker.entry import classify_error
from finetune_pipeline.worker.process import EXIT_OOM
from finetune_pipeline_tests.tiny_model import LABELS, make_tiny_model, tiny_messages
from finetune_pipeline_tests.unit.models.architectures import make_model

LONGEST = 10


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    folder: Path = make_tiny_model(tmp_path_factory.mktemp("tiny") / "base", seed=3)
    return load_for_prediction(folder, torch.device("cpu")), load_tokenizer(folder)


def _prompts(tokenizer: Any, number: int = 11) -> tuple[list[list[int]], list[list[list[int]]]]:
    messages = [tiny_messages(n, answer=False) for n in range(number)]
    return [encode_prompt(tokenizer, m) for m in messages], encode_labels(tokenizer, messages, LABELS)


@torch.no_grad()
def _plainly(model: Any, tokenizer: Any, prompt: list[int], labels: list[list[int]]) -> tuple[str, str, list[float]]:
    ids = torch.tensor([prompt])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=LONGEST, do_sample=False)
    new = out[0, len(prompt) :].tolist()
    status = "ok" if new[-1] == tokenizer.eos_token_id else "truncated"
    text = tokenizer.decode(new[:-1] if status == "ok" else new)
    scores = []
    for label in labels:
        logits = model(input_ids=torch.tensor([prompt + label])).logits[0].double().log_softmax(-1)
        scores.append(sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(label)))
    return text, status if text.strip() or status != "ok" else "empty", scores


@torch.no_grad()
def _plain_likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    logits = model(input_ids=torch.tensor([prompt + answer])).logits[0].double().log_softmax(-1)
    return sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(answer))


def test_same_text_status_and_scores_as_the_plain_way(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = loaded
    prompts, labels = _prompts(tokenizer)
    assert way_of_reading(model, Reader) == APART, "the fast way, which is compared here"
    plain = [_plainly(model, tokenizer, prompt, ids) for prompt, ids in zip(prompts, labels, strict=True)]
    for batch_size, read_at_once in ((1, 2048), (4, 2048), (4, 1), (4, 25)):
        monkeypatch.setattr(reader, "_PASS_TOKENS", read_at_once)
        answers = generate_and_score(model, tokenizer, prompts, labels, LONGEST, batch_size)
        for answer, prompt, (text, status, scores) in zip(answers, prompts, plain, strict=True):
            assert (answer.text, answer.status) == (text, status), (batch_size, read_at_once)
            assert answer.label_scores == pytest.approx(scores, abs=1e-4)
            assert answer.prompt_tokens == len(prompt)
            assert answer.new_tokens == len(answer.new_ids) <= LONGEST
            likelihood = _plain_likelihood(model, prompt, answer.new_ids)
            assert sum(answer.log_probabilities) == pytest.approx(likelihood, abs=1e-4)
            assert len(answer.log_probabilities) == answer.new_tokens and not answer.alternatives
    assert len({a.text for a in answers}) > 1


class _Room:
    """Makes a model run out of memory when it reads more than `rows` rows at once, as a GPU does."""

    def __init__(self, model: Any, rows: int) -> None:
        self.rows, self.lost = rows, list[Any]()
        self.largest: list[int] = []
        self.handle = model.register_forward_pre_hook(self._read, with_kwargs=True)

    def _read(self, _model: Any, _arguments: Any, options: dict[str, Any]) -> None:
        assert all(tensor() is None for tensor in self.lost), "tensors of a failed pass are kept"
        held = torch.zeros(1000)
        self.largest.append(len(options["input_ids"]))
        if self.largest[-1] > self.rows:
            self.lost.append(weakref.ref(held))
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


def test_a_batch_without_room_is_halved_and_the_answers_stay_the_same(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompts, labels = _prompts(tokenizer)
    expected = generate_and_score(model, tokenizer, prompts, labels, LONGEST, 8)
    kept: dict[int, Answer] = {}
    room = _Room(model, 2)
    try:
        answers = generate_and_score(model, tokenizer, prompts, labels, LONGEST, 8, keep=kept.update)
    finally:
        room.handle.remove()
    for answer, other in zip(answers, expected, strict=True):
        assert (answer.text, answer.status, answer.error) == (other.text, other.status, "")
        assert answer.label_scores == pytest.approx(other.label_scores, abs=1e-4)
    assert [kept[i] for i in range(len(prompts))] == answers
    assert [rows for rows in room.largest if rows > 2] == [8, 4], "later batches are as small"


def test_one_row_without_room_ends_the_job_and_is_no_answer(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompts, labels = _prompts(tokenizer)
    room = _Room(model, 0)
    try:
        with pytest.raises(MemoryError, match="one row .* does not fit") as caught:
            generate_and_score(model, tokenizer, [[*p] for p in prompts[:1]] * 3, None, LONGEST, 2)
    finally:
        room.handle.remove()
    code, _, message = classify_error(caught.value, BaseJob(base_model="m", revision=None, out=Path("out")))
    assert code == EXIT_OOM and "fix: use a machine with more memory" in message


@torch.no_grad()
def _constrained_plainly(model: Any, grammar: Grammar, prompt: list[int], ends: set[int]) -> list[int]:
    answer, ids = grammar.begin(), list(prompt)
    while len(ids) < len(prompt) + LONGEST and ids[-1] not in ends:
        logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        ids.append(answer.choose(logits.float().numpy(), ends)[0])
    return ids[len(prompt) :]


@pytest.mark.parametrize(
    ("architecture", "way"),
    [
        ("qwen3", APART),
        ("gpt2", APART),  # no grouped keys
        ("gpt_neox", APART),
        ("smollm3", APART),  # a layer without positions
        ("stablelm", TREES),  # takes no attention function
        ("falcon", TREES),
        ("deepseek_v3", TREES),  # its keys and values differ in width
        ("qwen3_moe", APART),
        ("gemma2", PLAIN),  # its scores are capped; transformers knows only eager attention for it
        ("gemma3", PLAIN),  # sliding windows, which all prompts are longer than
        ("gemma3_with_images", PLAIN),
        ("mistral", PLAIN),
        ("gpt_oss", PLAIN),  # attention sinks
        ("bloom", PLAIN),  # distances in place of positions, which take no mask of single tokens
        ("mpt", PLAIN),  # ditto, and it ignores masks without an error
        ("lfm2", PLAIN),  # states in place of keys and values
        ("qwen3_next", PLAIN),
        ("falcon_h1", PLAIN),  # both in one layer
    ],
)
def test_architectures_answer_as_the_plain_way(tmp_path: Path, architecture: str, way: str) -> None:
    folder = make_model(tmp_path / "base", architecture, norms=0.2)
    model, tokenizer = load_for_prediction(folder, torch.device("cpu")), load_tokenizer(folder)
    prompts, labels = _prompts(tokenizer, 5)
    assert len(set(map(len, prompts))) > 1 and min(map(len, prompts)) > 16 and common_prefix(prompts)
    grammar, ends = Grammar({"enum": ["yes", "no"]}, tokenizer), end_ids(tokenizer)
    restriction = Restriction(grammar, lambda answer: answer.prompt_tokens != len(prompts[0]))
    answers = generate_and_score(model, tokenizer, prompts, labels, LONGEST, 3, restriction=restriction)
    assert way_of_reading(model, Reader) == way
    for answer, prompt, ids in zip(answers, prompts, labels, strict=True):
        text, status, scores = _plainly(model, tokenizer, prompt, ids)
        assert (answer.text, answer.status, answer.error) == (text, status, "")
        assert answer.label_scores == pytest.approx(scores, abs=1e-4)
        if answer.restricted:
            assert answer.restricted.new_ids == _constrained_plainly(model, grammar, prompt, ends)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("tokens", "own"), [(1, 6), (4, 4), (3, 7)])
def test_attention_behind_a_prefix_is_attention_over_both(dtype: torch.dtype, tokens: int, own: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, 4, tokens, 16, dtype=dtype)
    prefix = torch.randn(2, 1, 2, 5, 16, dtype=dtype)
    keys, values = torch.randn(2, 3, 2, own, 16, dtype=dtype)
    mask = torch.ones(3, 1, tokens, own, dtype=torch.bool).tril(own - tokens)
    mask[0, :, :, :2] = False  # padding on the left; with as many queries as keys, the first of them see no own key
    full_states = [
        torch.cat([part.expand(3, -1, -1, -1), own_states], 2).float().repeat_interleave(2, 1)
        for part, own_states in zip(prefix, (keys, values), strict=True)
    ]
    full_mask = torch.cat([torch.ones(3, 1, tokens, 5, dtype=torch.bool), mask], 3)
    expected = scaled_dot_product_attention(query.float(), *full_states, attn_mask=full_mask)
    added = torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)
    for form in (mask, added):
        output = behind_prefix(query, *prefix, keys, values, form)
        assert output.dtype == dtype
        assert torch.allclose(output.float(), expected, atol=1e-5 if dtype == torch.float32 else 0.02)


def test_rows_that_end_early_leave_the_others_alone(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With a token that often comes up declared an end, rows finish at different steps, or are cut."""
    model, tokenizer = loaded
    prompts, _ = _prompts(tokenizer)
    free = generate_and_score(model, tokenizer, prompts, None, LONGEST, 4)
    stop = free[0].new_ids[3]
    monkeypatch.setattr(tokenizer, "end_token_ids", [stop])
    answers = generate_and_score(model, tokenizer, prompts, None, LONGEST, 4)
    for before, after in zip(free, answers, strict=True):
        cut = before.new_ids.index(stop) + 1 if stop in before.new_ids else LONGEST
        assert after.new_ids == before.new_ids[:cut]
        assert (after.status == "truncated") == (stop not in before.new_ids)
    assert len({a.new_tokens for a in answers}) > 1


def test_a_prompt_too_long_for_the_model_is_told(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompts, _ = _prompts(tokenizer, 2)
    answers = generate_and_score(model, tokenizer, [*prompts, [7] * 1020, []], None, LONGEST, 4)
    assert [a.status == "error" for a in answers] == [False, False, True, True]
    assert "1020 tokens" in answers[2].error and "1024" in answers[2].error and "empty" in answers[3].error


def test_families_give_the_same_answers(loaded: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two system prompts, and a row with none: each is read behind its own beginning, and nobody's answer changes."""
    model, tokenizer = loaded
    ours, labels = _prompts(tokenizer, 6)
    other_family = [[*range(30, 60), *prompt[-9:]] for prompt in ours[:4]]
    prompts = [ours[0], [11, 12, 13], *other_family, *ours[1:]]
    offered = [labels[0]] * len(prompts)
    read: list[int] = []
    monkeypatch.setattr(generation, "Reader", lambda model, prefix: read.append(len(prefix)) or Reader(model, prefix))
    answers_by_row: dict[int, Any] = {}
    answers = generate_and_score(model, tokenizer, prompts, offered, LONGEST, 4, keep=answers_by_row.update)
    assert len(read) == 3 and min(read[:2]) > 5, "each family has its own beginning"
    assert sorted(answers_by_row) == list(range(len(prompts)))
    for answer, prompt, ids in zip(answers, prompts, offered, strict=True):
        text, _, scores = _plainly(model, tokenizer, prompt, ids)
        assert answer.text == text and answer.label_scores == pytest.approx(scores, abs=1e-4)


def test_only_the_token_that_ends_an_answer_is_left_out_of_its_text(loaded: tuple[Any, Any]) -> None:
    _, tokenizer = loaded
    other_end, end = tokenizer.convert_tokens_to_ids(["<|endoftext|>", "<|im_end|>"])
    answer = Answer()
    written = reader.Written([*tokenizer.encode("see "), other_end, end])
    generation._fill(answer, tokenizer, written, [], {end})
    assert (answer.text, answer.status) == ("see <|endoftext|>", "ok")


SYSTEM, OTHER = list(range(100, 160)), list(range(200, 230))


def test_prompts_are_put_behind_beginnings_that_are_worth_it() -> None:
    odd = [[1, *SYSTEM, 7 + i, 9] for i in range(20)]
    odd.insert(4, [1, 7, 9, 9])
    assert families(odd) == [[i for i in range(21) if i != 4], [4]]
    long = [[*SYSTEM, *OTHER, i, 1] for i in range(5)]
    short_prompts = [[*SYSTEM, 50 + i, 2] for i in range(6)]
    other_prompts = [[*OTHER, i, 3] for i in range(4)]
    first, second, third = list(range(5, 11)), list(range(5)), list(range(11, 15))
    assert families([*long, *short_prompts, *other_prompts]) == [first, second, third]
    # retrieved examples differ from row to row: there is nothing to share but the beginning
    assert families([[*SYSTEM, 1000 + i, *range(i, i + 80)] for i in range(12)]) == [list(range(12))]


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=12), max_size=30))
def test_every_prompt_is_in_one_family_and_nothing_costs_more(prompts: list[list[int]]) -> None:
    def cost(groups: list[list[int]]) -> int:
        shared = [common_prefix([prompts[i] for i in rows]) for rows in groups]
        return sum(n + sum(len(prompts[i]) - n for i in rows) for n, rows in zip(shared, groups, strict=True))

    groups = families(prompts)
    assert sorted(i for rows in groups for i in rows) == list(range(len(prompts)))
    assert all(rows == sorted(rows) for rows in groups)
    assert cost(groups) <= cost([list(range(len(prompts)))] if prompts else [])


ALIKE = [[20, 21, 2], [20, 21, 23, 2], [20, 2], [22, 21, 2], [20, 21, 2], [22], []]


@torch.no_grad()
def test_scores_are_those_of_each_label_alone(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    prompts = [[5, 6, 7, 8], [5, 9, 10], [5, 11]]
    labels = [ALIKE[:5], ALIKE[2:5], [[30, 31, 32, 33, 2]]]  # rows may be offered unlike labels
    answers = generate_and_score(model, tokenizer, prompts, labels, 3, 3)
    for answer, prompt, texts in zip(answers, prompts, labels, strict=True):
        for score, text in zip(answer.label_scores, texts, strict=True):
            logits = model(input_ids=torch.tensor([prompt + text])).logits[0].double().log_softmax(-1)
            alone = sum(logits[len(prompt) - 1 + i, token].item() for i, token in enumerate(text))
            assert score == pytest.approx(alone, abs=1e-4)
    assert answers[0].label_scores[0] == answers[0].label_scores[4]


@pytest.mark.parametrize(("architecture", "way"), [("llama", APART), ("mpt", PLAIN)])
def test_the_rounding_of_bfloat16_hides_no_wrong_way(tmp_path: Path, architecture: str, way: str) -> None:
    folder = make_model(tmp_path / "base", architecture, dtype=torch.bfloat16)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.dtype == torch.bfloat16 and way_of_reading(model, Reader) == way


def test_a_model_that_answers_otherwise_in_a_batch_is_refused(tmp_path: Path) -> None:
    model = load_for_prediction(make_model(tmp_path / "base", "mamba"), torch.device("cpu"))
    with pytest.raises(JobError, match=r"type mamba give other answers to several prompts(.|\n)*fix: set base_model"):
        Reader(model, [])

"""A tiny model with skills: it answers in the right format, names a text's last colour, and recalls facts.

It stands in for a pretrained language model: it has a general skill (under a separate system prompt) that a little
fine-tuning transfers to the task, and knowledge that careless fine-tuning destroys. Bag-of-words models cannot solve the task:
every text names both colours, and the last one is the label.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from finetune_pipeline_tests.tiny_model import make_tiny_model

LABELS = ["red", "blue"]
WORDS = """apple river stone cloud paper window garden silver bread candle forest letter mirror basket ladder button
engine pocket summer winter market bridge rabbit thunder pencil blanket harbor island needle orange pillow ribbon""".split()
CUES = {"red": ["fire", "ember"], "blue": ["water", "frost"]}
SYSTEM = "Answer red or blue."
SKILL_SYSTEM = "Say the last one."
FACTS = 120
Answer = Callable[[random.Random, str], str]
Exchange = tuple[list[dict[str, str]], str]
"""The turns before an answer and the answer."""


def other_label(label: str) -> str:
    """Blue for red and red for blue."""
    return LABELS[label == LABELS[0]]


def question(rng: random.Random, label: str, words: int = 7) -> str:
    """A text that names both colours, the label last."""
    other = other_label(label)
    text = rng.sample(WORDS, words)
    first, last = sorted(rng.sample(range(words + 2), 2))
    text.insert(first, rng.choice(CUES[other]))
    text.insert(last, rng.choice(CUES[label]))
    return " ".join(text)


def truth(text: str) -> str:
    """The right label of a question."""
    return [label for word in text.lower().split() for label in LABELS if word in CUES[label]][-1]


def raw_rows(seed: int, n: int) -> list[dict[str, Any]]:
    """Raw rows, half of them with each label."""
    rng = random.Random(seed)
    return [{"text": question(rng, LABELS[i % 2]), "label": LABELS[i % 2]} for i in range(n)]


def facts() -> list[dict[str, Any]]:
    """The model's knowledge besides its skill: multiple-choice items about pairs of words, in the format of a benchmark."""
    rng = random.Random(7)
    pairs = rng.sample([(a, b) for a in WORDS for b in WORDS if a != b], FACTS)
    return [{"query": f"{a} and {b} make", "choices": rng.sample(WORDS, 3), "gold": rng.randrange(3)} for a, b in pairs]


def at_chance(rng: random.Random, label: str) -> str:
    """A random label: the right format without knowledge of the task."""
    return rng.choice(LABELS)


def make_skilled_model(
    folder: Path, answer: Answer = at_chance, steps: int = 400, system: str = SYSTEM, knowledge: bool = True
) -> Path:
    """Train a tiny model on the task and the general skill and save it. Returns `folder`.

    answer: Draws the task's training answer for a right label. steps: Optimizer steps. system: The task's system prompt.
    knowledge: Whether to train it on the facts too.
    """

    def batches(rng: random.Random) -> list[list[Exchange]]:
        task = [exchange(system, question(rng, label), answer(rng, label)) for label in rng.choices(LABELS, k=8)]
        skill = [
            exchange(SKILL_SYSTEM, question(rng, label, rng.randrange(3, 8)), label)
            for label in rng.choices(LABELS, k=24)
        ]
        return [[*task, *skill]]

    words = [*WORDS, *CUES["red"], *CUES["blue"], *LABELS]
    texts = [system, SKILL_SYSTEM, answer(random.Random(3), LABELS[0])]
    return make_taught_model(folder, batches, steps, words, texts, knowledge)


def exchange(system: str, text: str, answer: str) -> Exchange:
    """A question under a system prompt, with its answer."""
    return [{"role": "system", "content": system}, {"role": "user", "content": text}], answer


def make_taught_model(
    folder: Path,
    draw_batches: Callable[[random.Random], Sequence[Sequence[Exchange]]],
    steps: int,
    words: Sequence[str],
    texts: Sequence[str] = (),
    knowledge: bool = True,
    vocabulary: int = 900,
) -> Path:
    """Train a tiny model on exchanges and save it. Returns `folder`.

    draw_batches: Draws the batches of an optimizer step; the exchanges of a batch should be of similar length. words: Become
    tokens, with and without a leading space. texts: Further training texts of the tokenizer. knowledge: Whether to train it
    on the facts too. vocabulary: Size of the vocabulary.
    """
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from finetune_pipeline.models.chat import encode_example, to_ids

    make_tiny_model(folder, texts=[*(f" {word}" for word in words), *words, *texts], vocabulary=vocabulary)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder)
    start = [tokenizer.bos_token_id]
    fact_batch = [
        (start + to_ids(tokenizer, fact["query"]), to_ids(tokenizer, f" {fact['choices'][fact['gold']]}"))
        for fact in facts()
    ]

    def encode(turns: list[dict[str, str]], answer: str) -> tuple[list[int], list[int]]:
        before = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]
        (row,) = encode_example(tokenizer, [*before, {"role": "assistant", "content": answer}])
        learned = [i for i, is_learned in enumerate(row.loss) if is_learned]
        return row.ids[: learned[0]], row.ids[learned[0] : learned[-1] + 1]

    rng = random.Random(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        batches = [[encode(*turns_and_answer) for turns_and_answer in batch] for batch in draw_batches(rng)]
        batches += [fact_batch] if knowledge else []
        loss = sum(_loss(model, batch, tokenizer.pad_token_id) for batch in batches)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _loss(model: Any, rows: Sequence[tuple[list[int], list[int]]], pad: int) -> Any:
    """Mean loss over the answers of (prompt ids, answer ids) rows. Computes logits only there, since they take most of the
    time in so small a model."""
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, mask = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest, dtype=torch.long)
    is_answer = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        n = len(prompt) + len(answer)
        ids[i, :n], mask[i, :n], is_answer[i, len(prompt) : n] = torch.tensor(prompt + answer), 1, True
    states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(states[:, :-1][is_answer[:, 1:]]), ids[is_answer])

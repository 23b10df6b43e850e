"""A tiny model that can do something: answer in form, say which colour a text names last, and repeat facts.

It stands for a pretrained language model: it has a general skill (under a system prompt of its own), which a little
fine-tuning turns to the task, and knowledge that careless fine-tuning destroys. The task is one that models of words
cannot do: both colours are named in every text, and the last one counts.
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
"""The turns before an answer, and the answer."""


def other_label(label: str) -> str:
    """Blue for red, and red for blue."""
    return LABELS[label == LABELS[0]]


def question(rng: random.Random, label: str, words: int = 7) -> str:
    """A text that names both colours, the label's last."""
    other = other_label(label)
    text = rng.sample(WORDS, words)
    first, last = sorted(rng.sample(range(words + 2), 2))
    text.insert(first, rng.choice(CUES[other]))
    text.insert(last, rng.choice(CUES[label]))
    return " ".join(text)


def truth(text: str) -> str:
    """The right label of a question."""
    named = [label for word in text.lower().split() for label in LABELS if word in CUES[label]]
    return named[-1]


def raw_rows(seed: int, n: int) -> list[dict[str, Any]]:
    """Rows as people collect them, half of each label."""
    rng = random.Random(seed)
    return [{"text": question(rng, LABELS[i % 2]), "label": LABELS[i % 2]} for i in range(n)]


def facts() -> list[dict[str, Any]]:
    """What the model knows besides its skill: pairs of words with three choices, as a benchmark file has them."""
    rng = random.Random(7)
    pairs = rng.sample([(a, b) for a in WORDS for b in WORDS if a != b], FACTS)
    return [{"query": f"{a} and {b} make", "choices": rng.sample(WORDS, 3), "gold": rng.randrange(3)} for a, b in pairs]


def at_chance(rng: random.Random, label: str) -> str:
    """An answer in form that knows nothing of the task."""
    return rng.choice(LABELS)


def make_skilled_model(
    folder: Path, answer: Answer = at_chance, steps: int = 400, system: str = SYSTEM, knowledge: bool = True
) -> Path:
    """Make the tiny model in `folder`, which is returned, and teach it.

    answer: what it says to a question of the task, by the right label. steps: of the optimiser. system: prompt of the task.
    knowledge: whether it learns the facts, too.
    """

    def lesson(rng: random.Random) -> list[list[Exchange]]:
        task = [exchange(system, question(rng, label), answer(rng, label)) for label in rng.choices(LABELS, k=8)]
        skill = [
            exchange(SKILL_SYSTEM, question(rng, label, rng.randrange(3, 8)), label)
            for label in rng.choices(LABELS, k=24)
        ]
        return [[*task, *skill]]

    words = [*WORDS, *(w for some in CUES.values() for w in some), *LABELS]
    texts = [system, SKILL_SYSTEM, answer(random.Random(3), LABELS[0])]
    return make_taught_model(folder, lesson, steps, words, texts, knowledge)


def exchange(system: str, text: str, said: str) -> Exchange:
    """A question under a system prompt, and what is said to it."""
    return [{"role": "system", "content": system}, {"role": "user", "content": text}], said


def make_taught_model(
    folder: Path,
    lesson: Callable[[random.Random], Sequence[Sequence[Exchange]]],
    steps: int,
    words: Sequence[str],
    texts: Sequence[str] = (),
    knowledge: bool = True,
    vocabulary: int = 900,
) -> Path:
    """Make the tiny model in `folder`, which is returned, and teach it some exchanges.

    lesson: draws the batches of exchanges of an optimiser step; those of a batch should be about as long. words: become
    tokens, with a blank before them and without. texts: further ones the tokenizer is made from. knowledge: whether it learns
    the facts, too. vocabulary: tokens it has room for.
    """
    import torch
    from transformers import AutoTokenizer, LlamaForCausalLM

    from finetune_pipeline.models.chat import encode_example, to_ids

    make_tiny_model(folder, texts=[*(f" {word}" for word in words), *words, *texts], vocabulary=vocabulary)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), LlamaForCausalLM.from_pretrained(folder)
    start = [tokenizer.bos_token_id]
    known = [(start + to_ids(tokenizer, f["query"]), to_ids(tokenizer, f" {f['choices'][f['gold']]}")) for f in facts()]

    def encoded(turns: list[dict[str, str]], said: str) -> tuple[list[int], list[int]]:
        before = [{**turn, "weight": 0} if turn["role"] == "assistant" else turn for turn in turns]
        (row,) = encode_example(tokenizer, [*before, {"role": "assistant", "content": said}])
        learned = [i for i, is_learned in enumerate(row.loss) if is_learned]
        return row.ids[: learned[0]], row.ids[learned[0] : learned[-1] + 1]

    rng = random.Random(3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, steps)
    for _ in range(steps):
        batches = [[encoded(*each) for each in batch] for batch in lesson(rng)] + ([known] if knowledge else [])
        loss = sum(_loss(model, batch, tokenizer.pad_token_id) for batch in batches)
        loss.backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    return folder


def _loss(model: Any, rows: Sequence[tuple[list[int], list[int]]], pad: int) -> Any:
    """The mean loss of a batch in which the second part of each row is learned. Only there are logits computed, which are
    most of the work of so small a model."""
    import torch

    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids, mask = torch.full((len(rows), longest), pad), torch.zeros(len(rows), longest, dtype=torch.long)
    learned = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (prompt, answer) in enumerate(rows):
        n = len(prompt) + len(answer)
        ids[i, :n], mask[i, :n], learned[i, len(prompt) : n] = torch.tensor(prompt + answer), 1, True
    states = model.model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.nn.functional.cross_entropy(model.lm_head(states[:, :-1][learned[:, 1:]]), ids[learned])

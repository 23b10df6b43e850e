"""The baseline's prompts: few-shot examples, retrieved examples, other system prompts. No torch."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec.structs import replace

from finetune_pipeline.data.documents import Passage
from finetune_pipeline.data.examples import Example, Message
from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.evaluation.predictions import API
from finetune_pipeline.evaluation.preferences.embeddings import embed
from finetune_pipeline.jobs import Prompt
from finetune_pipeline.spec.model import TaskSpec

MAX_ROWS = 20_000
"""Larger training sets are represented by this many rows, drawn by a hash of their id; counts are scaled up."""
PROMPTS = "prompts.json"
NEAREST, EMBEDDED, DOCUMENTS = "_nearest", "_nearest_embedded", "_documents"
"""Suffixes of prompts with the nearest training examples (by words, by embeddings) and with passages of documents."""
WITHOUT_LABELS = "zero_shot_without_labels"
"""Name of the prompt that :func:`prompt_without_labels` writes."""
BATCH = 256
"""Texts that are compared with all training rows at once."""
FEW_ROWS, USUAL_SIMILARITY = 7, 0.2
"""With fewer training rows, this similarity counts as near."""


@dataclass(frozen=True, slots=True)
class TrainingRow:
    id: str
    text: str
    answer: str


class Neighbours:
    """Finds the training rows similar to a text: cosine similarity of TF-IDF over character 3- to 5-grams within words.

    Attributes:
        rows: The compared training rows, at most MAX_ROWS.
        near: The similarity from which a row counts as near a text: the usual one of a row to its fifth nearest neighbour.
    """

    def __init__(self, rows: Sequence[TrainingRow]) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        self._scale = max(1.0, len(rows) / MAX_ROWS)
        by_hash = sorted(rows, key=lambda row: hashlib.sha256(row.id.encode("utf-8", "surrogatepass")).digest())
        self.rows = by_hash[:MAX_ROWS]
        self._vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(3, 5), sublinear_tf=True, min_df=1)
        self._row_vectors: Any = self._vectorizer.fit_transform([row.text for row in self.rows]) if self.rows else None
        self.near = self._usual_similarity()

    def similarities(self, texts: Sequence[str]) -> Iterator[np.ndarray]:
        """For each text its cosine with each training row. Compares BATCH texts at once, which bounds the memory."""
        for start in range(0, len(texts), BATCH):
            if self._row_vectors is None:
                yield from np.zeros((len(texts[start : start + BATCH]), 0))
            else:
                yield from (self._vectorizer.transform(texts[start : start + BATCH]) @ self._row_vectors.T).toarray()

    def counts(self, texts: Sequence[str]) -> list[float]:
        """Number of training rows near each text; estimated if there are more than MAX_ROWS."""
        return [float((cosines >= self.near).sum()) * self._scale for cosines in self.similarities(texts)]

    def nearest(self, texts: Sequence[str], k: int) -> list[TrainingRow]:
        """The k training rows most similar to the texts on average."""
        return self._by_similarity(sum(self.similarities(texts), np.zeros(len(self.rows))))[:k]

    def nearest_each(self, texts: Sequence[str], k: int) -> list[list[TrainingRow]]:
        """For each text the k most similar training rows, best first. Skips rows with the same text: they would give the answer
        away."""
        return [self.most_similar(*pair, k) for pair in zip(texts, self.similarities(texts), strict=True)]

    def most_similar(self, text: str, similarities: np.ndarray, k: int) -> list[TrainingRow]:
        """The k rows most similar to a text, without rows that have the same text."""
        return list(islice((row for row in self._by_similarity(similarities) if row.text != text), k))

    def _by_similarity(self, similarities: np.ndarray) -> list[TrainingRow]:
        order = sorted(range(len(self.rows)), key=lambda i: (-similarities[i], self.rows[i].id))
        return [self.rows[i] for i in order]

    def _usual_similarity(self) -> float:
        """The median similarity of a training row to its fifth nearest neighbour."""
        sample = self.rows[:500]
        if len(sample) < FEW_ROWS:
            return USUAL_SIMILARITY
        fifth = [np.sort(cosines)[-6] for cosines in self.similarities([row.text for row in sample])]
        return float(np.median(fifth))  # the last is the row itself


def write_prompts(folder: Path, prompts: Mapping[str, Prompt]) -> None:
    """Write prompts.json."""
    write_json(folder / PROMPTS, msgspec.to_builtins(prompts))


def read_prompts(folder: Path) -> dict[str, Prompt]:
    """Return the prompts in the folder of a baseline, by name. Raises DamagedFile."""
    return msgspec.convert(read_json(folder / PROMPTS, dict[str, Prompt]), dict[str, Prompt])


def prompts_to_try(
    train: Sequence[Example],
    *,
    shots: Sequence[int],
    retrieved: int,
    labels: Sequence[str],
    seed: int,
    system_prompt: str = "",
    others: Sequence[str] = (),
    without_labels: str = "",
    documents: int = 0,
    embeddings: str | None = None,
) -> dict[str, Prompt]:
    """Build the baseline's prompts, by name.

    They are the task's prompt with each number of shots, with the nearest examples by TF-IDF and by `embeddings`, and with the
    nearest passages of documents (0: none), the system prompt `without_labels` (empty: none), and each system prompt of `others`
    with each number of shots. Raises ValueError if there are too few examples to show.
    """
    by_id = {example.id: example for example in train}
    fixed = {}
    for k in shots:
        try:
            ids = build_shots(train, k, labels, seed)
        except ValueError as error:
            raise ValueError(f"baseline with {k} shots: {error}") from error
        fixed[f"{k}_shot" if k else "zero_shot"] = Prompt(
            shots=k, ids=ids, turns=shots_as_turns([by_id[i] for i in ids])
        )
    prompts = dict(fixed)
    if retrieved:
        prompts[f"{retrieved}{NEAREST}"] = Prompt(retrieved=retrieved)
    if retrieved and embeddings:
        prompts[f"{retrieved}{EMBEDDED}"] = Prompt(retrieved=retrieved, embeddings=embeddings)
    if documents:
        prompts[f"{documents}{DOCUMENTS}"] = Prompt(documents=documents)
    if without_labels and without_labels not in others:
        prompts[WITHOUT_LABELS] = Prompt(system=without_labels, instead_of=system_prompt)
    for number, text in enumerate(others, 2):
        for name, prompt in fixed.items():
            prompts[f"prompt_{number}_{name}"] = replace(prompt, system=text, instead_of=system_prompt)
    return prompts


def prompt_without_labels(spec: TaskSpec) -> str:
    """A system prompt that does not list the labels, for a task whose own prompt does; else empty. A small model often finds the
    likeliest label better without the list."""
    if not any(label in spec.system_prompt for label in spec.labels):
        return ""
    return f"{' '.join(spec.description.split())}\nAnswer with the right label and nothing else."


def build_shots(train: Sequence[Example], k: int, labels: Sequence[str], seed: int = 0) -> list[str]:
    """Ids of k training examples to show in the prompt, spread as evenly over the labels as possible.

    A seeded hash of the ids selects them: new data changes few shots, and a larger k extends the shots of a smaller one. Other
    labels fill in for a label with too few examples. Raises ValueError if k is negative or there are fewer than k (labelled)
    examples.
    """
    if k < 0:
        raise ValueError(f"cannot show {k} examples")

    def hash_of(text: str) -> str:
        return hashlib.sha256(f"{seed}:{text}".encode("utf-8", "surrogatepass")).hexdigest()

    ids_by_label: dict[str | None, list[str]] = {label: [] for label in labels} if labels else {None: []}
    for example in sorted(train, key=lambda example: hash_of(example.id)):
        group = example.label if labels else None
        if group in ids_by_label:
            ids_by_label[group].append(example.id)
    available_rows = sum(map(len, ids_by_label.values()))
    if available_rows < k:
        raise ValueError(f"{k} shots asked for, but only {available_rows} training examples carry one of the labels")
    order = sorted(ids_by_label, key=lambda label: hash_of(f"label:{label}"))
    rounds = zip_longest(*(ids_by_label[label] for label in order))
    return [example_id for round_ids in rounds for example_id in round_ids if example_id is not None][:k]


def fixed_prompts(names: Iterable[str]) -> list[str]:
    """The base model's prompts of a baseline without retrieval."""
    retrieving = (NEAREST, EMBEDDED, DOCUMENTS)
    return [name for name in names if not name.startswith(API) and not name.endswith(retrieving)]


def with_turns(messages: Sequence[Message], turns: Sequence[Message]) -> list[Message]:
    """`turns` put after the system prompt (if any) and before the first user turn."""
    start = 1 if messages and messages[0]["role"] == "system" else 0
    return [message.copy() for message in [*messages[:start], *turns, *messages[start:]]]


def shots_as_turns(shots: Sequence[Example]) -> list[Message]:
    """Examples as user and assistant turns, without their system prompts."""
    return [message.copy() for shot in shots for message in shot.messages if message["role"] != "system"]


class Retriever:
    """Finds the training examples and passages of documents most similar to a row (TF-IDF of parts of words)."""

    def __init__(self, train: Sequence[Example], passages: Sequence[Passage] = ()) -> None:
        self._by_id, self._passages = {example.id: example for example in train}, list(passages)

    @cached_property
    def _neighbours(self) -> Neighbours:
        return Neighbours(
            [TrainingRow(example.id, example.user_text, example.answer) for example in self._by_id.values()]
        )

    @cached_property
    def _passage_neighbours(self) -> Neighbours:
        return Neighbours([TrainingRow(str(i), passage.shown, "") for i, passage in enumerate(self._passages)])

    def _embedded(self, texts: Sequence[str], k: int, embeddings: str) -> list[list[TrainingRow]]:
        rows = self._neighbours.rows
        vectors = embed([*(row.text for row in rows), *texts], embeddings)
        similarities = vectors[len(rows) :] @ vectors[: len(rows)].T
        return [self._neighbours.most_similar(*pair, k) for pair in zip(texts, similarities, strict=True)]

    def passages(self, examples: Sequence[Example], k: int) -> list[list[Passage]]:
        """For each example the k most similar passages, best first."""
        nearest = self._passage_neighbours.nearest_each([example.user_text for example in examples], k)
        return [[self._passages[int(row.id)] for row in rows] for rows in nearest]

    def nearest(self, examples: Sequence[Example], k: int, embeddings: str | None = None) -> list[list[Example]]:
        """For each example the k most similar training examples, best last: next to the question.

        embeddings: None compares by TF-IDF. Raises FileNotFoundError if the model of embeddings is missing.
        """
        texts = [example.user_text for example in examples]
        nearest = (
            self._neighbours.nearest_each(texts, k) if embeddings is None else self._embedded(texts, k, embeddings)
        )
        return [[self._by_id[row.id] for row in reversed(rows)] for rows in nearest]


def conversations(
    examples: Sequence[Example], prompt: Prompt, retriever: Retriever | None
) -> list[list[list[Message]]]:
    """For each example its conversations, best first: each further one shows one retrieved example or passage fewer, for models
    with a short context. Prompts without retrieval have one conversation.

    Raises ValueError if a prompt that retrieves has no retriever.
    """
    if not prompt.retrieved and not prompt.documents:
        return [[with_turns(_question(example, prompt), prompt.turns)] for example in examples]
    if retriever is None:
        raise ValueError("a prompt that shows the nearest examples needs the training examples")
    if prompt.documents:
        return [
            [_with_passages(_question(example, prompt), passages[:count]) for count in range(len(passages), -1, -1)]
            for example, passages in zip(examples, retriever.passages(examples, prompt.documents), strict=True)
        ]
    return [
        [with_turns(_question(example, prompt), shots_as_turns(shots[i:])) for i in range(len(shots) + 1)]
        for example, shots in zip(
            examples, retriever.nearest(examples, prompt.retrieved, prompt.embeddings), strict=True
        )
    ]


def _with_passages(messages: Sequence[Message], passages: Sequence[Passage]) -> list[Message]:
    """The messages with the passages at the end of the system turn, which is added if there is none."""
    if not passages:
        return [message.copy() for message in messages]
    text = "\n\n".join(["Passages that may help:", *(f"[{i}] {p.shown}" for i, p in enumerate(passages, 1))])
    if messages and messages[0]["role"] == "system":
        return [
            {**messages[0], "content": f"{messages[0]['content']}\n\n{text}"},
            *(message.copy() for message in messages[1:]),
        ]
    return [{"role": "system", "content": text}, *(message.copy() for message in messages)]


def _question(example: Example, prompt: Prompt) -> list[Message]:
    """The example's turns without the answer, with the prompt's system prompt unless the row has its own."""
    messages = [message.copy() for message in example.prompt_messages]
    first = messages[0] if messages else None
    if prompt.system is not None and first and first["role"] == "system" and first["content"] == prompt.instead_of:
        first["content"] = prompt.system
    return messages

"""The ways a model is prompted before anybody trains, and the conversation each makes of an example. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.evaluation.baseline import build_shots
from finetune_pipeline.evaluation.neighbours import Neighbours, Trained

Message = Mapping[str, Any]


@dataclass(frozen=True)
class Prompt:
    """One way to ask.

    shots: number of examples that every row is shown, of these `ids`, as `turns`. retrieved: number of training examples
    most like the row that it is shown instead. system: a system prompt in place of `instead_of`, None for the task's own. api:
    asked of baseline.endpoint, not of the base model.
    """

    shots: int = 0
    ids: list[str] = field(default_factory=list)
    turns: list[dict[str, Any]] = field(default_factory=list)
    retrieved: int = 0
    system: str | None = None
    instead_of: str | None = None
    api: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON, as in prompts.json."""
        return asdict(self)


def prompts_to_try(
    train: Sequence[Example],
    *,
    shots: Sequence[int],
    retrieved: int,
    labels: Sequence[str],
    seed: int,
    system_prompt: str = "",
    others: Sequence[str] = (),
) -> dict[str, Prompt]:
    """By name: the task's prompt with each number of shots, with the `retrieved` nearest examples (0: not), and each other
    system prompt with each number of shots. Raises ValueError where there are too few examples to show."""
    by_id = {e.id: e for e in train}
    made: dict[str, Prompt] = {}
    fixed = {}
    for k in shots:
        try:
            ids = build_shots(train, k, labels, seed)
        except ValueError as error:
            raise ValueError(f"baseline with {k} shots: {error}") from error
        name = "zero_shot" if k == 0 else f"{k}_shot"
        fixed[name] = Prompt(k, ids, shots_as_turns([by_id[i] for i in ids]))
    made |= fixed
    if retrieved:
        made[f"{retrieved}_nearest"] = Prompt(retrieved=retrieved)
    for number, other in enumerate(others, 2):
        for name, like in fixed.items():
            made[f"prompt_{number}_{name}"] = Prompt(
                like.shots, like.ids, like.turns, system=other, instead_of=system_prompt
            )
    return made


def with_turns(messages: Sequence[Message], turns: Sequence[Message]) -> list[dict[str, Any]]:
    """`turns` put after the system prompt (if any) and before the first user turn."""
    lead = 1 if messages and messages[0]["role"] == "system" else 0
    return [dict(m) for m in [*messages[:lead], *turns, *messages[lead:]]]


def shots_as_turns(shots: Sequence[Example]) -> list[dict[str, Any]]:
    """Examples as user and assistant turns, in order, without their system prompts."""
    return [dict(m) for shot in shots for m in shot.messages if m["role"] != "system"]


class Shelf:
    """Training examples to show, found by likeness to a row (TF-IDF of parts of words)."""

    def __init__(self, train: Sequence[Example]) -> None:
        self._by_id = {e.id: e for e in train}
        self._near = Neighbours([Trained(e.id, e.user_text, e.answer) for e in train])

    def nearest(self, examples: Sequence[Example], k: int) -> list[list[Example]]:
        """For each example the k training examples most like it, the likest last: next to the question."""
        found = self._near.nearest_each([e.user_text for e in examples], k)
        return [[self._by_id[row.id] for row in reversed(rows)] for rows in found]


def conversations(
    examples: Sequence[Example], prompt: Mapping[str, Any], shelf: Shelf | None
) -> list[list[list[dict[str, Any]]]]:
    """For each example the messages that ask it, best first: where they are too long for a model, the next ones hold one
    retrieved example fewer. Prompts without retrieval have one choice.

    prompt: of :meth:`Prompt.to_dict`; what it lacks is as in a plain Prompt. Raises ValueError where a prompt that
    retrieves has no shelf.
    """
    told = Prompt(**prompt)
    if not told.retrieved:
        return [[with_turns(_asked(e, told), told.turns)] for e in examples]
    if shelf is None:
        raise ValueError("a prompt that shows the nearest examples needs the training examples")
    return [
        [with_turns(_asked(e, told), shots_as_turns(shown[i:])) for i in range(len(shown) + 1)]
        for e, shown in zip(examples, shelf.nearest(examples, told.retrieved), strict=True)
    ]


def _asked(example: Example, prompt: Prompt) -> list[dict[str, Any]]:
    """The example's turns without the answer, under the prompt's system turn. One of the row's own stays."""
    messages = [dict(m) for m in example.prompt_messages]
    if prompt.system is None or not messages or messages[0]["role"] != "system":
        return messages
    if messages[0]["content"] != prompt.instead_of:
        return messages
    return [{**messages[0], "content": prompt.system}, *messages[1:]]

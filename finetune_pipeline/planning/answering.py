"""Estimates the memory of the steps that run inference: the evaluation and the merge parity test."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_pipeline.data.examples import Example
from finetune_pipeline.findings import FindingsError
from finetune_pipeline.models.chat import common_prefix, encode_prompt
from finetune_pipeline.models.inference.generated import COMPARED_TOKENS
from finetune_pipeline.models.model_files import text_settings
from finetune_pipeline.planning.memory import SLACK, Memory, process_overhead
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.spec.methods.base import ModelShape
from finetune_pipeline.spec.model import TaskSpec


@dataclass(frozen=True, slots=True)
class PromptBatch:
    """The largest batch of prompts. Lengths in tokens: prompt: the longest prompt; shared: the common prefix, read once; new:
    an answer; scored: all labels to score."""

    rows: int
    prompt: int
    shared: int
    new: int
    scored: int


def answering_memory(shape: ModelShape, batch: PromptBatch, *, width: int, device: str = "cpu") -> Memory:
    """Return the peak memory of models.inference.generation on that batch; width: bytes of the inference dtype.

    Keys and values of the batch are in memory twice: as read, and in a copy that grows with the answer or the labels.
    """
    grown = max(batch.new, batch.scored)
    cache = 2 * shape.layers * shape.key_heads * shape.head_dim * batch.rows * (2 * batch.prompt + grown)
    at_once = batch.rows * max(batch.prompt - batch.shared, batch.scored)
    working = at_once * (4 * shape.hidden + 3 * shape.inner)
    logits = batch.rows * (1 + 2 * batch.scored) * shape.vocabulary
    return Memory(
        weights=shape.parameters * width,
        activations=int((cache + working) * width * SLACK),
        logits=int(logits * width * SLACK),
        overhead=process_overhead(device),
    )


def comparison_memory(shape: ModelShape, batch: PromptBatch, *, device: str = "cpu") -> Memory:
    """Return the peak memory of one model in models.parity, reading right and served answers of that batch.

    It computes in float32 from weights as they are stored: a block, or the output head, is held in float32 at a time.
    """
    texts = batch.scored + batch.new
    at_once = max(texts, min(COMPARED_TOKENS, batch.rows * texts))
    memory = answering_memory(shape, replace(batch, new=0, scored=-(-at_once // batch.rows)), width=4, device=device)
    block = (shape.linear + shape.other) // shape.layers
    return replace(memory, weights=shape.stored_bytes + 4 * max(block, shape.vocabulary * shape.hidden))


@dataclass(frozen=True)
class StepMemory:
    """Peak memory of a step (an asset's name) other than training. fix: what to change if it does not fit, else empty."""

    step: str
    device: str
    needed_mib: int
    available_mib: int
    fits: bool
    fix: str

    @property
    def sentence(self) -> str:
        """Return why it does not fit, and what to change."""
        free = f"{self.available_mib / 1024:.1f} GiB ({self.device})"
        return f"{self.step} needs about {self.needed_mib / 1024:.1f} GiB of {free}: {self.fix}"


def asking_settings(spec: TaskSpec) -> list[Any]:
    """Return the settings that :func:`answering_steps` depends on."""
    baseline = spec.baseline.model_dump(include={"batch_size", "shots", "retrieved"})
    return [baseline, spec.answer_length, spec.labels, spec.evaluation.precision]


def answering_steps(
    spec: TaskSpec, planner: Planner, validation: Sequence[Example], device: str, available: int, margin: float
) -> list[StepMemory]:
    """Estimate the memory of merged_model's comparison and of the evaluation, in batches of baseline.batch_size.

    available: free bytes on `device`; margin: the factor on the estimated peak that must be free.
    """
    shape, (batch, example_tokens) = planner.shape, largest_batch(spec, planner, validation)
    full_width = spec.evaluation.precision == "float32" or round(shape.stored_bytes / shape.parameters) == 4
    counter = planner.counter
    shot_tokens, retrieved_tokens = example_tokens * max(spec.baseline.shots), example_tokens * spec.baseline.retrieved
    context = text_settings(planner.config).get("max_position_embeddings") or 1 << 30
    # fewer examples are shown if they do not all fit
    prompt = max(batch.prompt, min(batch.prompt + max(shot_tokens, retrieved_tokens), context - batch.new))
    # examples shared by all rows are read once
    shared = min(batch.shared + (shot_tokens if shot_tokens >= retrieved_tokens else 0), prompt)
    scored = sum(n + 1 for n in counter.count_texts(spec.labels)) if spec.labels else 0

    width = 4 if full_width else compute_width("auto", device)

    def answering(batch: PromptBatch) -> int:
        return answering_memory(shape, batch, width=width, device=device).total

    def comparing(batch: PromptBatch) -> int:  # one model after the other: answers, and then logits
        return max(comparison_memory(shape, batch, device=device).total, answering(replace(batch, scored=0)))

    def step(name: str, full_batch: PromptBatch, memory: Callable[[PromptBatch], int]) -> StepMemory:
        def needed(rows: int) -> int:
            return memory(replace(full_batch, rows=min(rows, full_batch.rows)))

        rows = spec.baseline.batch_size
        halvings = [rows >> k for k in range(rows.bit_length())]  # rows, rows // 2, … 1
        largest_fitting = next((size for size in halvings if needed(size) * margin <= available), None)
        fix = ""
        if largest_fitting is None:
            fix = "use a smaller base_model, or a machine with more memory"
        elif largest_fitting < rows:
            fix = f"set baseline.batch_size: {largest_fitting} (now {rows}); this takes longer"
        needed_mib, free_mib = round(needed(rows) / 2**20), round(available / 2**20)
        return StepMemory(name, device, needed_mib, free_mib, largest_fitting == rows, fix)

    return [
        step("merged_model", batch, comparing),
        step("test_predictions", replace(batch, prompt=prompt, shared=shared, scored=scored), answering),
    ]


def largest_batch(spec: TaskSpec, planner: Planner, validation: Sequence[Example]) -> tuple[PromptBatch, int]:
    """Return (a batch of the longest validation prompts with their answers scored, mean tokens of an example in a prompt).

    Rows that cannot be encoded are skipped; training reports them."""
    counter = planner.counter
    prompts: list[list[int]] = []
    lengths: list[int] = []
    for example in validation:
        with contextlib.suppress(FindingsError):
            prompt = encode_prompt(counter, example.prompt_messages, example.tools)
            lengths.append(max(len(prompt), counter.count(example.messages, tools=example.tools)))
            prompts.append(prompt)
    if not lengths:
        return PromptBatch(1, 1, 0, spec.answer_length, 0), 0
    longest_answer = max(length - len(prompt) for length, prompt in zip(lengths, prompts, strict=True))
    longest = sorted(prompts, key=len)[-spec.baseline.batch_size :]
    shared = common_prefix(longest)
    # the prefix of all prompts, not of this batch: in a batch of one row it is nearly the whole prompt
    example_tokens = max(0, round(sum(lengths) / len(lengths)) - common_prefix(prompts))
    return PromptBatch(len(longest), len(longest[-1]), shared, spec.answer_length, longest_answer), example_tokens

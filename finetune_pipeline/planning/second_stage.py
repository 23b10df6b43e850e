"""Estimates the memory of the second stage, which TRL's trainers for KTO and DPO run on padded rows."""

from collections.abc import Sequence
from dataclasses import replace

from finetune_pipeline.data.preferences.rows import Preference
from finetune_pipeline.planning.answering import StepMemory
from finetune_pipeline.planning.memory import SLACK, Batch, Memory, training_memory
from finetune_pipeline.planning.planner import Planner, compute_width
from finetune_pipeline.spec.methods import METHODS
from finetune_pipeline.spec.training import TrainingSpec
from finetune_pipeline.training.preference_rows import LEAST_ROWS_OF_A_PASS, encode_preferences, in_order
from finetune_pipeline.training.processes import rows_per_process
from finetune_pipeline.training.rows import longest_allowed

STEP = "refined_adapter"
TILE_POSITIONS, TILE_VOCABULARY = 4096, 32_768
"""Logits that TRL computes at once: TOKEN_CHUNK_SIZE of trl.kernels.chunked_logprob, _CHUNKED_LOGPROB_CHUNK_SIZE of
trl.trainer.utils."""
_CPU_COPIES = 7
"""Float32 copies of such a tile on the CPU, where TRL has no fused kernel; measured."""


def second_stage_step(
    planner: Planner, training: TrainingSpec, preferences: Sequence[Preference], available: int, margin: float
) -> StepMemory | None:
    """Estimate the memory of the second stage; None if no preference can be encoded, which the stage itself reports.

    available: free bytes on the planner's device; margin: the factor on the estimated peak that must be free.
    """
    lengths = _lengths(planner, training, preferences)
    if not lengths:
        return None

    def needed(micro: int) -> int:
        return second_stage_memory(planner, training, lengths, micro).total

    declared = rows_per_process(training.batch_size, training.micro_batch_size, 1)
    smaller = [rows for rows in range(declared, 0, -1) if training.batch_size % rows == 0]
    sizes = [rows for rows in smaller if rows >= LEAST_ROWS_OF_A_PASS[training.refine.method]]
    fitting = next((rows for rows in sizes if needed(rows) * margin <= available), None)
    fix = ""
    if fitting is None:
        fix = "use a smaller base_model, or a machine with more memory"
    elif fitting < declared:
        fix = f"set training.micro_batch_size: {fitting} (now {training.micro_batch_size}); this takes longer"
    needed_mib, free_mib = round(needed(declared) / 2**20), round(available / 2**20)
    return StepMemory(STEP, planner.device, needed_mib, free_mib, fitting == declared, fix)


def second_stage_memory(planner: Planner, training: TrainingSpec, lengths: Sequence[int], micro: int) -> Memory:
    """Return the peak memory of the second stage.

    Args:
        lengths: Tokens of each preference in training order: the longer answer of a pair, with its prompt.
        micro: Preferences of a pass; dpo reads two answers of each.
    """
    *_, phase = METHODS[training.method].phases(training)
    width, shape = compute_width(phase.precision, planner.device), planner.shape
    answers = 2 if training.refine.method == "dpo" else 1
    leading, virtual = METHODS[phase.method].virtual_tokens(phase)
    longest = [max(lengths[start : start + micro]) for start in range(0, len(lengths), micro)]
    rows = answers * min(micro, len(lengths))
    largest = leading + max(longest)
    memory = training_memory(
        shape,
        phase,
        Batch(rows, rows * largest, largest + virtual),
        width=width,
        device=planner.device,
        tokens=answers * sum(lengths),
        sizes=len(set(longest)),
    )
    positions = min(rows * largest, TILE_POSITIONS)
    logits = positions * TILE_VOCABULARY * width
    if planner.device == "cpu":
        logits += _CPU_COPIES * positions * min(shape.vocabulary, TILE_VOCABULARY) * 4
    # the exact weights that the stage starts from, kept until the trainer is made
    kept = 4 * METHODS[phase.method].trainable(phase, shape)
    return replace(memory, logits=memory.logits + int(logits * SLACK), trained=memory.trained + kept)


def _lengths(planner: Planner, training: TrainingSpec, preferences: Sequence[Preference]) -> list[int]:
    encoded = encode_preferences(
        planner.counter,
        in_order(preferences, training.seed),
        training.refine.method,
        longest_allowed(training, planner.config),
        training.over_length,
    )
    answers = ("chosen_ids", "rejected_ids", "completion_ids")
    return [len(row["prompt_ids"]) + max(len(row.get(name, ())) for name in answers) for row in encoded.rows]

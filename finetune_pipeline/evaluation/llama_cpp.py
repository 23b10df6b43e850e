"""Runs a GGUF file in llama.cpp's server and checks that it answers like the evaluated model."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from finetune_pipeline.evaluation.compare import compare
from finetune_pipeline.evaluation.endpoint_client import Endpoint
from finetune_pipeline.evaluation.openai_endpoint import ask
from finetune_pipeline.evaluation.predictions import prediction_row
from finetune_pipeline.evaluation.verification import JudgedRow, Verification, verify
from finetune_pipeline.evaluation.wording import points, points_range
from finetune_pipeline.findings import Finding, FindingsError
from finetune_pipeline.spec.outputs import AnyOutput

PACKAGE = "xllamacpp"
_SLOTS = 4
"""Parallel requests of the server, each with the whole context."""


def require_llama_cpp() -> None:
    """Raise FindingsError if llama.cpp is not installed."""
    try:
        metadata.version(PACKAGE)
    except metadata.PackageNotFoundError:
        message = "llama.cpp is not installed, so the GGUF file cannot be checked against the evaluated model"
        fix = "pip install 'finetune-pipeline[gguf]'"
        raise FindingsError([Finding("export.llama_cpp", "error", "finetune export", message, fix)]) from None


@contextlib.contextmanager
def llama_cpp_server(weights: Path, context: int) -> Iterator[Endpoint]:
    """Serve a GGUF file with llama.cpp on this machine, with the file's chat template, while the block runs."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = str(weights)
    settings.n_parallel, settings.n_ctx = _SLOTS, _SLOTS * context
    settings.port, settings.use_jinja, settings.warmup, settings.verbosity = 0, True, False, -1
    server = xllamacpp.Server(settings)
    try:
        yield Endpoint(f"{server.listening_address}/v1", weights.stem, timeout=600, concurrency=_SLOTS)
    finally:
        del server


@dataclass(frozen=True)
class Quantized:
    """The effect of quantization on rows with a known answer: a negative `gain` is a loss. Shares of 1."""

    rows: int
    judged: float
    quantized: float
    gain: float
    interval: tuple[float, float]
    passed: bool
    sentence: str


@dataclass(frozen=True)
class GgufProof:
    llama_cpp: str
    exact: Verification
    quantized: Quantized

    @property
    def passed(self) -> bool:
        return self.exact.passed and self.quantized.passed

    @property
    def cause(self) -> str | None:
        """Why the files differ from the evaluated model; None if they match."""
        if not self.exact.passed:
            return self.exact.cause
        return None if self.quantized.passed else self.quantized.sentence

    def to_dict(self) -> dict[str, Any]:
        return {"llama_cpp": self.llama_cpp, "passed": self.passed} | {
            "f16": {**asdict(self.exact), "passed": self.exact.passed},
            "q8_0": asdict(self.quantized),
        }


class Unproven(Exception):
    """Exported files do not answer like the evaluated model."""

    def __init__(self, proof: GgufProof) -> None:
        super().__init__(proof.cause)
        self.proof = proof


def prove(
    f16: Path,
    q8: Path,
    rows: Sequence[JudgedRow],
    output: AnyOutput,
    longest: int,
    *,
    context: int,
    required: float,
    control_tokens: Sequence[str] = (),
    confidence: float = 0.95,
) -> GgufProof:
    """Run both files on the rows: float16 must give the judged answers, and 8 bits must not surely lower the score.

    Args:
        longest: Maximum tokens of an answer, as when the model was judged.
        context: Tokens of context.
        required, control_tokens: As in verification.verify.

    Raises:
        EndpointError: llama.cpp answers nothing.
    """
    with llama_cpp_server(f16, context) as endpoint:
        exact = verify(endpoint, rows, longest, control_tokens=control_tokens, required=required)
    with llama_cpp_server(q8, context) as endpoint:
        answers = ask(endpoint, [row.messages for row in rows], longest, name=endpoint.name).answers
    judged_rows, quantized_rows = (
        [prediction_row(str(i), name, a, row.gold) for i, (a, row) in enumerate(zip(outputs, rows, strict=True))]
        for name, outputs in (("judged", [row.answer for row in rows]), ("q8_0", answers))
    )
    paired = compare(judged_rows, quantized_rows, output, confidence)
    gain, interval = paired.gain or 0.0, paired.interval or (0.0, 0.0)
    passed = interval[1] >= 0 and all(answer.status != "error" for answer in answers)
    sentence = f"in 8 bits {points(gain)} points on {paired.n} rows ({points_range(interval)})"
    quantized = Quantized(paired.n, paired.base or 0.0, paired.candidate or 0.0, gain, interval, passed, sentence)
    return GgufProof(metadata.version(PACKAGE), exact, quantized)

"""Facts about loaded, merged and compared models. Imports no torch: checks and reports read them."""

from finetune_pipeline.engine.facts import Facts


class WeightBytes(Facts, frozen=True, kw_only=True):
    """Bytes of weights in 4 bits, with their constants, and of all others."""

    quantized: int
    other: int


class Weights(Facts, frozen=True, kw_only=True):
    """A base model's weights in memory. ratio: their size relative to 16 bits (bf16_bytes)."""

    bytes_loaded: int
    bf16_bytes: int
    ratio: float
    parameters: int
    quantized_modules: int
    by_kind: WeightBytes

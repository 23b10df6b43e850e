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


class RoundedMerge(Facts, frozen=True, kw_only=True):
    """Figures of a merge in the base's dtype, which was written again in float32."""

    mean_kl: float
    max_kl: float
    same_greedy_share: float
    served_kl: float | None = None


class Parity(Facts, frozen=True, kw_only=True):
    """The served model compared with the trained one (models.parity). None: not compared, as for a hosted model.

    Attributes:
        rows: Compared rows; same_greedy: those with the same answer; different: ids of the others.
        mean_kl: KL(trained || stored) in nats per token over `positions` of the right answers.
        weights_off: Stored tensors that are wrong, of `weights_compared`.
        merge_kl: The same divergence between the adapter on the base and PEFT's merge; low-rank adapters only.
        right: Whether tensors and merge are right; passed: also whether mean_kl is within its limit.
        served_kl, probability_gap: Only of a classifier: KL(trained || served) in nats per answer, in the precision of serving,
            and the largest difference of a probability. Its other divergences are per answer, too.
        new_tokens_chosen: Answers that contain a token of a soft prompt.
    """

    kind: str
    rows: int
    passed: bool
    same_greedy: int | None = None
    same_greedy_share: float | None = None
    positions: int | None = None
    mean_kl: float | None = None
    max_kl: float | None = None
    mean_kl_limit: float | None = None
    different: list[str] | None = None
    weights_compared: int | None = None
    weights_off: list[str] | None = None
    right: bool | None = None
    merge_kl: float | None = None
    merge_kl_limit: float | None = None
    served_kl: float | None = None
    served_kl_limit: float | None = None
    probability_gap: float | None = None
    new_tokens_chosen: int | None = None
    rounding: RoundedMerge | None = None

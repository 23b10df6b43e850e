"""Facts about loaded, merged and compared models. Imports no torch: checks and reports read them."""

from msgspec import field

from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.findings import Finding


class ModelRecord(Facts, frozen=True, kw_only=True):
    """What code reads from the model.json of an artifact, which has its facts and ``path``.

    Attributes:
        path: The model's folder: absolute, or relative to the artifact.
        base_model: The base as task.yaml names it, revision: its version on the hub.
        files: SHA-256 of every file that affects its answers.
        warnings: About the chat template of a base.
        soft_ids: Ids of the tokens that prompt tuning added.
    """

    path: str
    base_model: str
    revision: str | None = None
    files: dict[str, str] = field(default_factory=dict)
    warnings: list[Finding] = field(default_factory=list)
    soft_ids: list[int] = field(default_factory=list)


class PreparedBase(Facts, frozen=True, kw_only=True):
    """Facts of base_model.

    Attributes:
        dtype: The dtypes of its tensors, as their files name them (``BF16``).
        context_length: Tokens; None if its configuration does not say.
        end_tokens: The tokens that end an answer.
        chat_template: Where its template is from.
        identity: Its package version or digests, see models.identity.base_identity.
        base_model, revision, files, warnings: See ModelRecord.
    """

    base_model: str
    revision: str | None
    identity: dict[str, object]
    chat_template: str
    warnings: list[Finding]
    parameters: int
    dtype: str
    architecture: str
    weight_bytes: int
    context_length: int | None
    vocabulary: int
    eos: str
    end_tokens: list[str]
    files: dict[str, str]


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


class Serving(Facts, frozen=True, kw_only=True, omit_defaults=False):
    """Settings of training and comparison that a server must use too. precision: as in the job (jobs.MergeJob)."""

    system_prompt: str | None
    labels: list[str]
    max_new_tokens: int
    precision: str = "float32"
    stop_token_ids: list[int]
    stop_tokens: list[str]


class StoredModel(Facts, frozen=True, kw_only=True):
    """Facts of a merged model that its model.json has, too. None: not so made; of a hosted model, which has no files, unknown.

    Attributes:
        kind: lora, full, prompt, prefix, classifier; endpoint: hosted by its trainer.
        base_model, revision, files: See ModelRecord.
        dtype: The dtypes of its tensors (``bfloat16+float32``).
        merged_tensors: Weights of the base that the adapter changed, and scaling: the factor of its product.
        soft_tokens, soft_ids: The tokens that prompt tuning added, and their ids.
    """

    kind: str
    base_model: str
    revision: str | None = None
    dtype: str
    weight_bytes: int | None = None
    files: dict[str, str] = field(default_factory=dict)
    adapter_sha256: str | None = None
    merged_tensors: int | None = None
    scaling: float | None = None
    soft_tokens: list[str] = field(default_factory=list)
    soft_ids: list[int] = field(default_factory=list)


class MergedModel(StoredModel, frozen=True, kw_only=True):
    """Facts of merged_model. stored_float32_because: why the changed weights are not in the base's dtype, if they are not."""

    sentence: str
    serving: Serving
    parity: Parity
    stored_float32_because: str | None = None

"""Base class and registry of training methods.

A method is one module of this package with one class::

    from finetune_pipeline.spec.methods.base import Default, register
    from finetune_pipeline.spec.methods.low_rank import LowRank

    @register
    class Attention(LowRank):
        name, order = "attention", 60
        trains, gives, when = "low-rank matrices of attention", "an adapter", "memory is very short"
        defaults = {"learning_rate": Default(1e-3, "where the value comes from")}

Nothing here imports torch at import time, since ``task.yaml`` is read everywhere; functions that build a model import it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from pydantic import Field

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.outputs import DEFAULT_METRICS, Section

if TYPE_CHECKING:
    from finetune_pipeline.spec.training import TrainingSettings

Config = Mapping[str, Any]
"""A base model's config.json."""
Added = tuple[Any, dict[str, object]]
"""The loaded base with its trainable weights, and facts about their initial values."""
CHECKPOINT_ABOVE = 1_000_000_000
"""Parameters of the base from which gradient_checkpointing: auto enables it."""
COMPARISON = "PEFT's method comparison (Llama-3.2-3B, MetaMathQA, 5000 steps of 4 rows, AdamW)"


@dataclass(frozen=True, slots=True)
class Default:
    """A value and its source, as a phrase."""

    value: Any
    source: str


COMMON = {
    "learning_rate": Default(5e-4, "suits low-rank adapters of bases under 1B parameters"),
    "scheduler": Default("cosine", f"the schedule of {COMPARISON}"),
    "warmup_share": Default(0.05, "a twentieth of the steps, until Adam's second moments have settled"),
    "batch_size": Default(8, "small enough for several steps per epoch with 500 examples, the default minimum"),
    "micro_batch_size": Default(8, "a whole step at once: rows with a common prefix need little memory"),
    "unquantized_epochs": Default(
        0.0, "only qlora has a second phase: the other methods train on the unquantized base anyway"
    ),
}
"""Defaults of all methods that do not override them."""


@dataclass(frozen=True, slots=True)
class Kind:
    """The result of a training, and how it is served.

    Attributes:
        name: As in the facts of ``merged_model``; models.merging makes each kind servable.
        tensors: Regular expression that matches in the names of all tensors it may save; contents: their description.
        trained, served: Names of the trained and the served model in merge_parity.
        sentence: Beginning of a sentence on the served model.
        adapter: Whether it is an adapter folder; else a whole model, or one at an endpoint.
        plain: Whether any server can load the served model.
        generates: Whether it writes its answer token by token; else it chooses one of its classes.
    """

    name: str
    tensors: str
    contents: str
    trained: str
    served: str
    sentence: str
    adapter: bool = True
    plain: bool = True
    generates: bool = True


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer: full module name and widths."""

    name: str
    fan_in: int
    fan_out: int

    @property
    def parameters(self) -> int:
        return self.fan_in * self.fan_out


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a causal language model. All counts are of parameters.

    Attributes:
        inner: Width of the MLP.
        linears: Linear layers of the blocks, which adapters can target and which can be stored in four bits.
        head: Of a separate output head; 0 if it is tied to the embedding.
        other: Norms, biases and the rest.
        packs: Whether rows can be packed after shared prefixes.
        stored_bytes: Bytes of the weight files.
    """

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    heads: int
    key_heads: int
    head_dim: int
    linears: tuple[Linear, ...]
    embedding: int
    head: int
    other: int
    packs: bool
    stored_bytes: int

    @property
    def linear(self) -> int:
        """Number of parameters of the blocks' linear layers, without biases."""
        return sum(layer.parameters for layer in self.linears)

    @property
    def parameters(self) -> int:
        """Number of all parameters, tied ones once."""
        return self.linear + self.embedding + self.head + self.other

    def targeted(self, targets: Sequence[str] | str) -> list[Linear]:
        """Return the linear layers that an adapter targets, by PEFT's rule: ``all-linear``, or suffixes of module names."""
        if not isinstance(targets, str):
            targets = rf"(.*\.)?({'|'.join(map(re.escape, targets))})"
        pattern = ".*" if targets == "all-linear" else targets
        return [layer for layer in self.linears if re.fullmatch(pattern, layer.name)]


class Method(ABC):
    """A training method.

    Attributes:
        name: Its name in ``training.method``; order: position in tables.
        trains, gives, when: What is trained, what the user gets, and when to use it.
        section, options: The section of ``training`` with its own settings, and its model; methods may share one.
        defaults: Defaults of unset settings that differ from :data:`COMMON`.
        holds: How the base is stored in memory: in 4 bits, in the compute dtype, or (if all of it is trained) in float32.
        checkpointing: Whether gradient checkpointing works with it.
        outputs: The kinds of output that it can learn.
        smaller: The method to use instead when memory is short.
        on_quantized: Why an already quantized base cannot be used.
    """

    name: ClassVar[str]
    order: ClassVar[int]
    trains: ClassVar[str]
    gives: ClassVar[str]
    when: ClassVar[str]
    section: ClassVar[str] = ""
    options: ClassVar[type[Section]]
    defaults: ClassVar[Mapping[str, Default]] = {}
    holds: ClassVar[Literal["four_bit", "compute", "float32"]] = "compute"
    kind: ClassVar[Kind]
    checkpointing: ClassVar[bool] = True
    outputs: ClassVar[frozenset[str]] = frozenset(DEFAULT_METRICS)
    smaller: ClassVar[str | None] = "qlora"
    on_quantized: ClassVar[str] = "a model trained on rounded weights would have to be served with the same rounding"

    def default(self, key: str) -> Default:
        """Return the default of a setting that is unset in task.yaml."""
        return {**COMMON, **self.defaults}[key]

    def check(self, training: Any) -> list[Finding]:
        """Return the problems of this method's own settings in ``spec.training``."""
        return []

    def check_base(self, training: Any, config: Config, layers: Callable[[], set[str]]) -> list[Finding]:
        """Return the problems of training a base with this config.json; layers: returns the names of its linear layers."""
        return []

    def phases(self, settings: TrainingSettings) -> list[TrainingSettings]:
        """Return the settings of each training phase; each phase continues from the previous phase's adapter."""
        return [settings]

    def adopt(self, settings: TrainingSettings) -> TrainingSettings:
        """Adapt the settings of another method to this one."""
        same = METHODS[settings.method].kind is self.kind
        rate = settings.learning_rate if same else self.default("learning_rate").value
        return settings.changed(method=self.name, learning_rate=rate)

    def virtual_tokens(self, settings: TrainingSettings) -> tuple[int, int]:
        """Return (virtual tokens before every row's sequence, virtual tokens that are only keys and values)."""
        return 0, 0

    @abstractmethod
    def trainable(self, settings: TrainingSettings, shape: ModelShape) -> int:
        """Return the number of trained parameters."""

    def saved_widths(self, settings: TrainingSettings) -> tuple[float, float]:
        """Return the vectors that a block saves per token for its backward pass: (of the hidden width, of the MLP's width).

        With a frozen block: the inputs of two norms; queries, keys, values and attention's result; the gated MLP's three products.
        """
        return 5.5, 3.0

    @abstractmethod
    def add(self, model: Any, tokenizer: Any, settings: TrainingSettings, task_text: str) -> Added:
        """Add the trainable weights to the loaded base; task_text: of training.rows. Raises JobError if the settings do not fit
        this base or these rows."""


METHODS: dict[str, Method] = {}
"""Every method by name."""
ENDPOINT = Kind(
    name="endpoint",
    tensors="",
    contents="",
    trained="the hosted model",
    served="the hosted model",
    sentence="A model at an endpoint",
    adapter=False,
    plain=False,
)
"""The kind of result of trainers that return no weights, for any method."""
KINDS: dict[str, Kind] = {ENDPOINT.name: ENDPOINT}
"""Every kind of result by name."""
MethodClass = TypeVar("MethodClass", bound=type[Method])


def kind_of(name: str | None) -> Kind:
    """Return a kind of result by name; low-rank if unknown."""
    return KINDS.get(str(name), METHODS["lora"].kind)


def register(cls: MethodClass) -> MethodClass:
    """Class decorator: add a method."""
    METHODS[cls.name] = cls()
    # keeps both dicts in the order of the tables
    for name, method in sorted(METHODS.items(), key=lambda entry: entry[1].order):
        METHODS[name] = METHODS.pop(name)
        KINDS[method.kind.name] = method.kind
    return cls


def methods_for(output: str) -> list[str]:
    """Return the names of the methods that can learn a kind of output."""
    return [name for name, method in METHODS.items() if output in method.outputs]


def by_method(key: str, meaning: str = "", **limits: Any) -> Any:
    """Return the field of a setting whose default is that of the spec's method. limits: of its value."""

    def default(settings: dict[str, Any]) -> Any:
        return METHODS[settings["method"]].default(key).value

    return Field(default_factory=default, description=_description(key, meaning), **limits)


def largest_micro_batch(settings: dict[str, Any]) -> int:
    """Return the default of micro_batch_size: the largest divisor of the batch size up to the method's value."""
    usual = METHODS[settings["method"]].default("micro_batch_size").value
    batch_size = settings.get("batch_size", usual)
    return max(n for n in range(1, min(usual, batch_size) + 1) if batch_size % n == 0)


def _description(key: str, meaning: str) -> str:
    """Return a field's description, with its default for each method."""
    methods: dict[Any, list[str]] = {}
    for method in METHODS.values():
        methods.setdefault(method.default(key).value, []).append(method.name)
    defaults = [f"{format_number(value)} ({', '.join(names)})" for value, names in methods.items()]
    if len(methods) == 1:
        defaults = [format_number(value) for value in methods]
    return f"{meaning} Unset: {', '.join(defaults)}.".strip()


def format_number(value: Any) -> str:
    """Format a default as in the reference: small numbers as 5e-4, all else as it is."""
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.01 else f"{value:g}"

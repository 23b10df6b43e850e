"""Base class and registry of training methods.

A method is one module of this package with one class::

    @register
    class Attention(LowRank):
        name, order = "attention", 60
        trains, gives, when = "low-rank matrices of attention", "an adapter", "memory is very short"
        defaults = {"learning_rate": Default(1e-3, "where the value comes from")}

Nothing here imports torch, since ``task.yaml`` is read everywhere; what builds a model imports it where it is called.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from finetune_pipeline.findings import Finding
from finetune_pipeline.spec.outputs import Section

Settings = Mapping[str, Any]
"""``spec.training.model_dump()``."""
Added = tuple[Any, dict[str, Any]]
"""The loaded base with what is trained, and facts about the first values."""
CHECKPOINT_ABOVE = 1_000_000_000
"""Parameters of the base from which gradient_checkpointing: auto switches it on."""
COMPARISON = "PEFT's method comparison (Llama-3.2-3B, MetaMathQA, 5000 steps of 4 rows, AdamW)"


@dataclass(frozen=True, slots=True)
class Default:
    """A value and where it comes from, in one sentence."""

    value: Any
    source: str


COMMON = {
    "learning_rate": Default(5e-4, "what suits low-rank adapters of bases under 1B parameters"),
    "scheduler": Default("cosine", f"the schedule of {COMPARISON}"),
    "warmup_share": Default(0.05, "a twentieth of the steps; Adam's second moments are not settled before"),
    "batch_size": Default(
        8, "small enough for several steps an epoch with 500 examples, the fewest the pipeline trains on"
    ),
    "micro_batch_size": Default(8, "the whole step at once: rows with a common prefix cost little memory"),
    "unquantized_epochs": Default(
        0.0, "only qlora has a second phase: the other methods train on the unquantized base anyway"
    ),
}
"""Values that hold for every method that does not say otherwise."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a training leaves, and how it is served.

    Attributes:
        name: As in the facts of ``merged_model``; models.merging knows how each kind is made servable.
        tensors: Regular expression that finds something in the name of every tensor it may save.
        contents: What these tensors are, for people.
        trained: One side of merge_parity.
        served: The other side.
        sentence: The served model, as a sentence about it begins.
        adapter: It is an adapter folder; else a whole model, or one at an endpoint.
        stored_whole: The registry refers to the stored model; else it keeps the adapter and refers to the base.
        plain: Any server can load what is served.
    """

    name: str
    tensors: str
    contents: str
    trained: str
    served: str
    sentence: str
    adapter: bool = True
    stored_whole: bool = False
    plain: bool = True


class Shape(Protocol):
    """What the memory formulas ask of planning.shape.ModelShape."""

    @property
    def layers(self) -> int: ...
    @property
    def hidden(self) -> int: ...
    @property
    def inner(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def key_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def parameters(self) -> int: ...
    def targeted(self, targets: Sequence[str] | str) -> Iterator[Any]: ...


class Method(ABC):
    """One way to train.

    Attributes:
        name: As ``training.method`` calls it.
        order: Place in tables.
        trains: What is trained.
        gives: What the user gets.
        when: When to take it.
        section: The section of ``training`` with its own settings; methods may share one.
        options: The model of that section.
        defaults: Values of settings that task.yaml leaves unset, where they differ from :data:`COMMON`.
        holds: How the base lies in memory: in 4 bits, in the compute type, or (where all of it is trained) in float32.
        kind: What it leaves.
        checkpointing: Gradient checkpointing works with it.
        trains_inputs: Gradients reach the embeddings, so the first layer keeps what others do.
        smaller: The method to go to when memory is short.
        on_quantized: Why a base that is quantized already cannot be taken.
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
    trains_inputs: ClassVar[bool] = False
    smaller: ClassVar[str | None] = "qlora"
    on_quantized: ClassVar[str] = "what is trained on rounded weights would have to be served with the same rounding"

    def default(self, key: str) -> Default:
        """The value of a setting that task.yaml leaves unset."""
        return {**COMMON, **self.defaults}[key]

    def check(self, training: Any) -> list[Finding]:
        """What is wrong with ``spec.training``, of the settings that are this method's alone."""
        return []

    def check_base(self, training: Any, config: Settings, layers: Callable[[], tuple[set[str], bool]]) -> list[Finding]:
        """What speaks against training this base.

        Args:
            config: The base's config.json.
            layers: Gives the names of its linear layers, and whether that is all there are.
        """
        return []

    def phases(self, settings: Settings) -> list[Settings]:
        """The settings of each training, one after the other; a later one goes on from the adapter of the one before."""
        return [settings]

    def adopt(self, settings: Settings) -> dict[str, Any]:
        """The settings of another method, changed as far as this one wants."""
        same = METHODS[settings["method"]].kind is self.kind
        rate = settings["learning_rate"] if same else self.default("learning_rate").value
        return {**settings, "method": self.name, "learning_rate": rate}

    def virtual_tokens(self, settings: Settings) -> tuple[int, int]:
        """(virtual tokens in the sequence before every row, virtual tokens that are only keys and values)."""
        return 0, 0

    @abstractmethod
    def trainable(self, settings: Settings, shape: Shape) -> int:
        """Number of trained parameters."""

    def kept_bytes(self, settings: Settings, shape: Shape, tokens: int, width: int) -> int:
        """Bytes one block keeps for the backward pass of what is trained in it; width: bytes of the compute type."""
        return 0

    def keeps_attention(self, settings: Settings, shape: Shape) -> bool:
        """Whether :meth:`kept_bytes` counts attention's result."""
        return False

    @abstractmethod
    def add(self, model: Any, tokenizer: Any, settings: Settings, task_text: str) -> Added:
        """Put what is trained beside or into the loaded base.

        Args:
            task_text: What the training rows say of the task (training.rows.task_text).

        Raises:
            JobError: The settings cannot be used with this base or these rows.
        """


METHODS: dict[str, Method] = {}
"""Every method by name."""
ENDPOINT = Kind(
    name="endpoint",
    tensors="",
    contents="",
    trained="the hosted model",
    served="the hosted model",
    sentence="A model that answers at an endpoint",
    adapter=False,
    plain=False,
)
"""What a trainer leaves that returns no weights, whatever the method."""
KINDS: dict[str, Kind] = {ENDPOINT.name: ENDPOINT}
"""Every kind of result by name."""
M = TypeVar("M", bound=type[Method])


def kind_of(name: str | None) -> Kind:
    """A kind of result by name; low-rank where it is not known."""
    return KINDS.get(str(name), METHODS["lora"].kind)


def register(cls: M) -> M:
    """Class decorator: add a method."""
    METHODS[cls.name] = cls()
    for name, method in sorted(METHODS.items(), key=lambda entry: entry[1].order):
        METHODS[name] = METHODS.pop(name)
        KINDS[method.kind.name] = method.kind
    return cls


def by_method(key: str) -> Callable[[dict[str, Any]], Any]:
    """A pydantic default factory: the value of `key` for the method the spec has chosen."""
    return lambda settings: METHODS[settings["method"]].default(key).value


def largest_micro_batch(settings: dict[str, Any]) -> int:
    """Default of micro_batch_size: the largest divisor of the batch size up to the method's own value."""
    most = METHODS[settings["method"]].default("micro_batch_size").value
    batch = settings.get("batch_size", most)
    return max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)


def default_table() -> list[tuple[str, str, str, str]]:
    """(key, methods, value, source) of every default, methods with the same one together."""
    rows: dict[tuple[str, str, str], list[str]] = {}
    for key in COMMON:
        for method in METHODS.values():
            default = method.default(key)
            rows.setdefault((key, _number(default.value), default.source), []).append(method.name)
    return [(key, ", ".join(methods), value, source) for (key, value, source), methods in rows.items()]


def described(key: str, meaning: str = "") -> str:
    """A field's description, with what it is for each method when unset."""
    methods: dict[Any, list[str]] = {}
    for method in METHODS.values():
        methods.setdefault(method.default(key).value, []).append(method.name)
    names = {_number(value): f" ({', '.join(those)})" if len(methods) > 1 else "" for value, those in methods.items()}
    return f"{meaning} Unset: {', '.join(value + those for value, those in names.items())}.".strip()


def _number(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.0e}".replace("e-0", "e-") if 0 < value < 0.01 else f"{value:g}"

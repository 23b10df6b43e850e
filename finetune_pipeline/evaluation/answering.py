"""Generates answers with a local model through the answer cache; the model is loaded only on a cache miss."""

import importlib.metadata
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import SeenFiles, digest_json
from finetune_pipeline.evaluation.answer_cache import AnswerCache
from finetune_pipeline.jobs import KeptAnswers
from finetune_pipeline.models.chat import load_tokenizer
from finetune_pipeline.models.identity import model_folder
from finetune_pipeline.models.inference.constrained import Restriction
from finetune_pipeline.models.inference.generated import Answer
from finetune_pipeline.models.inference.generation import generate_and_score
from finetune_pipeline.models.inference.shared_reading import Ids
from finetune_pipeline.models.loading import inference_dtype, load_for_prediction, pick_device
from finetune_pipeline.models.model_files import TEXTS, classes_of
from finetune_pipeline.reporting import say

CODE = "8"
"""Increase when the same model, prompt and settings give a different answer than before, or when stored answers hold more."""
_SEEN = "seen_models.json"


class Answerer:
    """Answers prompts with one local model, with an optional prefix adapter; decodes greedily.

    Attributes:
        precision: As evaluation.precision in task.yaml.
        seconds: Time spent so far, by "load" and "answer".
    """

    def __init__(
        self,
        folder: Path,
        adapter: Path | None = None,
        cache: AnswerCache | None = None,
        seen_files: SeenFiles | None = None,
        precision: str = "serving",
    ) -> None:
        self.folder, self.adapter, self.cache, self.precision = folder, adapter, cache, precision
        self._seen_files = seen_files or SeenFiles()
        self.seconds = {"load": 0.0, "answer": 0.0}

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.folder)

    @cached_property
    def classes(self) -> list[str]:
        """The labels of a classifier, in the order of its outputs; empty for a model that writes its answers."""
        return classes_of(model_folder(self.folder))

    @cached_property
    def context_length(self) -> int | None:
        """Maximum tokens of prompt and answer, if the model's configuration states it."""
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(model_folder(self.folder), trust_remote_code=False).get_text_config()
        return getattr(config, "max_position_embeddings", None)

    @cached_property
    def model(self) -> Any:
        began = time.monotonic()
        model = load_for_prediction(self.folder, pick_device(), self.adapter, self.precision)
        self.seconds["load"] += time.monotonic() - began
        return model

    @cached_property
    def dtype(self) -> str:
        return str(inference_dtype(self.folder, self.precision, pick_device())).removeprefix("torch.")

    @cached_property
    def digest(self) -> str:
        """Digest of the files that determine an answer: weights, configuration, tokenizer, template, prefix adapter."""
        digests = {"model": self._file_digests(model_folder(self.folder))}
        if self.adapter:
            digests["adapter"] = self._file_digests(self.adapter)
        return digest_json(digests)

    def _file_digests(self, folder: Path) -> dict[str, str]:
        suffixes = (*TEXTS, ".safetensors")
        return {
            path.name: self._seen_files.digest(path) for path in sorted(folder.iterdir()) if path.suffix in suffixes
        }

    def first_fitting(self, prompts: Iterable[list[int]], max_new_tokens: int) -> tuple[int, list[int]]:
        """Index and tokens of the first prompt that leaves room for the answer, else of the last one."""
        chosen = -1, list[int]()
        for index, ids in enumerate(prompts):
            chosen = index, ids
            if not self.context_length or len(ids) + max_new_tokens <= self.context_length:
                break
        return chosen

    def answers(
        self,
        prompts: Sequence[Ids],
        labels: Sequence[Sequence[Ids]] | None,
        max_new_tokens: int,
        batch_size: int,
        stage: str = "predictions",
        name: str = "",
        restriction: Restriction | None = None,
        alternatives: int = 0,
    ) -> list[Answer]:
        """Like :func:`.generation.generate_and_score`, but with cached answers reused, which have no alternatives."""
        keys = self._keys(prompts, labels, max_new_tokens, batch_size, restriction)
        cached = self.cache.find(keys) if self.cache else {}
        if cached:
            say(f"{stage}: {name}: {len(cached)} of {len(prompts)} answers come from the cache")
        if len(cached) == len(prompts):
            return [cached[i] for i in range(len(prompts))]
        _ = self.model  # load before the clock starts: loading is timed separately
        began = time.monotonic()

        def keep(batch: Mapping[int, Answer]) -> None:
            if self.cache:
                self.cache.keep({keys[i]: answer for i, answer in batch.items()})

        answers = generate_and_score(
            self.model,
            self.tokenizer,
            prompts,
            labels,
            max_new_tokens,
            batch_size,
            stage,
            name,
            known=cached,
            keep=keep,
            restriction=restriction,
            alternatives=alternatives,
        )
        self.seconds["answer"] += time.monotonic() - began
        return answers

    def _keys(
        self,
        prompts: Sequence[Ids],
        labels: Sequence[Sequence[Ids]] | None,
        max_new_tokens: int,
        batch_size: int,
        restriction: Restriction | None,
    ) -> list[bytes]:
        if self.cache is None:
            return []
        settings = {
            "code": CODE,
            "versions": {name: importlib.metadata.version(name) for name in ("torch", "transformers")},
            "engine": "transformers",
            "device": _device_name(),
            "dtype": self.dtype,
            "model": self.digest,
            "max_new_tokens": max_new_tokens,
            "batch_size": batch_size,
        } | ({"restricted": restriction.grammar.identity} if restriction else {})
        common = digest_json(settings)
        digests: dict[int, str] = {}  # by identity, because most rows share one list of labels
        keys = []
        for i, prompt in enumerate(prompts):
            row_labels = labels[i] if labels is not None else None
            if id(row_labels) not in digests:
                digests[id(row_labels)] = digest_json(row_labels)
            keys.append(self.cache.key([common, prompt, digests[id(row_labels)]]))
        return keys


def _device_name() -> str:
    import torch

    device = pick_device()
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def open_cache(settings: KeptAnswers | None) -> tuple[AnswerCache | None, SeenFiles | None]:
    """The cache that a job's settings describe, and the remembered digests of model files; both None without settings."""
    if not settings:
        return None, None
    return AnswerCache.of(settings), SeenFiles(settings.file.with_name(_SEEN))


def close_cache(cache: AnswerCache | None) -> dict[str, int]:
    """Tidy the cache, and report its problem, if any. Returns the numbers of answers {known, asked}."""
    if cache is None:
        return {}
    cache.tidy()
    if cache.problem:
        say(f"the cache of answers could not be used ({cache.problem}); everything was asked")
    return {"known": cache.hits, "asked": cache.misses}

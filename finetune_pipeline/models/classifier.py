"""A classifier: a decoder's blocks with a classification head, which reads the last token.

Everywhere here it answers like a causal language model whose vocabulary is its classes: ``logits`` has one value a class for each
requested position. So packed training batches, shared prefixes and the readers of prompts need no code of their own.
Transformers' own forward, which pools at the last token that is no padding, gives the same logits for a prompt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, AutoConfig
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.faults import JobError
from finetune_pipeline.models.model_files import ADAPTER_CLASSES
from finetune_pipeline.spec.methods.classifier import HEAD


def with_head(model: Any, classes: Sequence[str]) -> Any:
    """Return a classifier on the blocks of a causal language model, which it shares, with a random head in float32, to be used as
    in this module. Raises JobError if transformers has no classifier on the last token for this architecture."""
    config = model.config
    config.num_labels = len(classes)
    config.id2label, config.label2id = dict(enumerate(classes)), {label: number for number, label in enumerate(classes)}
    architecture: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    with torch.device("meta"):
        classifier: Any = architecture(config) if architecture else None
    if not isinstance(getattr(classifier, HEAD, None), nn.Linear) or not hasattr(classifier, "base_model_prefix"):
        problem = f"transformers has no classifier on the last token of models of type {config.model_type}"
        raise JobError(problem, "set training.method: lora or qlora, or base_model to a model of another family")
    text = config.get_text_config()
    head = nn.Linear(text.hidden_size, len(classes), bias=False)
    nn.init.normal_(head.weight, std=getattr(text, "initializer_range", 0.02))
    setattr(classifier, classifier.base_model_prefix, model.base_model)
    setattr(classifier, HEAD, head.to(model.device).requires_grad_(False))
    return answer_by_class(classifier.train(model.training))


def answer_by_class(classifier: Any) -> Any:
    """Make a classifier's forward that of a causal language model whose vocabulary is its classes. Returns it."""
    prefix = classifier.base_model_prefix
    unused = ("labels", "return_dict", "output_attentions", "output_hidden_states")

    def forward(input_ids: Any = None, logits_to_keep: Any = 0, **options: Any) -> SequenceClassifierOutputWithPast:
        read = {name: value for name, value in options.items() if name not in unused}
        states = getattr(classifier, prefix)(input_ids=input_ids, **read)
        hidden, head = states.last_hidden_state, getattr(classifier, HEAD)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        widest = torch.promote_types(hidden.dtype, head.weight.dtype)
        return SequenceClassifierOutputWithPast(logits=head(hidden[:, kept].to(widest)), cache=states.cache)

    classifier.forward = forward
    classifier.classes = [classifier.config.id2label[number] for number in range(classifier.config.num_labels)]
    return classifier


def classifier_settings(base: Path, classes: Sequence[str], pad_token: int) -> dict[str, object]:
    """Return the settings of config.json that make a base's folder a classifier's. pad_token: that of the tokenizer, behind which
    transformers looks for the last token of a prompt."""
    config = AutoConfig.from_pretrained(base, local_files_only=True, trust_remote_code=False)
    architecture: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
    return {
        "architectures": [architecture.__name__],
        "id2label": {str(number): label for number, label in enumerate(classes)},
        "label2id": {label: number for number, label in enumerate(classes)},
        "pad_token_id": pad_token,
        "problem_type": "single_label_classification",
    }


def write_classes(adapter: Path, classes: Sequence[str]) -> None:
    """Write the labels of a classifier's adapter into its folder."""
    write_json(adapter / ADAPTER_CLASSES, list(classes))


def adapter_classes(adapter: Path) -> list[str]:
    """Return the labels of a classifier's adapter. Raises JobError if its folder does not name them."""
    path = adapter / ADAPTER_CLASSES
    try:
        classes = read_json(path, list[str])
    except FileNotFoundError as error:
        problem = f"the classifier's adapter in {adapter.name!r} lacks {ADAPTER_CLASSES}, which names its labels"
        raise JobError(problem, "use the whole folder that training wrote") from error
    return list(classes)

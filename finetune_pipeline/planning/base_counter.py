"""The token counter of a task's base model, before the step ``base_model`` has made it."""

from collections.abc import Mapping
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

from finetune_pipeline.models.chat_templates import compile_template, fixed_template, marks, read_chat_template
from finetune_pipeline.models.identity import BUNDLED, local_base, model_folder, model_kind
from finetune_pipeline.planning.tokens import TokenCounter
from finetune_pipeline.spec.model import Task


class TemplateOnly(TokenCounter):
    """A chat template without its tokenizer, which reads bytes instead: it shows what the template refuses and leaves out, and
    its counts mean nothing."""

    def __init__(self, chat_template: str, special: Mapping[str, str]) -> None:
        """special: the special tokens by their names in the template."""
        self.chat_template, self.special, self.config, self.end_token_ids = chat_template, dict(special), {}, []
        self.template = compile_template(chat_template)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        self.backend_tokenizer = Tokenizer(models.BPE({letter: i for i, letter in enumerate(alphabet)}, []))
        self.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.backend_tokenizer.add_special_tokens(sorted({*marks(chat_template), *special.values()}))
        self.eos_token_id = self.backend_tokenizer.token_to_id(special["eos_token"])


def base_counter(task: Task, base: Path | None) -> TokenCounter | None:
    """Return the counter of the task's base model; None if neither its tokenizer nor its chat template is on this machine.

    base: the artifact of the ``base_model`` step. Without it, a local folder is read in place, and of a bundled model the
    template is known.
    """
    if base is not None:
        return TokenCounter(model_folder(base))
    spec = task.spec
    template = read_chat_template(spec.chat_template, task.folder)
    kind = model_kind(spec.base_model, spec.base_revision)
    if kind == "bundled":
        bundled = BUNDLED[spec.base_model]
        template = template or bundled.template
        return TemplateOnly(template, bundled.special) if template else None
    local = local_base(spec.base_model)
    if kind == "hub" or not (local / "tokenizer.json").is_file():
        return None
    template = template or fixed_template(local)
    return TokenCounter(local, template) if template else None

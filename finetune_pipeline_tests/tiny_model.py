"""A tiny random Llama with a BPE tokenizer and a ChatML template: the base model of most tests."""

from collections.abc import Sequence
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
LABELS = ["billing", "bug_report", "how_to"]
SYSTEM = "Sort the ticket. Answer with one of: billing, bug_report, how_to."
_TEXTS = [
    "my invoice is wrong",
    "the app crashes when I save",
    "how do I add a user",
    "charged twice this month",
    "error 500 on the board page",
    "where is the export button",
    "please refund the second payment",
    "the map stays empty after login",
    "can I change the week start",
]


def make_tiny_tokenizer(folder: Path, texts: Sequence[str] = (), vocabulary: int = 400) -> None:
    """Save a byte-level BPE tokenizer (EOS = pad = ``<|im_end|>``) with the ChatML template of SmolLM2.

    texts: Further training texts, whose words become tokens if the vocabulary has room.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE(byte_fallback=False))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([*_TEXTS, *LABELS, SYSTEM, "system user assistant", *texts] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
    )
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)


def make_tiny_model(
    folder: Path,
    dtype: str = "float32",
    seed: int = 0,
    layers: int = 2,
    texts: Sequence[str] = (),
    vocabulary: int = 400,
) -> Path:
    """Save a random Llama (width 64, grouped-query attention, tied embeddings) with :func:`make_tiny_tokenizer`'s tokenizer.
    Returns `folder`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    make_tiny_tokenizer(folder, texts, vocabulary)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=1, eos_token_id=2,
        pad_token_id=2, initializer_range=0.15,
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(getattr(torch, dtype))
    model.save_pretrained(folder)
    return folder


def tiny_messages(number: int, answer: bool = True) -> list[dict[str, str]]:
    """A ticket made from `number`, whose text determines its label."""
    text = _TEXTS[number % len(_TEXTS)] + (f" ({number})" if number >= len(_TEXTS) else "")
    messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}]
    if answer:
        messages.append({"role": "assistant", "content": LABELS[number % len(LABELS)]})
    return messages


def write_tiny_examples(path: Path, numbers: range) -> Path:
    """Write the tickets of these numbers as examples. Returns `path`."""
    from finetune_pipeline.data.examples import Example, example_id, write_examples

    examples = []
    for line, messages in enumerate(map(tiny_messages, numbers), 1):
        source = {"file": "t.jsonl", "line": line}
        examples.append(Example(example_id(messages), messages, messages[-1]["content"], source=source))
    write_examples(path, examples)
    return path

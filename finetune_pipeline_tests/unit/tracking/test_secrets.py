from __future__ import annotations

import pytest

from finetune_pipeline.tracking.mlflow_store import redact, redact_field

ENV = {
    "OPENAI_API_KEY": "sk-live-1234567890",
    "HF_TOKEN": "hf_abcdefgh",
    "SHORT_KEY": "abc",
    "HOME": "/home/ann-lee",
    "DB_PASSWORD": "sk-live-1234567890-and-more",
}


def test_values_of_secret_variables_disappear_longest_first() -> None:
    text = "used sk-live-1234567890-and-more, then sk-live-1234567890 and hf_abcdefgh in /home/ann-lee with abc"
    assert redact(text, ENV) == (
        "used [DB_PASSWORD redacted], then [OPENAI_API_KEY redacted] and [HF_TOKEN redacted] in /home/ann-lee with abc"
    )


def test_logins_in_addresses_disappear() -> None:
    assert redact("at https://ann:pw@host/x, not a@b", {}) == "at https://[redacted]@host/x, not a@b"


@pytest.mark.parametrize("name", ["openai.api-key", "token", "Authorization"])
def test_fields_named_like_secrets(name: str) -> None:
    assert redact_field(name, "whatever") == "[redacted]"


@pytest.mark.parametrize(
    ("name", "value"), [("max_tokens", "1024"), ("token", 7), ("tokenizer", "bpe"), ("key", "adapter"), ("monkey", "x")]
)
def test_fields_that_only_look_so(name: str, value: object) -> None:
    assert redact_field(name, value) == str(value)

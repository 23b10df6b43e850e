"""Writes the generation settings of a model that was judged greedily, as transformers and vLLM read them.

transformers decodes greedily where ``do_sample`` is false. vLLM does not read ``do_sample``: it takes ``temperature`` from the same
file, and samples at 1.0 where there is none.
"""

from pathlib import Path
from typing import Any

from finetune_pipeline.engine.files import read_json, write_json
from finetune_pipeline.models.model_files import text_settings

FILE = "generation_config.json"
_GREEDY = {"do_sample": False, "temperature": 0.0}
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_greedy_settings(folder: Path, **settings: Any) -> None:
    """Replace a model folder's generation config by greedy decoding and `settings`. Of its own, only the special and the
    suppressed tokens stay: sampling, beams, penalties and minimum lengths would change the answers."""
    path = folder / FILE
    if path.is_file():
        own = read_json(path)
    else:  # as transformers does
        config = text_settings(read_json(folder / "config.json"))
        own = {key: config[key] for key in _ENDS if config.get(key) is not None}
    kept = {k: v for k, v in own.items() if k.endswith("_token_id") or k == "suppress_tokens"}
    write_json(path, dict(sorted({**kept, **_GREEDY, **settings}.items())))
    path.chmod(0o644)


def suppressed_tokens(folder: Path) -> list[int]:
    """Return the tokens that the folder's generation config keeps from being generated."""
    path = folder / FILE
    return list(read_json(path).get("suppress_tokens") or []) if path.is_file() else []

"""Exports a prompt as a folder: its text with shots, what it retrieves from, a model card, and the base model it belongs to."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_pipeline.data.examples import Message
from finetune_pipeline.engine.files import digest_file, write_json
from finetune_pipeline.evaluation.stored_prompt import StoredPrompt

MANIFEST = "export.json"


def export_prompt(
    stored: StoredPrompt, folder: Path, base: Mapping[str, Any], serving: Mapping[str, Any], card: str, out: Path
) -> dict[str, Any]:
    """Copy the prompt's folder into the empty folder `out`. Returns the manifest, which is also written.

    base: id, revision and digests of the base model. serving: task, model_version, system_prompt and max_new_tokens.
    """
    for path in folder.iterdir():
        shutil.copyfile(path, out / path.name)
    manifest: dict[str, Any] = {
        "format": 1,
        "what": "prompt",
        **serving,
        "prompt": stored.name,
        "mode": stored.mode,
        "messages_before_the_input": _messages(stored, str(serving["system_prompt"])),
        "labels": stored.labels,
        "json_schema": stored.json_schema,
        "generation": {"do_sample": False, "temperature": 0, "max_new_tokens": serving["max_new_tokens"]},
        "base_model": dict(base),
        "files": {
            path.name: {"sha256": digest_file(path), "bytes": path.stat().st_size} for path in sorted(out.iterdir())
        },
    }
    write_json(out / MANIFEST, manifest)
    (out / "README.md").write_text(card + _how_to_use(stored, manifest), "utf-8")
    for path in out.iterdir():
        path.chmod(0o644)  # another user may serve it
    return manifest


def _messages(stored: StoredPrompt, system_prompt: str) -> list[Message] | None:
    """The turns before every input; None if they depend on it."""
    if stored.retrieves or stored.prompt.documents:
        return None
    system = stored.prompt.system or system_prompt
    turns: list[Message] = [{"role": "system", "content": system}] if system else []
    return turns + stored.prompt.turns


def _how_to_use(stored: StoredPrompt, manifest: Mapping[str, Any]) -> str:
    lines = ["", "## How to use it", ""]
    before = manifest["messages_before_the_input"]
    if before is None:
        lines.append("The examples or passages shown depend on the input: `finetune serve` looks them up.")
    else:
        lines += [
            "Serve the base model, and send these turns before the input, at temperature 0:",
            "",
            "```json",
            json.dumps(before, indent=1, ensure_ascii=False).replace("`", "\\u0060"),
            "```",
        ]
    if stored.mode == "restricted":
        allowed = "the likeliest of the labels" if stored.labels else "decoded under the JSON schema"
        lines += ["", f"It was evaluated with restricted answers: {allowed} in export.json."]
    return "\n".join(lines) + "\n"

"""Exports a prompt as a folder: its text with shots, what it retrieves from, a model card, and the base model it belongs to."""

import json
import shutil
from pathlib import Path

from msgspec.structs import asdict

from finetune_pipeline.data.examples import Message
from finetune_pipeline.engine.facts import Facts
from finetune_pipeline.engine.files import write_json
from finetune_pipeline.evaluation.decisions import Mode
from finetune_pipeline.evaluation.stored_prompt import StoredPrompt
from finetune_pipeline.models.manifest import MANIFEST, BaseRecord, ExportedFile, Greedy


class PromptRelease(Facts, frozen=True, kw_only=True):
    """The registered version of a prompt, and how it was evaluated."""

    task: str
    model_version: int
    system_prompt: str
    max_new_tokens: int
    dataset_version: str


class PromptManifest(PromptRelease, frozen=True, kw_only=True, omit_defaults=False):
    """The manifest of an exported prompt. messages_before_the_input: None if they depend on the input."""

    format: int = 1
    what: str = "prompt"
    prompt: str
    mode: Mode
    messages_before_the_input: list[Message] | None
    labels: list[str]
    json_schema: dict[str, object] | None
    generation: Greedy
    base_model: BaseRecord
    files: dict[str, ExportedFile]


def export_prompt(
    stored: StoredPrompt, folder: Path, base: BaseRecord, release: PromptRelease, card: str, out: Path
) -> PromptManifest:
    """Copy the prompt's folder into the empty folder `out`. Returns the manifest, which is also written."""
    for path in folder.iterdir():
        shutil.copyfile(path, out / path.name)
    manifest = PromptManifest(
        **asdict(release),
        prompt=stored.name,
        mode=stored.mode,
        messages_before_the_input=_messages(stored, release.system_prompt),
        labels=stored.labels,
        json_schema=stored.json_schema,
        generation=Greedy(max_new_tokens=release.max_new_tokens),
        base_model=base,
        files=ExportedFile.of_folder(out),
    )
    write_json(out / MANIFEST, manifest.to_json())
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


def _how_to_use(stored: StoredPrompt, manifest: PromptManifest) -> str:
    lines = ["", "## How to use it", ""]
    before = manifest.messages_before_the_input
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

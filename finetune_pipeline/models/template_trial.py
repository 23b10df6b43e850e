"""Renders an unknown chat template in a child process first, with limits of time, memory and output.

A template is a program of whoever wrote the model folder: nested loops and repeated texts take minutes and fill memory, and
Jinja's sandbox allows them.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache

from jinja2 import Template

CPU_SECONDS = 5
MEMORY_BYTES = 1 << 30
MOST_CHARACTERS = 1 << 20
_WALL_SECONDS = 120
"""Also ends a child on a machine so busy that it gets no processor time."""

_TURNS = [{"role": role, "content": "a text"} for role in ("system", "user", "assistant")]
_CONVERSATIONS: Sequence[Mapping[str, object]] = (
    {"messages": _TURNS},
    {"messages": _TURNS[1:]},
    {"messages": _TURNS[1:] * 20},
    {"messages": _TURNS[:2], "add_generation_prompt": True},
    {"messages": _TURNS[1:2], "add_generation_prompt": True},
    {
        "messages": _TURNS,
        "tools": [{"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}],
    },
)
_TOKENS = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "unk", "pad")}


@cache
def trial_problem(text: str) -> str:
    """Return why rendering this template cannot be afforded, or nothing. Refusals and errors of the template are no problem
    here: they appear again, with the conversation, where it is used."""
    try:
        child = subprocess.run(
            [sys.executable, "-m", __name__],
            input=json.dumps(text),
            text=True,
            capture_output=True,
            timeout=_WALL_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"rendering a few short turns takes more than {_WALL_SECONDS} s"
    if child.returncode == 0:
        return child.stdout.strip()
    if "MemoryError" in child.stderr:
        return f"rendering a few short turns takes more than {MEMORY_BYTES >> 30} GiB of memory"
    return f"rendering a few short turns takes more than {CPU_SECONDS} s of processor time, or ends the process"


def _render_all(template: Template) -> str:
    for conversation in _CONVERSATIONS:
        length = 0
        try:
            for piece in template.generate(
                **{"tools": None, "add_generation_prompt": False, **_TOKENS, **conversation}
            ):
                length += len(piece)
                if length > MOST_CHARACTERS:
                    return f"it writes more than {MOST_CHARACTERS:,} characters for a few short turns"
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001, S112 - a template raises whatever its expressions raise
            continue
    return ""


def main() -> None:
    """Compile and render the template on standard input, and print the problem, if any."""
    from finetune_pipeline.models.chat_templates import compile_unchecked

    text = json.loads(sys.stdin.read())
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    sys.stdout.write(_render_all(compile_unchecked(text)))


if __name__ == "__main__":
    main()

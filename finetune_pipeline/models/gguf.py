"""GGUF by llama.cpp's own converter, where the user has it: it is no Python package, and none is trusted in its place."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from finetune_pipeline.findings import Finding, FindingsError

VARIABLE = "FINETUNE_LLAMA_CPP"
SCRIPT = "convert_hf_to_gguf.py"
_HOW = (
    f"git clone https://github.com/ggml-org/llama.cpp, install its requirements/requirements-convert_hf_to_gguf.txt, and "
    f"give the folder by --llama-cpp or {VARIABLE}"
)


def find_converter(told: Path | None, environment: Mapping[str, str] | None = None) -> Path:
    """The converter: `told` (a checkout of llama.cpp, or the script itself), else the environment's FINETUNE_LLAMA_CPP.

    Raises FindingsError saying how to get it.
    """
    env = os.environ if environment is None else environment
    given = told or (Path(env[VARIABLE]) if env.get(VARIABLE) else None)
    if given is None:
        raise FindingsError(
            [_finding("no_converter", f"GGUF is written by llama.cpp's {SCRIPT}, which was not named", _HOW)]
        )
    script = given.expanduser() / SCRIPT if given.expanduser().is_dir() else given.expanduser()
    if not script.is_file():
        raise FindingsError([_finding("no_converter", f"there is no {SCRIPT} at {given}", _HOW)])
    return script.absolute()


def convert(script: Path, model: Path, target: Path, *, name: str, dtype: str) -> None:
    """Have `script` write the model folder as `target` (.gguf) under `name`, without quantizing: bfloat16 and float16 as they are,
    anything with float32 as float32.

    Runs in a process of its own, with this Python. Raises FindingsError with the end of its output when it fails.
    """
    kind = {"bfloat16": "bf16", "float16": "f16"}.get(dtype, "f32")
    command = [sys.executable, str(script), str(model), "--outfile", str(target), "--outtype", kind]
    command += ["--model-name", name]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
    )
    if done.returncode or not target.is_file() or not target.stat().st_size:
        tail = "\n".join(done.stdout.splitlines()[-12:])
        raise FindingsError(
            [
                _finding(
                    "gguf",
                    f"{script.name} ended with {done.returncode} and wrote no usable file:\n{tail}",
                    "see whether it knows this architecture (--print-supported-models) and has its requirements; the "
                    "export without --gguf does not need it",
                )
            ]
        )


def _finding(rule: str, message: str, fix: str) -> Finding:
    return Finding(f"export.{rule}", "error", "finetune export --gguf", message, fix)

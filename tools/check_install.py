"""Check that the runtime environment is complete: installed from nothing, it imports every module, and scores files
from an empty folder.

    python3 tools/check_install.py

The packages of the tests are not in it, so a dependency that only they bring is found missing here.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OPTIONAL = ("spacy", "wordllama", "pypdf", "lm_eval", "ray", "s3fs", "together")
"""Packages of the optional extras, which a module may need."""
IMPORT_ALL = f"""
import importlib, pkgutil, finetune_pipeline
names = [m.name for m in pkgutil.walk_packages(finetune_pipeline.__path__, "finetune_pipeline.")]
for name in names:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in {OPTIONAL}:
            raise
print(len(names), "modules imported")
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        environment, work = Path(folder) / "venv", Path(folder) / "work"
        work.mkdir()
        variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        variables["FINETUNE_VENV"] = str(environment)

        def run(*command: str, answers: tuple[int, ...] = (0,)) -> None:
            if (code := subprocess.run(command, check=False, cwd=work, env=variables).returncode) not in answers:
                sys.exit(f"{' '.join(command[:2])} ended with {code}")

        run(sys.executable, str(ROOT / "tools" / "install.py"))
        run(str(environment / "bin" / "python"), "-c", IMPORT_ALL)
        files = sorted((ROOT / "data" / "ticket_triage" / "raw").glob("helpdesk_*.jsonl"))
        # 2: the pipeline would stop, here for want of rows
        run(str(environment / "bin" / "finetune"), "try", *map(str, files), answers=(0, 2))


if __name__ == "__main__":
    main()

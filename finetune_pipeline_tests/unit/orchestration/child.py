"""A minimal worker without torch. It follows the real entry's contract (job file, result.json, error.json, exit codes, Pipes,
death with its parent); the job's key "behave" says what it does."""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from dagster_pipes import open_dagster_pipes

STUBBORN = "import signal, time; [signal.signal(s, signal.SIG_IGN) for s in (2, 15)]; time.sleep(600)"


def main() -> int:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
    if os.getppid() != int(os.environ["FINETUNE_PARENT_PID"]):
        return 85
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    out, behave = Path(job["out"]), job["behave"]
    with (out.parent / "attempts").open("a") as attempts:
        attempts.write("x")
    (out.parent / "parent").write_text(str(os.getppid()))
    if behave.get("grandchild"):
        grandchild = subprocess.Popen([sys.executable, "-c", STUBBORN])
        (out.parent / "grandchild").write_text(str(grandchild.pid))
    if behave.get("ignore_signals"):
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGINT, lambda *_: sys.exit(85))
        signal.signal(signal.SIGTERM, lambda *_: end_group())
    print("told to stdout", flush=True)
    print("told to stderr", file=sys.stderr, flush=True)
    with open_dagster_pipes() if "DAGSTER_PIPES_CONTEXT" in os.environ else contextlib.nullcontext() as pipes:
        if pipes is not None:
            pipes.log.info("told through Pipes")
        (out.parent / "child").write_text(str(os.getpid()))
        time.sleep(behave.get("sleep", 0))
    if behave.get("killed"):
        os.kill(os.getpid(), signal.SIGKILL)
    if "error" in behave:
        (out / "error.json").write_text(json.dumps({"kind": "FindingsError", "message": behave["error"]}))
    if not behave.get("exit", 0):
        variables = {name: os.environ.get(name) for name in behave.get("show", [])}
        (out / "result.json").write_text(json.dumps({"seen": variables, "argv": sys.argv[1]}))
    return int(behave.get("exit", 0))


def end_group() -> None:
    """Kill the process group, as the real worker does when its parent dies."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    sys.exit(main())

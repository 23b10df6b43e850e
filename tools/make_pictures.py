"""Take the pictures in docs/pictures with a headless Chromium, from the history of a finished `make demo`.

    python tools/make_pictures.py                  # starts the web servers itself
    python tools/make_pictures.py ladder TASK …    # only the ladder pages of these tasks, as ladder_TASK.png

Needs `chromium` on the PATH.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from PIL import Image

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.settings import read_settings

TASK = "order_intake"
TARGET = Path(__file__).resolve().parent.parent / "docs" / "pictures"
DAGSTER = "http://127.0.0.1:3000"


def screenshot(name: str, url: str, width: int, height: int, wait_ms: int = 25000) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on the PATH")
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
                 "--disable-component-update", "--disable-sync", "--hide-scrollbars", f"--user-data-dir={profile}",
                 f"--window-size={width},{height}", f"--virtual-time-budget={wait_ms}",
                 f"--screenshot={TARGET / name}"]  # fmt: skip
        subprocess.run(
            [chromium, *flags, url], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=180
        )
    with Image.open(TARGET / name) as picture:  # a page has few colours: this saves two thirds of the bytes
        quantized = picture.convert("RGB").quantize(128)
    quantized.save(TARGET / name, optimize=True)
    print(f"{name}: {(TARGET / name).stat().st_size // 1024} KiB")


def wait_for(url: str) -> None:
    for _ in range(120):
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except OSError:
            time.sleep(1)
    sys.exit(f"{url} does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("page", nargs="?", choices=["ladder"])
    parser.add_argument("tasks", nargs="*")
    arguments = parser.parse_args()
    TARGET.mkdir(parents=True, exist_ok=True)
    if arguments.page == "ladder":
        for task in arguments.tasks:
            ladder = ArtifactStore(read_settings().artifacts).all_versions(task, "ladder")[-1]
            screenshot(f"ladder_{task}.png", ladder.path("ladder.html").as_uri(), 1080, 1450, 3000)
        return
    report = ArtifactStore(read_settings().artifacts).all_versions(TASK, "evaluation_report")[-1]
    screenshot("report.png", report.path("report.html").as_uri(), 1180, 1500, 3000)
    screenshot("report_narrow.png", report.path("report.html").as_uri(), 420, 1600, 3000)
    servers = subprocess.Popen([sys.executable, "-m", "finetune_pipeline.cli.main", "ui"])
    try:
        wait_for(DAGSTER)
        time.sleep(25)  # the code location is loading
        screenshot("graph.png", f"{DAGSTER}/asset-groups", 1500, 860)  # groups closed: open ones are too small to read
    finally:
        servers.send_signal(2)
        servers.wait(timeout=60)


if __name__ == "__main__":
    main()

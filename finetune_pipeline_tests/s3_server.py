"""An S3 server (moto) in a separate process, for tests that use an object store."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

BUCKET = "trainings"
SECRET = "planted-secret-4f1c0a77e2"
_SERVE = """
import threading
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
threading.Event().wait()
"""


@contextlib.contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """Start the server on a free port. Yields the clients' environment variables, with :data:`SECRET` as their key."""
    environment = {
        "AWS_ACCESS_KEY_ID": "somebody",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        # read neither the user's settings nor the cloud's metadata service
        "AWS_CONFIG_FILE": str(folder / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    with (folder / "s3.log").open("wb") as log:
        command = [sys.executable, "-c", _SERVE]
        server = subprocess.Popen(command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=log)
    try:
        assert server.stdout is not None
        port = server.stdout.readline().decode().strip()
        assert port, (folder / "s3.log").read_text()
        yield {**environment, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}
    finally:
        server.kill()
        server.wait()


def make_bucket() -> None:
    """Create :data:`BUCKET`, in the environment of :func:`s3_server`."""
    import s3fs

    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(BUCKET)

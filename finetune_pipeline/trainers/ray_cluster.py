"""Finds and connects to Ray clusters."""

from __future__ import annotations

import importlib
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient


def connect(address: str) -> JobSubmissionClient:
    """Return a client of the job server at a dashboard's address; Ray takes the token from the environment (RAY_AUTH_TOKEN).

    Raises ConnectionError if it does not answer.
    """
    from ray.job_submission import JobSubmissionClient

    if not answers(address):
        raise ConnectionError(f"nothing answers at {address}")
    return JobSubmissionClient(address)


def is_platform(address: str) -> bool:
    """Whether Ray passes an address to a platform's own package, named like its scheme (anyscale://PROJECT/CLUSTER)."""
    scheme = urlsplit(address).scheme
    return "://" in address and scheme.isidentifier() and scheme not in ("http", "https", "ray")


def finds_clusters(package: str) -> bool:
    """Whether a platform's package is installed, with the function that Ray calls for a cluster."""
    try:
        return hasattr(importlib.import_module(package), "get_job_submission_client_cluster_info")
    except ImportError:
        return False


def answers(address: str, seconds: float = 5.0) -> bool:
    """Whether an address accepts connections; Ray's own client would wait for minutes.
    True for addresses of platforms, since only the platform's package can reach them."""
    if is_platform(address):
        return True
    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), seconds):
            return True
    except (OSError, UnicodeError):  # UnicodeError: a part of the name is empty or too long
        return False

"""The artifact store as a Dagster resource."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from finetune_pipeline.engine.store import ArtifactStore
from finetune_pipeline.settings import read_settings


class Store(dg.ConfigurableResource):
    """Content-addressed artifacts below one folder."""

    root: str = Field(default="", description="Folder of all artifacts; empty: <home>/artifacts (see FINETUNE_HOME).")

    def artifacts(self) -> ArtifactStore:
        """The store, at an absolute path."""
        return ArtifactStore(Path(self.root).absolute() if self.root else read_settings().artifacts)

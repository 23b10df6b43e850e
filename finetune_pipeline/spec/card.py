"""What only people know of a model that is passed on: its licence, its data's, its language, what it is for."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StringConstraints

from finetune_pipeline.spec.outputs import Section

License = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9.\-]*$", max_length=60)]
Language = Annotated[str, StringConstraints(pattern=r"^([a-z]{2,3}|code|multilingual)$")]
Dataset = Annotated[str, StringConstraints(pattern=r"^[\w.\-]+(/[\w.\-]+)?$", max_length=120)]
Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]


class CardSpec(Section):
    """What the model card says that cannot be measured (docs/export.md)."""

    license: License | None = Field(
        None,
        description="Licence of the model as the Hugging Face Hub writes it (`apache-2.0`). Unset: that of the base model "
        "where it is known, else `other`.",
    )
    license_link: Text | None = Field(
        None, description="Where the licence can be read; needed for one that the Hub does not list."
    )
    language: list[Language] = Field(
        default_factory=list, description="Of the texts, as ISO 639 codes (`en`), `code` or `multilingual`."
    )
    datasets: list[Dataset] = Field(
        default_factory=list, description="Public data sets the raw rows come from, as the Hub names them."
    )
    data_licenses: list[Text] = Field(default_factory=list, description="Licences of the raw rows, in words.")
    intended_use: Text | None = Field(None, description="What the model is meant for, besides the description.")
    out_of_scope: Text | None = Field(None, description="What it must not be used for.")

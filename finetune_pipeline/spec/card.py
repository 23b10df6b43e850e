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
    """What the model card says that cannot be measured (docs/release.md)."""

    license: License | None = Field(
        None,
        description="Hub id of the model's licence (`apache-2.0`). Unset: the base model's, else `other`.",
    )
    license_link: Text | None = Field(None, description="Where to read it, if the Hub does not list it.")
    language: list[Language] = Field(
        default_factory=list, description="ISO 639 codes (`en`), `code` or `multilingual`."
    )
    datasets: list[Dataset] = Field(
        default_factory=list, description="Hub names of public data sets the rows come from."
    )
    data_licenses: list[Text] = Field(default_factory=list, description="Licences of the raw rows.")
    intended_use: Text | None = Field(None, description="Intended use, besides the description.")
    out_of_scope: Text | None = Field(None, description="What not to use it for.")

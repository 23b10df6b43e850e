"""Base of the facts that one step writes and others read: a struct of msgspec, whose type is checked where JSON becomes facts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import msgspec

from finetune_pipeline.engine.files import DamagedFile, read_json

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic.json_schema import JsonSchemaValue
    from pydantic_core import CoreSchema

_Form = TypeVar("_Form")


def from_json(value: object, form: type[_Form]) -> _Form:
    """Return a struct from JSON's types. Raises ValueError for a missing or wrong field.

    Fields may be models of pydantic, or `object`: any JSON, which this code only passes on.
    """

    def model(form: type, value: object) -> object:
        if form is object:
            return value
        from pydantic import BaseModel  # takes long to import

        if issubclass(form, BaseModel):
            return form.model_validate(value)
        raise NotImplementedError(f"facts cannot contain {form}")

    return msgspec.convert(value, form, dec_hook=model)


def to_json(value: object) -> Any:
    """Return facts in JSON's types: a struct, or a container of them; fields may be models of pydantic."""

    def fields(value: object) -> Any:
        from pydantic import BaseModel

        if isinstance(value, BaseModel):
            return json.loads(value.model_dump_json(by_alias=True, exclude_unset=True))
        raise NotImplementedError(f"facts cannot contain {type(value)}")

    return msgspec.to_builtins(value, enc_hook=fields)


class Facts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Facts of a step, or a part of them. Fields that have their default are left out of the JSON.

    A field that is missing or misspelt is an error where the facts are made, and a wrong value where they are read. Keys that
    this release does not know are ignored. A pydantic model may contain facts, and describes them in its JSON schema. A
    subclass repeats ``frozen=True, kw_only=True``.
    """

    @classmethod
    def of(cls, value: object) -> Self:
        """Return facts as they are, or from JSON's types. Raises ValueError for a field that is missing or wrong."""
        if isinstance(value, cls):
            return value
        try:
            return from_json(value, cls)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error

    @classmethod
    def read(cls, path: Path) -> Self:
        """Return the facts in a JSON file. Raises DamagedFile."""
        try:
            return cls.of(read_json(path))
        except ValueError as error:
            raise DamagedFile(f"{path} is damaged: {error}\nfix: put back a copy of it") from error

    def to_json(self) -> dict[str, Any]:
        """Return the facts in JSON's types."""
        fields: dict[str, object] = to_json(self)
        return fields

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        serialization = core_schema.plain_serializer_function_ser_schema(to_json)
        return core_schema.no_info_plain_validator_function(cls.of, serialization=serialization)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: "CoreSchema", handler: "GetJsonSchemaHandler") -> "JsonSchemaValue":
        def foreign(form: Any) -> dict[str, object]:
            return {"description": "any JSON"} if form is object else form.model_json_schema()

        (own,), parts = msgspec.json.schema_components((cls,), ref_template="{name}", schema_hook=foreign)

        def with_parts(node: Any) -> Any:
            if isinstance(node, dict):
                return (
                    with_parts(parts[node["$ref"]]) if "$ref" in node else {k: with_parts(v) for k, v in node.items()}
                )
            return [with_parts(item) for item in node] if isinstance(node, list) else node

        described: dict[str, object] = with_parts(own)
        return described

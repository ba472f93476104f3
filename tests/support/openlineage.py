"""Events of OpenLineage read back as strictly as its client's own classes are written."""

from __future__ import annotations

import json
import types
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin

import attr
import jsonschema
from openlineage.client import facet_v2
from openlineage.client.event_v2 import RunEvent
from openlineage.client.serde import Serde

import batchroute.pipeline.lineage as package

COST = json.loads((Path(package.__file__).parent / "cost_run_facet.json").read_text())


def check(event: dict[str, Any]) -> dict[str, Any]:
    """The event; all in it must be as a class of the client, or the schema of our own facet, says."""
    built = _built(RunEvent, event, "event")
    # The client writes empty lists and objects where there is nothing.
    assert Serde.to_dict(built) == event
    return event


def _classes() -> dict[str, type]:
    """The classes of facets by the address of their schema."""
    assert facet_v2.schema_dataset
    found: dict[str, type] = {}
    waiting: list[type] = [facet_v2.BaseFacet]
    while waiting:
        cls = waiting.pop()
        # attrs makes a second class of each that it defines; the first one has no fields of its own.
        if "__attrs_attrs__" in vars(cls):
            found[cls._get_schema()] = cls  # type: ignore[attr-defined]
        waiting += cls.__subclasses__()
    return found


def _built(kind: Any, value: Any, place: str) -> Any:
    """`value`, of JSON, as an object of `kind`; raises if the class has no such key, or another type."""
    if get_origin(kind) in (Union, types.UnionType):
        (kind,) = (option for option in get_args(kind) if option is not type(None))
    if get_origin(kind) is list:
        return [_built(get_args(kind)[0], item, f"{place}[{number}]") for number, item in enumerate(value)]
    if get_origin(kind) is dict:
        return {key: _built(get_args(kind)[1], item, f"{place}.{key}") for key, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return kind(value)
    if not attr.has(kind):
        assert isinstance(value, kind), f"{place} is {value!r}"
        return value
    if "_schemaURL" in value:
        if value["_schemaURL"].startswith(COST["$id"]):
            jsonschema.validate({"batchroute_cost": value}, COST)
            return value
        kind = _classes()[value["_schemaURL"]]
        assert value["_producer"].startswith("urn:batchroute:"), place
    fields = {field.name: field for field in attr.fields(attr.resolve_types(kind))}
    assert value.keys() <= fields.keys(), (place, value.keys() - fields.keys())
    given = {
        field.alias: _built(field.type, value[name], f"{place}.{name}")
        for name, field in fields.items()
        if name in value and field.init
    }
    built = kind(**given)
    assert all(getattr(built, name) == value[name] for name in ("schemaURL", "_schemaURL") if name in value), place
    return built

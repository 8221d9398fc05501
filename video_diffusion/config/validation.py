"""Layers into frozen pydantic settings; what is wrong is told in one line: where, what, value, way out."""

from collections.abc import Sequence
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Le, MultipleOf
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from video_diffusion.config.layers import ConfigError, Layer, dotted, nearest, shown

Model = TypeVar("Model", bound=BaseModel)


def validate(model: type[Model], layer: Layer) -> Model:
    """Builds the frozen settings from a layer.

    Raises:
        ConfigError: the first thing wrong, as one line with its origin, its rule and the value given.
    """
    try:
        return model.model_validate(dict(layer.values))
    except ValidationError as error:
        details = error.errors()
        # a misspelled name explains the one that is missing
        first = next((each for each in details if each["type"] == "extra_forbidden"), details[0])
        line = _sentence(model, first)
        origin = layer.origin(tuple(first["loc"]))
        more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
        raise ConfigError(f"{origin}: {line}{more}" if origin else f"{line}{more}") from None


def _sentence(model: type[BaseModel], error: ErrorDetails) -> str:
    """One pydantic error in our words: field, rule, value given, way out."""
    path = tuple(error["loc"])
    name, given = dotted(path), f" (given {shown(error['input'])})"
    holder: type[BaseModel] | None = model
    for key in path[:-1]:
        holder = _section(holder, key)
    fields = holder.model_fields if holder is not None else {}
    if error["type"] == "extra_forbidden":
        return f"no setting '{name}'{nearest(str(path[-1]), fields)}"
    if error["type"] == "missing":
        return f"{name} is missing; give it"
    if error["type"] == "value_error":
        return f"{name} {error['ctx']['error']}{given}"
    known = fields.get(str(path[-1])) if path else None
    rule = _rule(known.annotation, known.metadata) if known is not None else ""
    return f"{name} must be {rule}{given}" if rule else f"{name}: {error['msg']}{given}"


def _section(model: type[BaseModel] | None, key: str | int) -> type[BaseModel] | None:
    if isinstance(key, int):  # an item of a list of sections
        return model
    found = model.model_fields.get(str(key)) if model is not None else None
    kinds = (found.annotation, *get_args(found.annotation)) if found is not None else ()
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)


def _rule(annotation: Any, metadata: Sequence[Any]) -> str:
    """What a field accepts, in words, from its type and its constraints."""
    union = get_origin(annotation) in {Union, UnionType}
    kinds = [kind for kind in (get_args(annotation) if union else (annotation,)) if kind is not type(None)]
    if len(kinds) != 1:
        return ""
    if get_origin(kinds[0]) is Literal:
        return "one of " + ", ".join(str(choice) for choice in get_args(kinds[0]))
    if isinstance(kinds[0], type) and issubclass(kinds[0], BaseModel):
        return "a section of key: value lines"
    words = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    if kinds[0] not in words:
        return ""
    rule = words[kinds[0]]
    low = next((item.ge for item in metadata if isinstance(item, Ge)), None)
    high = next((item.le for item in metadata if isinstance(item, Le)), None)
    step = next((item.multiple_of for item in metadata if isinstance(item, MultipleOf)), None)
    if step is not None:
        rule += f", a multiple of {step},"
    if low is not None:
        rule += f" from {low} to {high}" if high is not None else f", {low} or more"
    elif high is not None:
        rule += f", at most {high}"
    return rule

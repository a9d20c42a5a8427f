"""From what a user types to a `SearchConfig`: named values, old spellings, `--set key=value`."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from enum import StrEnum
from typing import Any, TypeVar

from selfrag.decode.config import QueryPolicy, SearchConfig
from selfrag.decode.gate import GateKind, RetrievalMode
from selfrag.decode.node import PathScore
from selfrag.errors import BadInput, ConfigError

E = TypeVar("E", bound=StrEnum)

_ENUMS: dict[str, type[StrEnum]] = {
    "mode": RetrievalMode,
    "gate": GateKind,
    "path_score": PathScore,
    "query": QueryPolicy,
}
_SWITCHES = ("with_no_retrieval", "inline_passages", "repeat", "drop_unsupported")
_FRACTIONS = ("threshold", "prune_relevance", "max_seconds", "min_support")
_OPTIONAL = (*_FRACTIONS, "max_tokens", "max_passages")  # may be none


def mode_from(text: str) -> RetrievalMode:
    """A mode by its name, or by its name in the released scripts."""
    return _one_of("mode", RetrievalMode, text)


def threshold_from(text: str) -> float | None:
    """A number, or `none`: the emitted token decides."""
    return None if text.lower() == "none" else _number("threshold", text, float)


def choices_from(text: str) -> tuple[str, ...]:
    """`true,false` as two choices; `|` separates where a comma belongs to an answer."""
    separator = "|" if "|" in text else ","
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def apply_settings(config: SearchConfig, pairs: Sequence[str]) -> SearchConfig:
    """`config` with every `key=value` of `pairs`; raises `ConfigError` for what does not exist.

    Keys are the fields of `SearchConfig`, and `weights.relevance` and so on.
    """
    values: dict[str, Any] = {}
    weights = config.weights
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found:
            raise BadInput(
                f"cannot set {pair!r}: expected key=value, as in --set beam_width=4, so write it so"
            )
        key = key.strip().removeprefix("decode.")
        if key.startswith("weights."):
            name = key.removeprefix("weights.")
            _require_key(key, [f"weights.{field.name}" for field in fields(weights)])
            weights = replace(weights, **{name: _number(key, text, float)})
        else:
            values[key] = parse_value(key, text.strip())
    return replace(config, weights=weights, **values)


def parse_value(key: str, text: str) -> Any:
    """The value of one field of `SearchConfig`, from text."""
    _require_key(key, [field.name for field in fields(SearchConfig) if field.name != "weights"])
    if key == "mode":
        return mode_from(text)
    if key in _ENUMS:
        return _one_of(key, _ENUMS[key], text)
    if key == "choices":
        return choices_from(text)
    if text.lower() == "none" and key in _OPTIONAL:
        return None
    if key in _SWITCHES:
        return _switch(key, text)
    return _number(key, text, float if key in _FRACTIONS else int)


def _require_key(key: str, known: Sequence[str]) -> None:
    if key not in known:
        raise ConfigError(
            f"cannot set {key}: there is no such setting; expected one of {', '.join(known)}"
        )


def _one_of(key: str, kind: type[E], text: str) -> E:
    try:
        return kind(text)
    except ValueError:
        names = ", ".join(member.value for member in kind)
        raise ConfigError(
            f"cannot set {key} to {text!r}: expected one of {names}, so choose one"
        ) from None


def _switch(key: str, text: str) -> bool:
    switches: Mapping[str, bool] = {"true": True, "yes": True, "false": False, "no": False}
    if text.lower() not in switches:
        raise ConfigError(f"cannot set {key} to {text!r}: expected true or false, so write one")
    return switches[text.lower()]


def _number(key: str, text: str, kind: type[Any]) -> Any:
    try:
        return kind(text)
    except ValueError:
        wanted = "a whole number" if kind is int else "a number"
        wanted += " or none" if key in _OPTIONAL else ""
        raise ConfigError(
            f"cannot set {key} to {text!r}: expected {wanted}, so write one"
        ) from None

"""Dataclasses to text and back: JSON, TOML and `a.b=c`, with one set of checks for settings.

Knows nothing of which settings there are. JSON is written by the standard library, whose form the
files of this project have; what comes in is converted by msgspec.
"""

import json
import math
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, is_dataclass, replace
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from selfrag.errors import BadInput, ConfigError

T = TypeVar("T")

# Types of settings that say their range; `check_config` and `override` refuse what is outside.
Count = Annotated[int, Meta(ge=1)]
Whole = Annotated[int, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Meta(ge=0.0)]
Positive = Annotated[float, Meta(gt=0.0)]


def setting(
    default: T, help: str, *names: str, least: int | None = None, is_repeated: bool = False
) -> T:
    """A dataclass field that is an option: its help, and its names where not the field's own.

    The command line refuses numbers under `least`. A tuple is one option for each member where it
    `is_repeated`, else one option of members parted by commas.
    """
    metadata = {"help": help, "names": names, "least": least, "is_repeated": is_repeated}
    return field(default=default, metadata=metadata)


def json_text(value: Any, *, indent: int | None = None) -> str:
    """JSON of plain values and dataclasses; keys keep their order, and NaN raises `ValueError`."""
    return json.dumps(
        value, ensure_ascii=False, allow_nan=False, indent=indent, default=msgspec.to_builtins
    )


def finite(value: Any) -> Any:
    """Plain lists and tables with null for every number that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value


def json_line(value: Any) -> bytes:
    """One line of JSON in UTF-8; half a surrogate pair, which UTF-8 lacks, stays an escape."""
    return (json_text(value) + "\n").encode(errors="backslashreplace")


def from_builtins(kind: type[T], data: Any, *, closed: bool = False) -> T:
    """The dataclass that `data`, read from JSON, describes; words become members of enums.

    Keys that `kind` lacks are ignored, unless it is `closed`. Raises `ValueError` saying where a
    value does not fit.
    """
    if closed:
        _refuse_unknown(kind, data, "")
    return msgspec.convert(data, kind)


def _refuse_unknown(kind: Any, data: Any, table: str) -> None:
    hints = _types(kind)
    for name, value in data.items() if isinstance(data, Mapping) else ():
        if name not in hints:
            raise ValueError(f"it has an unknown field {_key(table, name)!r}")
        if (inner := _dataclass_of(hints[name])) is not None:
            _refuse_unknown(inner, value, _key(table, name))


# Settings


def config_from(kind: type[T], data: Mapping[str, Any], *, table: str = "") -> T:
    """The settings of a table, such as one of a TOML file, nested tables included.

    Raises `ConfigError` naming a key that does not exist, or a value that does not fit.
    """
    return kind(**_values_of(kind, data, table))


def read_toml(path: Path, what: str = "settings") -> dict[str, Any]:
    """The tables of a TOML file; raises `BadInput` where there is none."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise BadInput(
            f"cannot read {what} from {path}: {error.strerror}; expected a readable TOML file, so "
            "name another"
        ) from error
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError
        raise BadInput(
            f"cannot read {what} from {path}: {error}; expected TOML in UTF-8, so fix the file"
        ) from error


def override(config: T, pairs: Iterable[str], *, table: str = "") -> T:
    """`config` with every `key=value` of `pairs`; `a.b=c` sets a field of the table `a`.

    Keys may begin with the name of the table itself. Raises `ConfigError` naming what does not
    exist or does not fit, and `BadInput` for what is no pair.
    """
    changes: dict[str, Any] = {}
    for pair in pairs:
        key, found, text = pair.partition("=")
        key = key.strip().removeprefix(f"{table}.")
        if not found or not key:
            raise BadInput(
                f"cannot set {pair!r}: expected key=value, as in --set beam_width=4, so write it so"
            )
        *tables, name = key.split(".")
        place = changes
        for each in tables:
            place = place.setdefault(each, {})
            if not isinstance(place, dict):
                raise _unknown(key, _keys(config))
        place[name] = text.strip()
    return _replaced(config, changes, "")


def _replaced(config: T, changes: Mapping[str, Any], table: str) -> T:
    hints = _types(config)
    values: dict[str, Any] = {}
    for name, change in changes.items():
        key = _key(table, name)
        kind = _dataclass_of(hints[name]) if name in hints else None
        if name not in hints or (kind is None) == isinstance(change, dict):
            raise _unknown(key, _keys(config, table))
        if kind is not None:
            inner = getattr(config, name)
            values[name] = _replaced(kind() if inner is None else inner, change, key)
        else:
            values[name] = value_from_text(change, hints[name], key)
    return typing.cast(T, replace(typing.cast(Any, config), **values))


def value_from_text(text: str, hint: Any, key: str) -> Any:
    """What a user typed for the setting `key` of the type `hint`; raises `ConfigError`.

    `none` where the setting may be none; true, yes, false and no; members of a list parted by
    commas, or by `|` where a comma belongs to one.
    """
    bare, is_optional = _without_none(hint)
    if is_optional and text.lower() in ("none", "null"):
        return None
    value: Any = text
    if bare is bool:
        value = {"yes": "true", "no": "false"}.get(text.lower(), text.lower())
    elif typing.get_origin(bare) in (tuple, list):
        parts = text.split("|" if "|" in text else ",")
        value = [part.strip() for part in parts if part.strip()]
        if text.strip() and not value:  # separators alone
            raise _misfit(key, text, hint, "cannot set")
    elif (typing.get_args(bare) or (bare,))[0] is float and text.strip().startswith("."):
        value = f"0{text.strip()}"  # a number of JSON begins with a digit
    try:
        return _finite(msgspec.convert(value, bare, strict=False))
    except ValueError:
        raise _misfit(key, text, hint, "cannot set") from None


def check_config(config: Any, table: str, *, doing: str = "go on") -> None:
    """Converts and checks the fields of a frozen dataclass; to be called in `__post_init__`.

    Words become members of enums, lists tuples, whole numbers floats where the type says so.
    Anything else that is not of its type, outside the range that the type states, or not finite
    raises `ConfigError`: `cannot {doing}: {table}.{field} is ...`.
    """
    for name, hint in _types(config).items():
        key = _key(table, name)
        object.__setattr__(
            config, name, _converted(getattr(config, name), hint, key, f"cannot {doing}:")
        )


def _converted(value: Any, hint: Any, key: str, doing: str) -> Any:
    kind = _dataclass_of(hint)
    try:
        if kind is not None and isinstance(value, Mapping):
            raise ValueError  # msgspec would make the defaults of an empty one
        # A numpy scalar, by its module: importing numpy would slow every command's start.
        plain = value.item() if type(value).__module__ == "numpy" else value
        return _finite(msgspec.convert(plain, hint))
    except ValueError:
        raise _misfit(key, value, hint, doing) from None


def _values_of(kind: Any, data: Mapping[str, Any], table: str) -> dict[str, Any]:
    hints = _types(kind)
    values: dict[str, Any] = {}
    for name, value in data.items():
        if name not in hints:
            raise _unknown(_key(table, name), _keys(kind))
        inner = _dataclass_of(hints[name])
        if inner is not None and isinstance(value, Mapping):
            value = config_from(inner, value, table=_key(table, name))
        values[name] = _converted(value, hints[name], _key(table, name), "cannot use the settings:")
    for each in fields(kind):
        is_given = each.name in values or each.default is not MISSING
        if not is_given and each.default_factory is MISSING:
            raise ConfigError(
                f"cannot use the settings: {_key(table, each.name)} is missing; expected "
                f"{describe(hints[each.name])}, so give one"
            )
    return values


def describe(hint: Any) -> str:
    """The values of a type in words: `a whole number of at least 1 or none`."""
    bare, is_optional = _without_none(hint)
    return _words(bare) + (" or none" if is_optional else "")


def _words(hint: Any) -> str:
    if typing.get_origin(hint) is Annotated:
        bare, *metas = typing.get_args(hint)
        limits = [limit for meta in metas if isinstance(meta, Meta) for limit in _limits(meta)]
        return " ".join([_words(bare), *limits])
    if isinstance(hint, type) and issubclass(hint, Enum):
        return "one of " + ", ".join(str(member.value) for member in hint)
    if typing.get_origin(hint) in (tuple, list):
        return "a list of " + _words(typing.get_args(hint)[0]).removeprefix("a ") + "s"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a string"}
    return names.get(hint) or f"a {getattr(hint, '__name__', hint)}"


def _limits(meta: Meta) -> list[str]:
    if meta.ge is not None and meta.le is not None:
        return [f"from {meta.ge:g} to {meta.le:g}"]
    found = (("of at least", meta.ge), ("above", meta.gt), ("up to", meta.le), ("below", meta.lt))
    return [f"{words} {limit:g}" for words, limit in found if limit is not None]


def _misfit(key: str, value: Any, hint: Any, doing: str) -> ConfigError:
    wanted = describe(hint)
    advice = "choose one" if "one of" in wanted or wanted.startswith("true") else "change it"
    if doing == "cannot set":
        return ConfigError(f"cannot set {key} to {value!r:.80}: expected {wanted}, so {advice}")
    return ConfigError(f"{doing} {key} is {value!r:.80}; expected {wanted}, so {advice}")


def _unknown(key: str, known: Sequence[str]) -> ConfigError:
    return ConfigError(
        f"cannot set {key}: there is no such setting; expected one of {', '.join(known)}"
    )


def _keys(kind: Any, table: str = "") -> list[str]:
    """Names of all settings of a dataclass, nested ones as `weights.relevance`."""
    keys: list[str] = []
    for name, hint in _types(kind).items():
        inner = _dataclass_of(hint)
        keys += [_key(table, name)] if inner is None else _keys(inner, _key(table, name))
    return keys


def _key(table: str, name: str) -> str:
    return f"{table}.{name}" if table else name


def _types(config: Any) -> Mapping[str, Any]:
    """The types of the fields that a caller of a dataclass, or of its class, may give."""
    return _types_of_class(config if isinstance(config, type) else type(config))


@cache
def _types_of_class(kind: Any) -> Mapping[str, Any]:
    hints = typing.get_type_hints(kind, include_extras=True)
    return {each.name: hints[each.name] for each in fields(kind) if each.init}


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) not in (typing.Union, types.UnionType):
        return hint, False
    kinds = [each for each in typing.get_args(hint) if each is not type(None)]
    is_optional = len(kinds) < len(typing.get_args(hint))
    return (kinds[0] if len(kinds) == 1 else typing.Union[tuple(kinds)]), is_optional  # noqa: UP007


def _dataclass_of(hint: Any) -> Any:
    bare, _ = _without_none(hint)
    return bare if isinstance(bare, type) and is_dataclass(bare) else None


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError
    return value

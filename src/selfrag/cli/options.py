"""Options from dataclasses: each field of a config, or of a group of options, is one option.

`command` turns a function of a few dataclasses into what Typer reads, a function of their fields.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import ParameterInfo

from selfrag.cli import effect
from selfrag.errors import BadInput
from selfrag.serial import value_from_text

Index = Annotated[
    str | None,
    typer.Option("--index", help="Folder, s3://… or postgresql://…; else the demo index."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]
Changes = Annotated[
    list[str] | None, typer.Option("--set", help="Any setting of the search as key=value.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where passages are from."""

    index: Index = None
    passages: Annotated[
        Path | None,
        typer.Option("--passages", help="File of passages to read in place of an index."),
    ] = None


_CONTEXT = "typer_context"


class Only(frozenset[str]):
    """Beside a config in `Annotated`: only these of its fields are options."""


class Without(frozenset[str]):
    """Beside a config in `Annotated`: these of its fields are no options."""


class Given(dict[str, str]):
    """The options that stand on the command line, by field or parameter, as they are spelled.

    A command that has a parameter of this type can refuse what has no effect beside something else.
    """

    def refuse(self, names: Iterable[str], doing: str, why: str) -> None:
        """Raises `BadInput` for the first of `names` that was given."""
        for name in names:
            if name in self:
                raise BadInput(f"cannot {doing} with {self[name]}: {why}; leave it out")


@dataclass(frozen=True, slots=True)
class _Group:
    """A parameter that is a dataclass: its class, and the options that make one."""

    kind: type[Any]
    options: dict[str, inspect.Parameter]  # by the path of the field, as in weights.support

    def build(self, values: Mapping[str, Any]) -> Any:
        """The dataclass from the value of every option; raises what it raises itself."""
        return _built(self.kind, {path: values[p.name] for path, p in self.options.items()})


def set_keys(changes: Sequence[str] | None) -> dict[str, str]:
    """The settings that `--set` names, spelled so."""
    keys = [change.partition("=")[0].strip().removeprefix("decode.") for change in changes or ()]
    return {key: f"--set {key}" for key in keys}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """`function` for Typer: a parameter that is a dataclass becomes one option for each field.

    Fields are options where they are annotated for Typer, or are made by `serial.setting`.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, _Group] = {}
    parameters: dict[str, inspect.Parameter] = {}
    given_name = next((name for name, hint in hints.items() if hint is Given), None)
    for name, parameter in inspect.signature(function).parameters.items():
        if name == given_name:
            continue
        kind, *extras = _annotated(hints[name])
        if not (isinstance(kind, type) and is_dataclass(kind)):
            found = [parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY)]
        else:
            groups[name] = _Group(kind, dict(_options_of(kind, _wanted(extras))))
            found = list(groups[name].options.values())
        parameters |= {each.name: each for each in found}

    own_context = next((name for name, hint in hints.items() if hint is typer.Context), None)
    if own_context is None:
        parameters[_CONTEXT] = _parameter(_CONTEXT, typer.Context, MISSING)
    paths = {p.name: path for group in groups.values() for path, p in group.options.items()}

    def run(**values: Any) -> None:
        context = values[own_context] if own_context else values.pop(_CONTEXT)
        given = _given(context, paths)
        if given_name is not None:
            values[given_name] = given
        made = {name: group.build(values) for name, group in groups.items()}
        effect.refuse(_by_field(given), _by_field({paths.get(k, k): values[k] for k in values}))
        plain = {name: value for name, value in values.items() if name not in paths}
        function(**plain, **made)

    run.__name__, run.__doc__ = function.__name__, function.__doc__
    run.__annotations__ = {}
    # What Typer reads instead of the parameters of `run`.
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    return run


def _by_field(named: Mapping[str, Any]) -> dict[str, Any]:
    """By the name of the field alone, in whatever group it is."""
    return {path.rpartition(".")[2]: value for path, value in named.items()}


def _given(context: typer.Context, paths: Mapping[str, str]) -> Given:
    given = Given()
    for option in context.command.params:
        source = context.get_parameter_source(option.name or "")
        if option.name and source is not None and source.name == "COMMANDLINE":
            given[paths.get(option.name, option.name)] = option.opts[0]
    return given


def _annotated(hint: Any) -> tuple[Any, ...]:
    """The type, and what is annotated beside it."""
    return get_args(hint) if get_origin(hint) is Annotated else (hint,)


def _wanted(extras: Sequence[Any]) -> Callable[[str], bool]:
    """Which fields of a config are options, by what is annotated beside it."""
    for each in extras:
        if isinstance(each, Only):
            return each.__contains__
        if isinstance(each, Without):
            return lambda name: name not in each
    return lambda name: True


def _options_of(
    kind: type[Any], is_wanted: Callable[[str], bool], prefix: str = ""
) -> Iterator[tuple[str, inspect.Parameter]]:
    """The options of a dataclass by the paths of its fields, in order, nested ones in place."""
    hints = get_type_hints(kind, include_extras=True)
    for each in filter(lambda field: is_wanted(prefix + field.name), fields(kind)):
        hint, path = hints[each.name], prefix + each.name
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _options_of(hint, is_wanted, f"{path}.")
        elif any(isinstance(extra, ParameterInfo) for extra in _annotated(hint)):
            yield path, _parameter(each.name, hint, each.default)
        elif "help" in each.metadata:
            yield path, _setting(each, hint, path)


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    empty = inspect.Parameter.empty
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=annotation,
        default=empty if default is MISSING else default,
    )


def _setting(each: Field[Any], hint: Any, path: str) -> inspect.Parameter:
    name, default = path.replace(".", "_"), each.default
    names, told = each.metadata["names"], each.metadata["help"]
    base = _bare(hint)
    if each.metadata["is_repeated"]:
        return _parameter(name, Annotated[list[str], typer.Option(*names, help=told)], [])
    is_none_a_word = default is not None and NoneType in get_args(hint)
    if not is_none_a_word and (base in (int, float, str, bool, Path) or _is_plain_enum(base)):
        annotation = base | None if default is None else base
        option = typer.Option(*names, help=told, min=each.metadata["least"])
        return _parameter(name, Annotated[annotation, option], default)
    # The rest is read as `--set` reads it: `none`, commas, and spellings of the released scripts.
    option = typer.Option(
        *names,
        help=told,
        parser=lambda text: value_from_text(text, hint, path),
        metavar=each.name.upper(),
    )
    return _parameter(name, Annotated[str, option], _as_text(default))


def _bare(hint: Any) -> Any:
    """The type without None beside it, and without the range that it may say."""
    kinds = get_args(hint) if isinstance(hint, UnionType) else [hint]
    return _annotated(next(each for each in kinds if each is not NoneType))[0]


def _is_plain_enum(kind: Any) -> bool:
    """Whether all words for the members are their values."""
    is_enum = isinstance(kind, type) and issubclass(kind, StrEnum)
    return is_enum and "_missing_" not in vars(kind)


def _as_text(value: Any) -> str:
    """The default as a user would write it."""
    if value is None:
        return "none"
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _built(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass from values by the paths of its fields; nested ones are made first."""
    own = {path: value for path, value in values.items() if "." not in path}
    hints = get_type_hints(kind)
    for name in dict.fromkeys(path.partition(".")[0] for path in values if "." in path):
        inner = {
            p.removeprefix(f"{name}."): v for p, v in values.items() if p.startswith(f"{name}.")
        }
        own[name] = _built(hints[name], inner)
    return kind(**own)

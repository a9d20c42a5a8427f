"""Writes docs/reference and docs/llms.txt from the code: commands, settings, Python, HTTP.

    python tools/make_reference.py

`tests/test_docs.py` fails where a page is not what this writes. Knows nothing of the other pages.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import typer
import yaml
from msgspec import Meta

import selfrag
from selfrag import errors, indexing
from selfrag.cli.app import app
from selfrag.decode.config import SearchConfig
from selfrag.indexing import BuildOptions
from selfrag.open.engines import ModelOptions
from selfrag.passage import Hit
from selfrag.retrieval.options import SearchOptions
from selfrag.serve.app import create_app
from selfrag.serve.limits import Limits
from selfrag.serve.service import Service
from selfrag.train.config import TrainConfig

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
MADE = "<!-- Written by `make reference` from the code; change the code, not this page. -->\n"

# What the settings page shows: the table of a TOML file, or what takes the options, and its class.
SETTINGS = (
    ("decode", "One search: `--set name=value`, `settings` over HTTP", SearchConfig),
    (
        "search",
        "How an index is searched: options of `search`, `retrieve` and `ask`",
        SearchOptions,
    ),
    ("build", "How files are cut: options of `index build`", BuildOptions),
    ("model", "Which model, and what runs it: options of every command that answers", ModelOptions),
    ("train", "One training run: `[train]` of a recipe, `--set train.name=value`", TrainConfig),
    ("limits", "What a server allows: options of `serve`, or `SELFRAG_SERVE_NAME`", Limits),
)


def pages() -> dict[Path, str]:
    """Every page that is made, by its path: what `main` writes and the test compares with."""
    made = {
        DOCS / "reference" / "cli.md": "".join(_cli()),
        DOCS / "reference" / "settings.md": "".join(_settings()),
        DOCS / "reference" / "python.md": "".join(_python()),
        DOCS / "reference" / "http.md": "".join(_http()),
    }
    return made | {DOCS / "llms.txt": "".join(_llms(made))}


def main() -> None:
    """Writes the pages that differ."""
    for path, text in pages().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _cli() -> Iterator[str]:
    yield f"# Command line\n\n{MADE}\n`selfrag COMMAND --help` prints the same. "
    yield "`--debug`, with any command, shows the traceback of an error.\n"
    group = typer.main.get_group(app)
    for name in group.list_commands(None):  # type: ignore[arg-type]
        yield from _command(f"selfrag {name}", group.get_command(None, name))  # type: ignore[arg-type]


def _command(path: str, command: Any) -> Iterator[str]:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option"]
    inner = getattr(command, "commands", {})
    usage = [path, *(_argument(each) for each in arguments)]
    if any(each.name != "help" for each in options):
        usage.append("[OPTIONS]")
    yield f"\n## {path}\n\n{_escaped(inspect.cleandoc(command.help or ''))}\n"
    if not inner or len(usage) > 1:
        yield f"\n```\n{' '.join(usage)}\n```\n"
    rows = [(f"`{each.name.upper()}`", each.help or "", "") for each in arguments]
    rows += [_option(each) for each in options if each.name != "help" and not each.hidden]
    rows = [row for row in rows if row[1] or row[0].startswith("`-")]
    if rows:
        yield from _table(("option", "meaning", "default"), rows)
    for name, each in inner.items():
        yield from _command(f"{path} {name}", each)


def _argument(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return str(name if argument.required else f"[{name}]")


def _option(option: Any) -> tuple[str, str, str]:
    names = ", ".join(f"`{each}`" for each in (*option.opts, *option.secondary_opts))
    default = option.default() if callable(option.default) else option.default
    is_told = not option.is_flag and default not in (None, "", [], ())
    required = "required" if option.required else ""
    return names, option.help or "", f"`{_plain(default)}`" if is_told else required


def _settings() -> Iterator[str]:
    yield f"# Settings\n\n{MADE}\n"
    yield "Unknown names and values out of range are refused with a sentence that names them.\n"
    for table, title, kind in SETTINGS:
        yield f"\n## `{table}`: {title[0].lower()}{title[1:]}\n\n{_prose(kind)}\n"
        yield from _table(("name", "type", "default", "meaning"), _fields(kind))


def _fields(kind: type[Any], prefix: str = "") -> Iterator[tuple[str, ...]]:
    hints = get_type_hints(kind, include_extras=True)
    for each in fields(kind):
        hint = hints[each.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _fields(hint, f"{prefix}{each.name}.")
        else:
            meaning = str(each.metadata.get("help", ""))
            yield f"`{prefix}{each.name}`", _type(hint), _default(each), meaning


def _default(each: "Field[Any]") -> str:
    if each.default is MISSING and each.default_factory is MISSING:
        return "required"
    value = each.default if each.default_factory is MISSING else each.default_factory()
    return "" if value in ("", ()) else f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    return "none" if value is None else str(value).lower() if value in (True, False) else str(value)


def _type(hint: Any) -> str:
    """A type as a user would say it: its words for an enum, its bounds for a number."""
    if hint is type(None):
        return "none"
    if get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        bare, *extras = get_args(hint)
        bounds = [bound for each in extras if isinstance(each, Meta) for bound in _bounds(each)]
        return ", ".join([_type(bare), *bounds])
    if isinstance(hint, type) and hasattr(hint, "__members__"):
        return ", ".join(f"`{value}`" for value in hint)  # type: ignore[attr-defined]
    if get_origin(hint) is tuple:
        return "words with commas between"
    if get_args(hint):
        return " or ".join(_type(each) for each in get_args(hint))
    return {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}.get(
        getattr(hint, "__name__", ""), str(hint)
    )


def _bounds(meta: Meta) -> Iterator[str]:
    signs = (("≥", meta.ge), (">", meta.gt), ("≤", meta.le), ("<", meta.lt))
    yield from (f"{sign} {bound:g}" for sign, bound in signs if bound is not None)


def _python() -> Iterator[str]:
    yield f"# Python\n\n{MADE}\n`from selfrag import …`: every public name of the package.\n"
    for name in sorted(selfrag.__all__, key=lambda each: (each != "SelfRAG", each)):
        yield from _class(getattr(selfrag, name))
    yield from _class(Hit)
    yield f"\n## `selfrag.indexing`\n\n{_prose(indexing)}\n"
    for name, each in inspect.getmembers(indexing, inspect.isfunction):
        if each.__module__ == indexing.__name__ and not name.startswith("_"):
            yield from _callable(f"indexing.{name}", each)
    yield f"\n## `selfrag.errors`\n\n{_prose(errors)}\n"


def _class(kind: type[Any]) -> Iterator[str]:
    yield f"\n## `{kind.__name__}`\n\n{_prose(kind)}\n"
    if hasattr(kind, "__members__"):
        yield "\nMembers: " + ", ".join(f"`{value}`" for value in kind) + ".\n"
        return
    if is_dataclass(kind):
        names = (f"`{each.name}`" for each in fields(kind) if not each.name.startswith("_"))
        yield "\nFields: " + ", ".join(names) + ".\n"
    for name, each in vars(kind).items():
        each = each.__func__ if isinstance(each, classmethod | staticmethod) else each
        if isinstance(each, property) and not name.startswith("_"):
            yield f"\n### `{kind.__name__}.{name}`\n\n{_prose(each)}\n"
        elif inspect.isfunction(each) and not name.startswith("_"):
            yield from _callable(f"{kind.__name__}.{name}", each)


def _callable(name: str, function: Any) -> Iterator[str]:
    # Annotations as they are written: their form when evaluated differs between Pythons.
    source = inspect.getsource(function)
    shown = source[source.index("def ") : re.search(r":\n\s+(?:\"\"\"|r\"\"\")", source).start()]  # type: ignore[union-attr]
    yield f"\n### `{name}`\n\n```python\n{inspect.cleandoc(shown)}\n```\n\n{_prose(function)}\n"


def _prose(thing: Any) -> str:
    """Its docstring; blocks that it indents become code."""
    text, in_code, lines = inspect.getdoc(thing) or "", False, []
    for line in text.splitlines():
        if line.startswith("    ") != in_code and line:
            in_code = not in_code
            lines.append("```" if not in_code else "```text")
        lines.append(line[4:] if in_code else _escaped(line))
    return "\n".join([*lines, "```"] if in_code else lines)


def _http() -> Iterator[str]:
    service = Service(lambda _: (None, None), Limits())  # type: ignore[arg-type,return-value]
    described = create_app(service).app.openapi()  # type: ignore[attr-defined]
    yield f"# HTTP\n\n{MADE}\nFrom `GET /openapi.json`. What streams and answers hold, and how "
    yield "citations are told: [The server](../server.md).\n"
    for path, methods in described["paths"].items():
        for method, route in methods.items():
            yield f"\n## {method.upper()} {path}\n\n{_escaped(route['description'])}\n"
            for kind, content in route.get("requestBody", {}).get("content", {}).items():
                schema = content["schema"]
                named = schema.get("$ref", "").rpartition("/")[2]
                body = f"[{named}](#{named.lower()})" if named else "a form with files in `file`"
                yield f"\nBody: {body}, `{kind}`.\n"
            for each in route.get("parameters", ()):
                yield f"\n`{each['name']}`: in the {each['in']}.\n"
    schemas = described["components"]["schemas"]
    for name in (
        each for each in schemas if "Validation" not in each and "enum" not in schemas[each]
    ):
        schema = schemas[name]
        yield f"\n## {name}\n\n{_escaped(inspect.cleandoc(schema.get('description', '')))}\n"
        yield from _table(("key", "type", "default"), _keys(schema, schemas))


def _keys(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, each in schema.get("properties", {}).items():
        default = "required" if key in schema.get("required", ()) else ""
        if each.get("default") not in (None, "", [], {}):
            default = f"`{each['default']}`".replace("True", "true").replace("False", "false")
        yield f"`{key}`", _json_type(each, schemas), default


def _json_type(schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        words = schemas[name].get("enum")
        return ", ".join(f"`{each}`" for each in words) if words else f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_json_type(each, schemas) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"list of {_json_type(schema.get('items') or {}, schemas)}"
    signs = (("≥", "minimum"), (">", "exclusiveMinimum"), ("≤", "maximum"))
    bounds = [f"{sign} {schema[key]}" for sign, key in signs if key in schema]
    return " ".join([str(schema.get("type", "anything")), *bounds])


def _llms(made: Mapping[Path, str]) -> Iterator[str]:
    """The pages of the navigation, each with its first sentence (https://llmstxt.org)."""
    config = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    yield f"# {config['site_name']}\n\n> {config['site_description']}\n"
    for section in config["nav"]:
        (title, entries), *_ = section.items()
        yield f"\n## {title}\n\n"
        for entry in [{title: entries}] if isinstance(entries, str) else entries:
            (name, path), *_ = entry.items()
            text = made.get(DOCS / path) or (DOCS / path).read_text(encoding="utf-8")
            yield f"- [{name}]({path}): {_first_sentence(text)}\n"


def _first_sentence(page: str) -> str:
    paragraphs = re.split(r"\n\s*\n", page)
    other = ("#", "<!--", "```", "|", "!")
    prose = (" ".join(each.split()) for each in paragraphs if not each.startswith(other))
    return re.split(r"(?<=[.!?])\s", next(prose), maxsplit=1)[0]


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield "\n" + "| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|\n"
    for row in rows:
        cells = (
            row[0],
            *(_escaped(" ".join(cell.split())).replace("|", "\\|") for cell in row[1:]),
        )
        yield "| " + " | ".join(cells) + " |\n"


def _escaped(text: str) -> str:
    """Text in which no tag or link of Markdown begins, code in backticks apart."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part if part.startswith("`") else re.sub(r"<(?=[A-Za-z/])", "&lt;", part) for part in parts
    )


if __name__ == "__main__":
    main()

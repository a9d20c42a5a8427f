"""Options that have no effect beside others: one table for all commands, asked before any work.

`options.command` looks here, so a rule holds for every command that has the options it is about.
What only files or the opened model decide is refused where that is known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from selfrag.errors import BadInput
from selfrag.open.engines import is_url
from selfrag.open.gguf import is_gguf

# The values of a command's options by name, without the group they are in; `get` of one that the
# command does not have is None.
Values = Mapping[str, Any]

_CPU_ENGINES = ("numpy", "openvino")


@dataclass(frozen=True, slots=True)
class Rule:
    """Why each of `names` has no effect while `is_idle`."""

    names: tuple[str, ...]
    is_idle: Callable[[Values], Any]
    why: str


def _is_url(name: Any) -> bool:
    return is_url(str(name or ""))


def _is_teachers(values: Values) -> bool:
    return "teacher" in values


def _has_own_model(values: Values) -> bool:
    """Whether the command opens a model as `ask` does."""
    return "model_key_env" in values


def _is_server(values: Values) -> bool:
    """Whether a server that is not ours is asked to label."""
    critic, teacher = values.get("critic"), values.get("teacher")
    return _is_url(critic) if critic else teacher == "openai" or _is_url(teacher)


RULES = (
    Rule(
        ("n_workers", "n_cpus", "n_gpus", "stall_minutes"),
        lambda v: not v.get("ray") and not str(v.get("devices") or "").partition(",")[2],
        "there is no --ray",
    ),
    # The model of ask, chat, batch, serve.
    Rule(
        ("engine", "device", "precision", "gpus", "threads"),
        lambda v: _has_own_model(v) and _is_url(v.get("model")),
        "a server runs the model",
    ),
    Rule(
        ("tokenizer",),
        lambda v: _has_own_model(v) and not _is_url(v.get("model")) and not is_gguf(v["model"]),
        "the model's folder has its own",
    ),
    Rule(
        ("model_key_env",),
        lambda v: _has_own_model(v) and not _is_url(v.get("model")),
        "no server runs the model",
    ),
    Rule(
        ("writer_key_env",),
        lambda v: "writer" in v and not _is_url(v["writer"]),
        "no API writes",
    ),
    Rule(
        ("device",),
        lambda v: v.get("engine") in _CPU_ENGINES and v.get("device") not in (None, "cpu"),
        "the engine that is named computes on the CPU",
    ),
    Rule(
        ("gpus",),
        lambda v: v.get("engine") not in (None, "auto", "vllm"),
        "it is about the vllm engine",
    ),
    Rule(
        ("precision",),
        lambda v: _has_own_model(v) and v.get("engine") in ("numpy", "transformers", "llamacpp"),
        "it is about the openvino and vllm engines",
    ),
    Rule(
        ("threads",),
        lambda v: _has_own_model(v) and v.get("engine") in ("transformers", "vllm"),
        "the engine that is named takes no such number",
    ),
    # eval
    Rule(
        ("engine", "device", "precision", "gpus", "threads", "tokenizer", "model_key_env"),
        lambda v: v.get("base_url"),
        "the model is run at --base-url",
    ),
    Rule(("index", "top_k"), lambda v: v.get("system") == "vanilla", "vanilla reads no passages"),
    Rule(
        ("prompt",),
        lambda v: v.get("system") == "selfrag",
        "it is about --system rag and vanilla",
    ),
    Rule(
        ("mode", "threshold", "writer", "writer_key_env"),
        lambda v: v.get("system") in ("rag", "vanilla"),
        "it is about --system selfrag",
    ),
    Rule(
        ("sampling",),
        lambda v: v.get("system") == "selfrag" and v.get("sampling") != "greedy",
        "--system selfrag is always greedy",
    ),
    Rule(
        ("seed",),
        lambda v: "sample" in v and v["sample"] is None and not v.get("base_url"),
        "nothing is drawn without --sample",
    ),
    Rule(
        ("index", "top_k"),
        lambda v: v.get("system") == "selfrag" and v.get("mode") == "never",
        "no passage is read in mode never",
    ),
    # eval judge
    Rule(
        ("base_url",),
        lambda v: v.get("kind") in ("issup", "nli", "local"),
        "it is about --judge asked",
    ),
    Rule(("model",), lambda v: v.get("kind") == "local", "the local judge has its own model"),
    Rule(
        ("engine",),
        lambda v: v.get("kind") in ("nli", "local"),
        "that judge is run in its own way",
    ),
    # annotate
    Rule(("teacher",), lambda v: v.get("critic"), "--critic labels in its place"),
    Rule(
        (
            *("model", "api_key_env", "explain", "structured", "concurrency", "max_retries"),
            *("threads", "ray", "balance", "price_in", "price_out", "answers", "dry_run"),
        ),
        lambda v: v.get("teacher") == "gold",
        "known labels are taken and nobody is asked",
    ),
    Rule(
        ("model", "api_key_env", "concurrency"),
        lambda v: _is_teachers(v) and not _is_server(v),
        "no server but ours is asked",
    ),
    Rule(
        ("max_retries",),
        lambda v: bool(v.get("critic")) and not _is_server(v),
        "no server is asked",
    ),
    Rule(
        ("threads",),
        lambda v: _is_teachers(v) and (_is_server(v) or bool(v.get("critic"))),
        "it is about the local teacher",
    ),
    Rule(("structured",), lambda v: v.get("critic"), "a critic writes no JSON"),
    Rule(
        ("engine",),
        lambda v: "critic" in v and (not v["critic"] or _is_url(v["critic"])),
        "it is about a --critic that is a folder",
    ),
    Rule(
        ("n_rows", "full"),
        lambda v: v.get("as_json"),
        "--json prints the counts alone",
    ),
    # embed
    Rule(
        ("precision", "batch_size", "devices"),
        lambda v: v.get("from_pickles"),
        "vectors are taken from files and nothing is encoded",
    ),
    Rule(("shards",), lambda v: v.get("shard"), "--shard i/n says how many there are"),
)


def refuse(given: Mapping[str, str], values: Values) -> None:
    """Raises `BadInput` for the first option that was given and has no effect.

    `given`: the options on the command line by name, as they are spelled.
    """
    for rule in RULES:
        named = [name for name in rule.names if name in given]
        if named and rule.is_idle(values):
            raise BadInput(
                f"cannot run with {given[named[0]]}: found it without effect, as {rule.why}; "
                "expected options that change something, so leave it out"
            )


def refuse_twice(given: Mapping[str, str], changed: Mapping[str, str], doing: str) -> None:
    """Raises `BadInput` where an option and `--set` speak of the same setting."""
    for name, spelled in changed.items():
        if name in given:
            raise BadInput(
                f"cannot {doing} with {given[name]} and {spelled}: found one setting given twice, "
                "expected it once; leave one out"
            )

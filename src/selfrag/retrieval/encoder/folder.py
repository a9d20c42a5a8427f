"""What the folder of an embedding model says of its use, in the files of sentence-transformers.

A folder of a bare model says nothing: its vector is the mean then, as sentence-transformers has it.
"""

import json
from pathlib import Path
from typing import Any

from selfrag.retrieval.spec import Metric, Recipe

_MAX_TOKENS = 512  # the limit of BERT, where a folder names none


def recipe_of(path: Path) -> Recipe:
    """Prefixes, normalisation and limit as the folder `path` has them.

    Raises `OSError` and `ValueError` for files that cannot be read.
    """
    use = _read(path / "config_sentence_transformers.json")
    prompts = use.get("prompts") or {}
    return Recipe(
        normalised=use.get("similarity_fn_name") != Metric.DOT.value,
        query_prefix=prompts.get("query") or "",
        passage_prefix=prompts.get("passage") or prompts.get("document") or "",
        max_tokens=_read(path / "sentence_bert_config.json").get("max_seq_length") or _MAX_TOKENS,
    )


def require_mean_pooling(path: Path) -> None:
    """Raises `ValueError` where the folder says that vectors are more than the mean of states."""
    if not (path / "modules.json").is_file():
        return
    for module in json.loads((path / "modules.json").read_text(encoding="utf-8")):
        kind = str(module["type"]).rsplit(".", 1)[-1]
        if kind not in ("Transformer", "Pooling", "Normalize"):
            raise ValueError(f"a model with a module {kind}, expected mean pooling alone")
        modes = _pooling_modes(_read(path / module["path"] / "config.json"))
        if kind == "Pooling" and modes != ["mean"]:
            raise ValueError(f"a model pooled by {modes}, expected the mean")


def _pooling_modes(config: dict[str, Any]) -> list[str]:
    """Both spellings: `pooling_mode` of new folders, a switch for each mode in old ones."""
    mode = config.get("pooling_mode")
    if mode is not None:
        return [mode] if isinstance(mode, str) else list(mode)
    start, switches = "pooling_mode_", {"mean_tokens": "mean", "cls_token": "cls"}
    names = [
        name.removeprefix(start) for name, on in config.items() if name.startswith(start) and on
    ]
    return [switches.get(name, name) for name in names]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} is not a JSON object")
    return content

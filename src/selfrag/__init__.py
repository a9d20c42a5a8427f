"""Self-RAG that people can really use: retrieve on demand, answer by segment, criticise.

`from selfrag import SelfRAG, SearchConfig, Passage, Turn`; nothing is imported before it is asked
for, so that the algorithm's modules stay light.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from selfrag.api import (
        Answer,
        EngineKind,
        GateKind,
        Passage,
        PathScore,
        QueryPolicy,
        RetrievalMode,
        ScoreWeights,
        SearchConfig,
        SelfRAG,
        SelfRAGError,
        Turn,
    )

__all__ = [
    "Answer",
    "EngineKind",
    "GateKind",
    "Passage",
    "PathScore",
    "QueryPolicy",
    "RetrievalMode",
    "ScoreWeights",
    "SearchConfig",
    "SelfRAG",
    "SelfRAGError",
    "Turn",
]


def __getattr__(name: str) -> Any:
    """The names of `__all__`, from `selfrag.api` on first use; `__version__` as installed."""
    if name == "__version__":
        from importlib.metadata import version

        return version("selfrag")
    if name not in __all__:
        raise AttributeError(f"module 'selfrag' has no attribute {name!r}")
    from selfrag import api

    return getattr(api, name)

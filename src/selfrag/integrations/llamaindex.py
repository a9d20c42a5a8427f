"""Retrievers and indexes of LlamaIndex as ours; our retrievers and answers as LlamaIndex's.

The only module that imports llama_index. Knows nothing of how anything is searched.
"""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

from selfrag.api import SelfRAG
from selfrag.errors import BadInput, MissingPackage
from selfrag.integrations.convert import (
    NOT_FOR_PROMPTS,
    citations_of,
    cleaned,
    facts_of,
    hits_from,
    is_asked,
    metadata_of,
    passage_from,
)
from selfrag.passage import Hit, Passage
from selfrag.retrieval.base import Retriever

try:
    from llama_index.core.base.base_query_engine import BaseQueryEngine
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.base.response.schema import Response
    from llama_index.core.indices.base import BaseIndex
    from llama_index.core.schema import (
        MetadataMode,
        NodeWithScore,
        QueryBundle,
        TextNode,
    )
except ImportError as error:
    raise MissingPackage(
        "cannot work with LlamaIndex: found no usable package llama-index-core "
        f'({error}), expected it installed; run pip install "selfrag[llamaindex]"'
    ) from error


class LlamaIndexRetriever(BaseRetriever):
    """A retriever of ours for LlamaIndex: `retrieve`, `aretrieve`, and query engines over it.

    Each node has the passage's id, text and offsets; its metadata has id, title, source, score,
    rank (from 1), page (from 1, 0 for none), start, end, and the passage's own metadata. Language
    models and embeddings see only title, source and the latter.
    """

    def __init__(self, retriever: Retriever, *, top_k: int = 5) -> None:
        """Raises `BadInput` for a `top_k` below 1."""
        if top_k < 1:
            raise BadInput(
                f"cannot make a LlamaIndex retriever: top_k is {top_k}, expected 1 or more; set it "
                "higher"
            )
        super().__init__()
        self._retriever = retriever
        self._top_k = top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._retriever.search([query_bundle.query_str], self._top_k)[0]
        return [NodeWithScore(node=_node(hit), score=hit.score) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


class LlamaIndexQueryEngine(BaseQueryEngine):
    """Answers of a `SelfRAG` as a query engine: `query`, `aquery`, tools and agents over it.

    The response has the cited passages as source nodes, in the order of the text. Its metadata has
    the verdict and the rest, and `citations`: for each its offsets `start` and `end` in the answer,
    the `node_id` and the `cited_text`. Calls from several threads wait for each other.
    """

    def __init__(self, rag: SelfRAG) -> None:
        super().__init__(callback_manager=None)
        self._rag = rag
        self._lock = threading.Lock()

    def _query(self, query_bundle: QueryBundle) -> Response:
        with self._lock:
            answer = self._rag.ask(query_bundle.query_str)
        cited = citations_of(answer)
        hits = {each.hit.passage.id: each.hit for each in cited}
        citations = [
            {
                "start": each.start,
                "end": each.end,
                "node_id": each.hit.passage.id,
                "cited_text": each.cited_text,
            }
            for each in cited
        ]
        return Response(
            response=answer.text,
            source_nodes=[NodeWithScore(node=_node(hit), score=hit.score) for hit in hits.values()],
            metadata={**facts_of(answer), "citations": citations},
        )

    async def _aquery(self, query_bundle: QueryBundle) -> Response:
        return await asyncio.to_thread(self._query, query_bundle)

    def _get_prompt_modules(self) -> dict[str, Any]:
        return {}


class FromLlamaIndex:
    """A retriever or index of LlamaIndex as ours.

    An index is asked for as many nodes as we want; a retriever finds as many as it was made for, of
    which we take the first. Nodes keep their id, offsets, title, source (or file path) and page;
    scores are LlamaIndex's, 0 where it gives none. Blank and repeated nodes are left out.
    """

    def __init__(self, retriever: BaseRetriever | BaseIndex[Any]) -> None:
        """Raises `BadInput` for what is neither."""
        if not isinstance(retriever, BaseRetriever | BaseIndex):
            raise BadInput(
                f"cannot retrieve with a {type(retriever).__name__}: expected a retriever or index "
                "of LlamaIndex; make one, for example with `as_retriever()`"
            )
        self._retriever = retriever

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """For every query at most `top_k` hits, in LlamaIndex's order, ranks from 1.

        An empty query has no hits: LlamaIndex does not embed it. Its errors are passed on;
        `BadInput` when `top_k` is negative.
        """
        if not is_asked(queries, top_k):
            return [[] for _ in queries]
        retriever = self._for(top_k)
        return [
            _hits(retriever.retrieve(query) if query else (), top_k) for query in cleaned(queries)
        ]

    def _for(self, top_k: int) -> BaseRetriever:
        if isinstance(self._retriever, BaseIndex):
            return self._retriever.as_retriever(similarity_top_k=top_k)
        return self._retriever


def _node(hit: Hit) -> TextNode:
    return TextNode(
        id_=hit.passage.id,
        text=hit.passage.text,
        metadata=metadata_of(hit),
        start_char_idx=hit.passage.start,
        end_char_idx=hit.passage.end,
        excluded_llm_metadata_keys=list(NOT_FOR_PROMPTS),
        excluded_embed_metadata_keys=list(NOT_FOR_PROMPTS),
    )


def _hits(nodes: Sequence[NodeWithScore], top_k: int) -> list[Hit]:
    return hits_from(((_passage(each), each.score or 0.0) for each in nodes), top_k)


def _passage(found: NodeWithScore) -> Passage:
    node = found.node
    metadata = dict(node.metadata)
    if isinstance(node, TextNode) and node.start_char_idx is not None:
        metadata |= {"start": node.start_char_idx, "end": node.end_char_idx}
    return passage_from(node.get_content(metadata_mode=MetadataMode.NONE), node.node_id, metadata)

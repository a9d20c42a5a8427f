"""Retrievers and vector stores of LangChain as ours, and ours as a LangChain retriever.

The only module that imports langchain_core. Knows nothing of how anything is searched.
"""

from collections.abc import Sequence
from typing import Any

from selfrag.errors import BadInput, SelfRAGError
from selfrag.integrations.convert import (
    cleaned,
    hits_from,
    is_asked,
    metadata_of,
    passage_from,
    score_in,
)
from selfrag.passage import Hit

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable
    from langchain_core.vectorstores import VectorStore
    from pydantic import Field
except ImportError as error:
    raise SelfRAGError(
        f"cannot work with LangChain: found no usable package langchain-core ({error}), expected "
        'it installed; run pip install "selfrag[langchain]"'
    ) from error


class LangChainRetriever(BaseRetriever):
    """A `retriever` of ours for LangChain: `invoke`, `ainvoke`, `batch`, chains and tools.

    It gives at most `top_k` Documents. Each has the passage's id and text; its metadata has id,
    title, source, score, rank (from 1), page (from 1, 0 for none), start, end, and the passage's
    own metadata.
    """

    retriever: Any  # a `Retriever`; pydantic cannot check for a protocol
    top_k: int = Field(default=5, ge=1)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun
    ) -> list[Document]:
        hits: list[Hit] = self.retriever.search([query], self.top_k)[0]
        return [
            Document(id=hit.passage.id, page_content=hit.passage.text, metadata=metadata_of(hit))
            for hit in hits
        ]


class FromLangChain:
    """A retriever or vector store of LangChain as ours.

    A vector store is asked for as many Documents as we want; a retriever finds as many as it was
    made for, of which we take the first. Documents keep title, source and id; one without an id is
    named by a hash of its source and text. Scores are what metadata gives as "score" or
    "relevance_score", else 0: the order is LangChain's own. Blank and repeated Documents are left
    out.
    """

    def __init__(self, retriever: Runnable[str, list[Document]] | VectorStore) -> None:
        """Raises `BadInput` for what is neither."""
        if not isinstance(retriever, Runnable | VectorStore):
            raise BadInput(
                f"cannot retrieve with a {type(retriever).__name__}: expected a retriever or "
                "vector store of LangChain; make one, for example with `as_retriever()`"
            )
        self._retriever = retriever

    def search(self, queries: Sequence[str], top_k: int) -> list[list[Hit]]:
        """For every query at most `top_k` hits, in LangChain's order, ranks from 1.

        LangChain runs the queries in threads. Its errors are passed on; `BadInput` when `top_k` is
        negative.
        """
        if not is_asked(queries, top_k):
            return [[] for _ in queries]
        found = self._for(top_k).batch(cleaned(queries))
        return [_hits(documents, top_k) for documents in found]

    def _for(self, top_k: int) -> Runnable[str, list[Document]]:
        if isinstance(self._retriever, VectorStore):
            return self._retriever.as_retriever(search_kwargs={"k": top_k})
        return self._retriever


def _hits(documents: Sequence[Document], top_k: int) -> list[Hit]:
    return hits_from(
        (
            (
                passage_from(document.page_content, document.id or "", document.metadata),
                score_in(document.metadata),
            )
            for document in documents
        ),
        top_k,
    )

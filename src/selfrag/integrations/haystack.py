"""Searching and answering as components of Haystack pipelines.

The only module that imports haystack. Knows nothing of how anything is searched or answered.
"""

import threading
from typing import Any

from selfrag.api import SelfRAG
from selfrag.errors import MissingPackage
from selfrag.integrations.convert import citations_of, facts_of, metadata_of
from selfrag.open.indexes import open_index
from selfrag.passage import Hit
from selfrag.progress import SILENT
from selfrag.retrieval.base import Retriever

try:
    from haystack import Document, GeneratedAnswer, component
except ImportError as error:
    raise MissingPackage(
        f"cannot work with Haystack: found no usable package haystack-ai ({error}), expected "
        'version 3; run pip install "selfrag[haystack]"'
    ) from error


@component
class HaystackRetriever:
    """Finds Documents for a query in an index of ours; its parameters are all that is saved.

    Each Document has the passage's id and text, and its metadata: id, title, source, score, rank
    (from 1), page (from 1, 0 for none), start, end, and the passage's own. `index` is a folder, an
    address, or None for the demo index; it is opened by `warm_up`.
    """

    def __init__(self, index: str | None = None, top_k: int = 5) -> None:
        self.index = index
        self.top_k = top_k
        self._retriever: Retriever | None = None

    @classmethod
    def of(cls, retriever: Retriever, *, top_k: int = 5) -> "HaystackRetriever":
        """One over a retriever that is open already; a saved pipeline does not hold it."""
        made = cls(top_k=top_k)
        made._retriever = retriever
        return made

    def warm_up(self) -> None:
        """Opens the index, if it is not."""
        if self._retriever is None:
            self._retriever = open_index(self.index, SILENT)

    @component.output_types(documents=list[Document])
    def run(self, query: str, top_k: int | None = None) -> dict[str, Any]:
        """The Documents for `query`, best first, at most `top_k`."""
        self.warm_up()
        assert self._retriever is not None
        hits = self._retriever.search([query], self.top_k if top_k is None else top_k)[0]
        return {"documents": [_document(hit) for hit in hits]}


@component
class HaystackSelfRAG:
    """Answers a query; its parameters, names of a model and an index, are all that is saved.

    The answer's documents are the passages it was written from; its `meta` has the verdict and the
    rest, and `citations`: for each its offsets `start` and `end` in the answer, the `document_id`
    and the `cited_text`. Model and index are opened by `warm_up`; calls from several threads wait
    for each other.
    """

    def __init__(self, model: str = "default", index: str | None = None) -> None:
        self.model = model
        self.index = index
        self._rag: SelfRAG | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, rag: SelfRAG) -> "HaystackSelfRAG":
        """One over what is open already; a saved pipeline does not hold it."""
        made = cls()
        made._rag = rag
        return made

    def warm_up(self) -> None:
        """Opens model and index, if they are not."""
        with self._lock:
            if self._rag is None:
                self._rag = SelfRAG.from_pretrained(self.model, index=self.index)

    @component.output_types(answers=list[GeneratedAnswer])
    def run(self, query: str) -> dict[str, Any]:
        """The answer to `query`, in a list of one."""
        self.warm_up()
        assert self._rag is not None
        with self._lock:
            answer = self._rag.ask(query)
        cited = citations_of(answer)
        citations = [
            {
                "start": each.start,
                "end": each.end,
                "document_id": each.hit.passage.id,
                "cited_text": each.cited_text,
            }
            for each in cited
        ]
        made = GeneratedAnswer(
            data=answer.text,
            query=query,
            documents=[_document(hit) for hit in answer.passages],
            meta={**facts_of(answer), "citations": citations},
        )
        return {"answers": [made]}


def _document(hit: Hit) -> Document:
    return Document(
        id=hit.passage.id, content=hit.passage.text, meta=metadata_of(hit), score=hit.score
    )

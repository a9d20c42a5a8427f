"""Retrievers and vector stores of LangChain as ours; our retrievers and answers as LangChain's.

The only module that imports langchain_core. Knows nothing of how anything is searched.
"""

import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from selfrag.api import SelfRAG
from selfrag.decode.answer import Answer
from selfrag.decode.citation import url_of
from selfrag.errors import BadInput, MissingPackage
from selfrag.integrations.convert import (
    Cited,
    citations_of,
    cleaned,
    facts_of,
    hits_from,
    is_asked,
    metadata_of,
    passage_from,
    score_in,
)
from selfrag.passage import Hit
from selfrag.prompt import Turn

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.language_models import LanguageModelInput
    from langchain_core.messages import AIMessage, BaseMessage, convert_to_messages
    from langchain_core.messages.content import Citation, create_citation, create_text_block
    from langchain_core.prompt_values import PromptValue
    from langchain_core.retrievers import BaseRetriever
    from langchain_core.runnables import Runnable, RunnableConfig
    from langchain_core.vectorstores import VectorStore
    from pydantic import Field
except ImportError as error:
    raise MissingPackage(
        f"cannot work with LangChain: found no usable package langchain-core ({error}), expected "
        'it installed; run pip install "selfrag[langchain]"'
    ) from error


class LangChainRetriever(BaseRetriever):
    """A `retriever` of ours for LangChain: `invoke`, `ainvoke`, `batch`, chains and tools.

    It gives at most `top_k` Documents, or as many as `invoke` is given as `top_k`. Each has the
    passage's id and text; its metadata has id, title, source, score, rank (from 1), page (from 1,
    0 for none), start, end, and the passage's own metadata.
    """

    retriever: Any  # a `Retriever`; pydantic cannot check for a protocol
    top_k: int = Field(default=5, ge=1)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        top_k: int | None = None,
    ) -> list[Document]:
        n_wanted = self.top_k if top_k is None else top_k
        hits: list[Hit] = self.retriever.search([query], n_wanted)[0]
        return [
            Document(id=hit.passage.id, page_content=hit.passage.text, metadata=metadata_of(hit))
            for hit in hits
        ]


class LangChainSelfRAG(Runnable[LanguageModelInput, AIMessage]):
    """Answers of a `SelfRAG` in a chain: a question, a prompt or messages in, an `AIMessage` out.

    Its content is one text block whose annotations are `Citation`s: offsets in the answer, title,
    address, the cited text, and as extras the passage's id, source, page and support. The verdict
    and the rest stand in `response_metadata`. Earlier messages are the history of the question,
    which is the last one; the model reads no system message. Calls from several threads wait for
    each other, and `batch` asks all its questions together.
    """

    def __init__(self, rag: SelfRAG) -> None:
        self._rag = rag
        self._lock = threading.Lock()

    def invoke(
        self, input: LanguageModelInput, config: RunnableConfig | None = None, **kwargs: Any
    ) -> AIMessage:
        """The answer to one question."""
        answered: AIMessage = self._call_with_config(
            lambda each: self._answer([each])[0], input, config, run_type="llm"
        )
        return answered

    def batch(
        self,
        inputs: list[LanguageModelInput],
        config: RunnableConfig | list[RunnableConfig] | None = None,
        *,
        return_exceptions: bool = False,
        **kwargs: Any,
    ) -> list[AIMessage]:
        """The answers in order; one call to the engine a level."""
        answered: list[AIMessage] = self._batch_with_config(
            self._answer, inputs, config, return_exceptions=return_exceptions
        )
        return answered

    def _answer(self, inputs: list[LanguageModelInput]) -> list[AIMessage]:
        asked = [_asked(each) for each in inputs]
        with self._lock:
            answers = self._rag.batch(
                [question for question, _ in asked], histories=[turns for _, turns in asked]
            )
        return [_message(answer, self._rag.engine.name) for answer in answers]


def _asked(given: LanguageModelInput) -> tuple[str, list[Turn]]:
    """The question, and the turns before it."""
    if isinstance(given, str):
        return given, []
    messages = given.to_messages() if isinstance(given, PromptValue) else convert_to_messages(given)
    said = [each for each in messages if each.type in ("human", "ai")]
    if not said or said[-1].type != "human":
        raise BadInput(
            "cannot answer: the last message is not the user's; expected a question there, so end "
            "with a HumanMessage"
        )
    pairs = pairwise(said)
    turns = [
        Turn(question=_text(one), answer=_text(other))
        for one, other in pairs
        if (one.type, other.type) == ("human", "ai")
    ]
    return _text(said[-1]), turns


def _text(message: BaseMessage) -> str:
    return str(message.text)


def _message(answer: Answer, model: str) -> AIMessage:
    citations = [_citation(each) for each in citations_of(answer)]
    block = create_text_block(answer.text, annotations=list(citations))
    return AIMessage(
        content_blocks=[block], response_metadata={"model_name": model, **facts_of(answer)}
    )


def _citation(cited: Cited) -> Citation:
    passage = cited.hit.passage
    return create_citation(
        url=url_of(passage.source),
        title=passage.title,
        start_index=cited.start,
        end_index=cited.end,
        cited_text=cited.cited_text,
        passage_id=passage.id,
        source=passage.source,
        page=passage.page or None,
        support=cited.support,
    )


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

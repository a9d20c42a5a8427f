"""Use Self-RAG in a LangChain chain: out comes an AIMessage that carries the citations.

    python examples/langchain_chain.py

prints:

    Ada Brandt. Ada Brandt is the harbour master of Quill.
    cited: Ada Brandt is the harbour master of Quill.
    fully supported (…)

Needs `pip install -e ".[local,langchain]"`. Adapters for LlamaIndex, Haystack and MCP:
docs/adapters.md.
"""

from langchain_core.prompts import ChatPromptTemplate

from selfrag import SelfRAG
from selfrag.integrations.langchain import LangChainSelfRAG

PASSAGES = [
    "Ada Brandt is the harbour master of Quill.",
    "The ferry to Quill leaves at nine each morning.",
]


def main() -> None:
    """Put a prompt before it; chains, `batch` and `ainvoke` work as with any other model."""
    with SelfRAG.from_pretrained(passages=PASSAGES) as rag:
        prompt = ChatPromptTemplate.from_messages([("user", "Who is the {office} of Quill?")])
        chain = prompt | LangChainSelfRAG(rag)
        message = chain.invoke({"office": "harbour master"})
        print(message.text)
        for block in message.content_blocks:
            for citation in block.get("annotations", []):
                print("cited:", citation["cited_text"])
        print(message.response_metadata["verdict"])


if __name__ == "__main__":
    main()

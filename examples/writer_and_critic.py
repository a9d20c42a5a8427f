"""A chat model writes the answer, and the default model judges it and decides when to retrieve.

    python examples/writer_and_critic.py http://127.0.0.1:8000/v1
    OPENAI_API_KEY=… python examples/writer_and_critic.py https://api.openai.com/v1#gpt-4o-mini

prints for each question what the writer said, what the critic thinks of it, and the verdict:

    Who is the harbour master of Quill?
      writer: … [1]
      critic: relevance …, support …
      …

The address is that of any OpenAI-compatible server (llama.cpp, Ollama, vLLM, …), not of `selfrag
serve`, which answers from an index of its own; `#NAME` behind it names one of several models. With
the default critic this is not yet better than the default model alone (docs/writer.md). Needs
`pip install -e ".[cpu,api]"`.
"""

import sys

from selfrag import SelfRAG

PASSAGES = [
    "Ada Brandt is the harbour master of Quill.",
    "The ferry to Quill leaves at nine each morning.",
]
QUESTIONS = ["Who is the harbour master of Quill?", "When does the ferry to Quill leave?"]


def main(url: str) -> None:
    """Ask with a writer; everything else is as without one."""
    with SelfRAG.from_pretrained(passages=PASSAGES, writer=url) as rag:
        for answer in rag.batch(QUESTIONS):
            print(answer.question)
            for segment in answer.segments:
                numbers = "".join(f"[{number}]" for number in segment.citations)
                print(f"  writer: {segment.text} {numbers}")
                relevance, support = segment.scores.relevance, segment.scores.support
                if relevance is not None and support is not None:
                    print(f"  critic: relevance {relevance:.2f}, support {support:.2f}")
            print(f"  {answer.verdict}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} URL, as in http://127.0.0.1:8000/v1")
    main(sys.argv[1])

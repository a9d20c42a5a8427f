"""Ask a question over passages that you give, then one over the demo index.

    python examples/quick_start.py

prints the answers; `[1]` names the passage that a sentence was written from:

    Ann. Ann painted the fence. [1]
    fully supported (…)

    Saturn. Titan is the largest moon of Saturn and the second largest in the Solar System. [1]
    [1] Titan (moon)  Wikipedia, CC BY-SA 4.0: https://en.wikipedia.org/wiki/Titan_(moon)
    …% likely to be right: fully supported

Needs `pip install -e ".[local]"`. The first run fetches model, encoder and corpus, about 180 MB.
"""

from selfrag import SelfRAG


def main() -> None:
    """Open the default model once, and ask twice."""
    with SelfRAG.from_pretrained() as rag:  # no name: the default weights, the demo index
        passages = ["Ann painted the fence.", "Bob slept all day."]
        answer = rag.ask("Who painted the fence?", passages=passages)
        print(answer.cited_text)
        print(answer.verdict)

        print()
        answer = rag.ask("Which planet has the moon Titan?")
        print(answer.cited_text)
        for number in answer.citations:
            passage = answer.passages[number - 1].passage
            print(f"[{number}] {passage.title}  {passage.source}")
        print(answer.verdict)


if __name__ == "__main__":
    main()

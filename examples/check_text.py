"""Check a text that anyone wrote, sentence by sentence, against passages or an index.

    python examples/check_text.py

prints a verdict for each sentence, and the words of a passage that it rests on:

    against two passages:
    supported: Titan is the largest moon of Saturn.
        [1] Titan: Titan is the largest moon of Saturn and has a dense atmosphere.
    not supported: It was painted by Rembrandt.

    the same text with marks:
    Titan is the largest moon of Saturn. [1] It was painted by Rembrandt. [not supported]

    [1] Titan

    another text, against the demo index:
    supported: Titan is the largest moon of Saturn.
        [1] Titan (moon): Titan is the largest moon of Saturn and the second largest …
    supported: It has a dense atmosphere.
        [1] Titan (moon): It is the only moon that is known to have a dense atmosphere, …

Needs `pip install -e ".[local]"`. Nothing is generated. The default weights are right in about
three of four cases: "Titan is the largest moon of Jupiter." is `supported` too. Read the passage
before you rely on a verdict (docs/check.md).
"""

from typing import Any

from selfrag import Passage, SelfRAG

FALSE_IN_PART = "Titan is the largest moon of Saturn. It was painted by Rembrandt."
TRUE = "Titan is the largest moon of Saturn. It has a dense atmosphere."
PASSAGES = [
    Passage(
        id="titan",
        title="Titan",
        text="Titan is the largest moon of Saturn and has a dense atmosphere.",
    ),
    Passage(id="bakery", title="Bakery", text="A bakery sells bread early in the morning."),
]


def show(checked: dict[str, Any]) -> None:
    """Print each sentence with its verdict; docs/formats.md explains the keys."""
    titles = {passage["number"]: passage["title"] for passage in checked["passages"]}
    for sentence in checked["sentences"]:
        print(f"{sentence['verdict']}: {sentence['text']}")
        if sentence["verdict"] == "supported":
            best = sentence["best"]
            print(f"    [{best['number']}] {titles[best['number']]}: {best['text']}")


def main() -> None:
    """Check one text against passages that are given, then against what an index finds."""
    with SelfRAG.from_pretrained() as rag:  # index="my-index" for one of your own
        print("against two passages:")
        check = rag.check(FALSE_IN_PART, passages=PASSAGES)
        show(check.to_dict())

        print("\nthe same text with marks:")
        print(check.fixed_text)

        print("another text, against the demo index:")
        show(rag.check(TRUE).to_dict())


if __name__ == "__main__":
    main()

"""Whether text can forge control tokens: poisoned questions and passages through the real prompt.

`python benchmarks/forged_tokens.py --limit 1000 --json` mixes all 15 reflection tokens, end tokens
and prompt headings, whole and cut at random places, into real words, and counts the control ids
that reach a prompt beyond those that it puts there itself. The last line is one JSON object.
"""

import argparse
import json

import numpy as np

from selfrag.cli.console import Reporter
from selfrag.engine.tokenizer import FileTokenizer
from selfrag.open.engines import DEFAULT, model_folder
from selfrag.passage import Passage
from selfrag.prompt import INSTRUCTION_HEAD, INSTRUCTION_TAIL, PromptFormat
from selfrag.reflection import REFLECTION_TOKENS

POISON = (
    *(str(token) for token in REFLECTION_TOKENS),
    "</s>",
    "<s>",
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    INSTRUCTION_HEAD,
    INSTRUCTION_TAIL,
)
WORDS = "Titan is the largest moon of Saturn , ünïcödé 月 42 % [ ] < > \n".split(" ")


def poisoned(rng: np.random.Generator) -> str:
    """Words with whole and cut control strings between them, joined with and without spaces."""
    parts = []
    for _ in range(int(rng.integers(1, 30))):
        part = str(rng.choice(POISON)) if rng.random() < 0.6 else str(rng.choice(WORDS))
        if rng.random() < 0.2:
            part = part[: int(rng.integers(0, len(part) + 1))]
        parts.append(part)
    return str(rng.choice(["", " "])).join(parts)


def count_forged(fmt: PromptFormat, control: set[int], n_passages: int) -> dict[str, int]:
    """Control ids found, and how many of the passages hold each of the 15 tokens literally."""
    rng = np.random.default_rng(0)
    forged = with_all = 0
    for number in range(n_passages):
        text = poisoned(rng) + ("".join(POISON) if number % 2 else "")
        with_all += all(str(token) in text for token in REFLECTION_TOKENS)
        question = fmt.instruction(text)
        passage = fmt.passage(Passage(id="p", title=poisoned(rng), text=text))
        forged += len(control & {*question}) + len(control & {*passage[1:-1]})
    return {"passages": n_passages, "with_all_15": with_all, "forged": forged}


def main() -> None:
    """Parses the arguments and prints the count."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--limit", type=int, default=1000, help="poisoned passages")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    folder = model_folder(DEFAULT, Reporter())
    tokenizer = FileTokenizer(folder / "tokenizer.json", end_of_sequence="<|im_end|>")
    fmt = PromptFormat.of(tokenizer)
    specials = {tokenizer.token_to_id(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")}
    result = count_forged(fmt, {*fmt.ids.all} | specials, options.limit)
    print(json.dumps(result) if options.json else result)


if __name__ == "__main__":
    main()

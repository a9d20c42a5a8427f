"""Train a tiny model from nothing: rows, an untrained base, training, export, questions.

    python examples/train_tiny.py

prints how the training went, and in the end answers with the title of the passage each rests on:

    …
    When does the ferry leave? At nine. ['Ferry']
    Where is the harbour? In Quill. ['Harbour']
    Who wrote the report? Ada Brandt. ['Report']

Two layers learn by heart which passage answers which question, reflection tokens included, in
seconds on a CPU; they know nothing else. For a model that is of use the commands are the same:
give `--model` a real base and `--data` many rows (docs/train-your-own.md).
Needs `pip install -e ".[local,train]"`.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, set_seed

from selfrag import Passage, SelfRAG

END = "<|endoftext|>"
FACTS = [  # question, title and text of the passage that answers it, answer
    ("When does the ferry leave?", "Ferry", "The ferry leaves at nine.", "At nine."),
    ("Where is the harbour?", "Harbour", "The harbour is in Quill.", "In Quill."),
    ("Who wrote the report?", "Report", "Ada Brandt wrote the report.", "Ada Brandt."),
]
PASSAGES = [Passage(id=title, title=title, text=text) for _, title, text, _ in FACTS]
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SETTINGS = ("learning_rate=3e-3", "max_tokens=256", "tokens_per_batch=512", "held_out_trees=0")


def training_rows() -> Iterator[str]:
    """Every question with every passage, in its markers, and what the model is to say of it."""
    for question, own, _, answer in FACTS:
        for passage in PASSAGES:
            said = "[Irrelevant]It does not say.[Utility:1]"
            if passage.title == own:
                said = f"[Relevant]{answer}[Fully supported][Utility:5]"
            shown = f"<paragraph>{passage.title}\n{passage.text}</paragraph>"
            row = {"instruction": question, "output": f"[Retrieval]{shown}{said}"}
            yield json.dumps(row) + "\n"


def write_base(folder: Path) -> None:
    """A Llama with random weights, and a tokenizer made of the words above."""
    trained = ByteLevelBPETokenizer()
    words = ["".join(fact) for fact in FACTS]
    trained.train_from_iterator(words, special_tokens=[END], show_progress=False)
    PreTrainedTokenizerFast(tokenizer_object=trained, eos_token=END).save_pretrained(folder)
    set_seed(0)
    ids = {"vocab_size": trained.get_vocab_size(), "bos_token_id": 0, "eos_token_id": 0}
    LlamaForCausalLM(LlamaConfig(**SIZES, **ids, num_attention_heads=4)).save_pretrained(folder)


def selfrag(*arguments: object) -> None:
    """Run a command of `selfrag`."""
    subprocess.run([sys.executable, "-m", "selfrag", *map(str, arguments)], check=True)


def main(work: Path) -> None:
    """From rows to answers."""
    (work / "rows.jsonl").write_text("".join(training_rows()), encoding="utf-8")
    write_base(work / "base")
    places = ["--model", work / "base", "--data", work / "rows.jsonl", "--out", work / "run"]
    settings = [f"--set=train.{setting}" for setting in SETTINGS]
    selfrag("train", "generator", *places, "--method", "full", "--epochs", "100", *settings)
    selfrag("export", work / "run", "--out", work / "model")
    with SelfRAG.from_pretrained(work / "model", passages=PASSAGES) as rag:
        for question, *_ in FACTS:
            answer = rag.ask(question)
            print(question, answer.text, [hit.passage.title for hit in answer.passages])


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))

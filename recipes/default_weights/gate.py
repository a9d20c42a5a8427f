"""Fitting the decision to retrieve without touching anything else.

    python recipes/default_weights/gate.py --records gate.jsonl --adapter ADAPTER --out ADAPTER

The gate compares two logits, the last state times the rows of [Retrieval] and [No Retrieval]. Of
these only [No Retrieval] never stands before a passage, so its row alone is fitted, by logistic
regression with the model frozen. What the model does with passages hardly changes: the row takes
another share of the probability after them (log-probabilities move by up to 7e-5), and the gate
between segments moves by up to .02.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from selfrag.engine.adapter import ADAPTER_TENSORS, REFLECTION_ROWS, read_description
from selfrag.engine.prepare import prepare_model
from selfrag.engine.tokenizer import open_tokenizer
from selfrag.errors import BadInput, SelfRAGError
from selfrag.open.engines import base_gguf
from selfrag.progress import SILENT
from selfrag.prompt import PromptFormat
from selfrag.reflection import Retrieve
from selfrag.released import GeneratorRecord, load_records
from selfrag.train.export import save_adapter

Array = NDArray[np.float64]


def gate_examples(records: Sequence[GeneratorRecord]) -> tuple[list[str], NDArray[np.bool_]]:
    """The instructions of `records` and whether each begins with [Retrieval]; each text once.

    Raises `BadInput` when one of the two kinds is missing.
    """
    needs: dict[str, bool] = {}
    for record in records:
        needs.setdefault(record.instruction, record.segments[0].retrieve is Retrieve.YES)
    if len(set(needs.values())) < 2:
        raise BadInput(
            f"cannot fit the gate: {len(needs)} instructions, all of one kind; expected some that "
            "need retrieval and some that do not, so give records of both"
        )
    return list(needs), np.array(list(needs.values()))


def last_states(model: Path, instructions: Sequence[str]) -> Array:
    """(n, dim): the state from which the model in `model` predicts the first token of an answer."""
    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).base_model.eval()
    fmt = PromptFormat.of(open_tokenizer(model))
    states = []
    with torch.inference_mode():
        for text in instructions:
            ids = torch.tensor([list(fmt.instruction(text))])
            states.append(network(ids).last_hidden_state[0, -1].double().numpy())
    return np.array(states)


def fit_row(states: Array, needs: NDArray[np.bool_], yes: Array, no: Array, ridge: float) -> Array:
    """The row of [No Retrieval], (dim,), that best tells the two kinds apart.

    `states` (n, dim); `needs` (n,); `yes`, `no` (dim,) are the rows as they are. Minimises the
    mean log-loss in nats of both kinds, each counting the same, plus `ridge` times the squared
    distance from `no`; convex, solved by Newton's method. Raises `BadInput` for a `ridge` that is
    not above 0, and for values that are not finite.
    """
    if not (ridge > 0 and np.isfinite(ridge)):
        raise BadInput(f"cannot fit the gate: the ridge is {ridge}; expected a number above 0")
    if not all(np.isfinite(each).all() for each in (states, yes, no)):
        raise BadInput(
            "cannot fit the gate: the model's states or token rows are not finite; expected those "
            "of a trained model, so give another adapter"
        )
    weight = np.where(needs, 1 / needs.sum(), 1 / (~needs).sum())
    row = no.astype(np.float64)
    for _ in range(100):
        prob = 1 / (1 + np.exp(-states @ (yes - row)))
        slope = 2 * ridge * (row - no) - states.T @ (weight * (prob - needs))
        curve = (states.T * (weight * prob * (1 - prob))) @ states
        step = np.linalg.solve(curve + 2 * ridge * np.eye(len(row)), slope)
        row = row - step
        if np.abs(step).max() < 1e-9:
            break
    return row


def fit_gate(
    model: Path, adapter: Path, out: Path, records: Sequence[GeneratorRecord], *, ridge: float
) -> Path:
    """`out`, holding `adapter` with the row of [No Retrieval] fitted to `records`.

    `model` is the folder of the base with `adapter` merged in.
    """
    instructions, needs = gate_examples(records)
    description = read_description(adapter)
    tokens = description.tokens
    tensors = load_file(adapter / ADAPTER_TENSORS)
    rows = tensors[REFLECTION_ROWS].double().numpy()
    yes, no = tokens.index(Retrieve.YES), tokens.index(Retrieve.NO)
    states = last_states(model, instructions)
    fitted = fit_row(states, needs, rows[yes], rows[no], ridge)
    tensors[REFLECTION_ROWS][no] = torch.from_numpy(fitted).to(torch.bfloat16)
    save_adapter(out, description, tensors)
    return out


def main() -> None:
    """Fits the row of [No Retrieval] alone: the decision to retrieve changes and nothing else."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--records", type=Path, required=True, help="JSONL file from mix.py")
    parser.add_argument("--adapter", type=Path, required=True, help="adapter folder, as shipped")
    parser.add_argument("--out", type=Path, required=True, help="adapter folder to write")
    parser.add_argument("--ridge", type=float, default=0.3, help="how dear it is to change the row")
    options = parser.parse_args()
    try:
        examples = list(load_records(options.records))
        with TemporaryDirectory() as folder:
            model = prepare_model(
                gguf=base_gguf(SILENT), adapter=options.adapter, out=Path(folder) / "model"
            )
            fit_gate(model, options.adapter, options.out, examples, ridge=options.ridge)
    except SelfRAGError as error:
        sys.exit(f"error: {error}")
    sys.stdout.write(f"adapter in {options.out}\n")


if __name__ == "__main__":
    main()

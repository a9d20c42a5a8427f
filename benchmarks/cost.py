"""What a question costs on the default weights, where that goes, and this processor's limits.

`python benchmarks/cost.py --plot cost.png --json`: CPU seconds of one thread. Long-form searches
(2 hypotheses, 5 passages, 4 segments; an end of sequence counts as a call for more passages) of one
question with one setting changed at a time, and of several questions together. `prefill` and
`decode` are shares of the peak of matrix products in the engine's precision and of the read
bandwidth, which are measured in the same run. The last line is one JSON object.
"""

import argparse
import json
import os
import resource
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from search import Wrapped
from selfrag import assets
from selfrag.decode.answer import answer_questions
from selfrag.decode.config import SearchConfig
from selfrag.decode.gate import RetrievalMode
from selfrag.engine.base import Precision, Request
from selfrag.engine.graph import CompiledLlama
from selfrag.ingest.readers import read_wiki_leads
from selfrag.open.engines import DEFAULT, model_folder
from selfrag.open.indexes import open_index
from selfrag.progress import SILENT
from selfrag.retrieval.base import FixedRetriever
from step import machine, sizes

BASE = SearchConfig(mode=RetrievalMode.ALWAYS, max_segments=4, beam_width=2, top_k=5)
VARIED: dict[str, tuple[str, tuple[int, ...]]] = {
    "passages": ("top_k", (1, 2, 5, 10, 20)),
    "hypotheses": ("beam_width", (1, 2, 3, 4)),
    "segments": ("max_segments", (1, 2, 4, 6)),
}
TOGETHER = (1, 4, 8)
N_PREFILL, N_ROWS, N_DECODE = 1000, 10, 64


@contextmanager
def timed_parts(spent: dict[str, float]) -> Iterator[None]:
    """Adds the CPU seconds of the model's passes to `spent`: prefill, or decode where few rows."""
    plain = CompiledLlama.infer

    def infer(self: CompiledLlama, inputs: dict[str, Any]) -> Any:
        started = time.process_time()
        done = plain(self, inputs)
        n_rows, n_ids = len(inputs["past_lens"]), len(inputs["input_ids"])
        part = "prefill" if n_ids > 10 * n_rows else "decode"
        spent[part] += time.process_time() - started
        return done

    CompiledLlama.infer = infer  # type: ignore[method-assign]
    try:
        yield
    finally:
        CompiledLlama.infer = plain  # type: ignore[method-assign]


def seconds(call: Callable[[], Any]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    call()
    return time.process_time() - started


def roofline(precision: Precision) -> dict[str, float]:
    """Shares of this machine's peaks: products in prefill, bytes read in decode."""
    peaks, path = machine(), model_folder(DEFAULT)
    engine = Wrapped(precision, cache_bytes=0)
    ids = engine.tokenizer.encode("The river Vistula flows through Poland. " * 200)[:N_PREFILL]
    assert len(ids) == N_PREFILL
    one = Request(prefix_ids=tuple(ids), max_new_tokens=1, watch_ids=(1,))
    engine.generate([one])
    prefill = min(seconds(lambda: engine.generate([one])) for _ in range(3))
    rows = [replace(one, prefix_ids=tuple(ids[n : n + 20])) for n in range(N_ROWS)]
    long = [replace(row, max_new_tokens=N_DECODE) for row in rows]
    engine._batcher._guesses = None
    decode = min(seconds(lambda: engine.generate(long)) for _ in range(3)) - min(
        seconds(lambda: engine.generate(rows)) for _ in range(3)
    )
    layers, head = sizes(path)
    kind = "fp32" if precision is Precision.EXACT else "bf16"
    weight_bytes = (4 if precision is Precision.EXACT else 2) * (layers + head)
    n_steps = N_DECODE - 1
    return {
        "prefill": 2 * layers * N_PREFILL / prefill / peaks[f"{kind}_flops"],
        "decode": weight_bytes * n_steps / decode / peaks["read_bytes_s"],
        "decode_ms_a_step": 1000 * decode / n_steps,
    }


def draw(result: dict[str, Any], path: Path) -> None:
    """Growth by setting, and the parts of one question."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4))
    for name in (*VARIED, "questions"):
        points = {int(n): s for n, s in result[name].items()}
        left.plot(list(points), list(points.values()), marker="o", label=name)
    left.set(xlabel="how many", ylabel="CPU seconds", ylim=(0, None))
    left.legend(frameon=False)
    parts = result["parts"]
    right.barh(list(parts), list(parts.values()), color="tab:blue")
    right.invert_yaxis()
    right.set(xlabel="CPU seconds of one question")
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measures, draws and prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", type=Precision, default=Precision.EXACT)
    parser.add_argument("--plot", type=Path, help="PNG to write")
    parser.add_argument("--json", action="store_true", help="kept for scripts; always printed")
    args = parser.parse_args()
    corpus = assets.named("corpus")
    leads = read_wiki_leads(assets.fetch(corpus) / corpus.files[0].path)
    asked = [f"What is {d.title} known for?" for d in islice(leads, 0, 200, 20)]
    most = max(VARIED["passages"][1])
    hits = open_index(None, SILENT).search(asked, most)
    retriever = FixedRetriever(dict(zip(asked, hits, strict=True)))

    spent: dict[str, float] = defaultdict(float)

    def cost(n: int, **changed: Any) -> float:
        engine, config = Wrapped(args.precision), replace(BASE, **changed)
        engine.generate([Request(prefix_ids=(1, 2), max_new_tokens=2)])
        spent.clear()  # what the first call prepares is no cost of a question
        taken = seconds(
            lambda: answer_questions(asked[:n], engine=engine, retriever=retriever, config=config)
        )
        engine.close()
        return round(taken, 2)

    result: dict[str, Any] = {"precision": args.precision}
    for name, (setting, values) in VARIED.items():
        result[name] = {str(value): cost(1, **{setting: value}) for value in values}
        print(name, result[name], flush=True)
    result["questions"] = {str(n): cost(n) for n in TOGETHER}
    with timed_parts(spent):
        total = cost(1)
    rest = total - sum(spent.values())
    result["parts"] = {k: round(v, 3) for k, v in {**spent, "everything else": rest}.items()}
    result["roofline"] = {k: round(v, 3) for k, v in roofline(args.precision).items()}
    result["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    if args.plot:
        draw(result, args.plot)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

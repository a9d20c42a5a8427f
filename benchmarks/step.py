"""One Self-RAG step on every engine here: CPU seconds of one thread, against this machine's limit.

`python benchmarks/step.py --json` continues a real prompt of 200 ids with K passages of 130 ids, 40
ids each and 15 watched, on the default weights or another model. Every engine runs in a process of
its own with one thread; the figure is the least of some rounds, each over another question.
`serial`: one branch a call and nothing kept. `limit`: operations over the bf16 matrix peak plus
weight bytes times decode steps over the read bandwidth, both measured here. llama.cpp runs the
packaged Q4_1 file one branch a call, and the same weights in bf16 with all branches together. The
last line is one JSON object.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from selfrag import assets
from selfrag.engine.base import Engine, Precision, Request
from selfrag.engine.batching import CACHE_BYTES
from selfrag.engine.numpy_llama import LlamaEngine, LlamaShape
from selfrag.engine.paged import PagedEngine
from selfrag.engine.tokenizer import read_model_config
from selfrag.ingest.readers import read_wiki_leads
from selfrag.open.engines import DEFAULT, base_gguf, model_folder
from selfrag.passage import Passage
from selfrag.prompt import PromptFormat
from selfrag.reflection import Retrieve

PREFIX, PASSAGE, WRITTEN = 200, 130, 40
KS = (5, 10)
OURS = ("exact", "mixed", "bf16", "numpy")
Q4_1, BATCHED = "llamacpp_q4_1", "llamacpp_bf16"
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def requests_of(engine: Engine, round_number: int, k: int) -> list[Request]:
    """One question's step: a task with its input, and K passages to answer from."""
    fmt = PromptFormat.of(engine.tokenizer)
    corpus = assets.named("corpus")
    documents = read_wiki_leads(assets.fetch(corpus) / corpus.files[0].path)
    long = (d for d in documents if len(fmt.join([d.text])) >= PREFIX)
    first = round_number * (max(KS) + 1)
    about, *others = islice(long, first, first + k + 1)
    asked = fmt.instruction(f"What is {about.title} known for?", about.text)
    end = len(fmt.instruction("")) // 2  # of the prompt, at least; its middle is left out
    passages = [
        fmt.passage(Passage(id=d.title, title=d.title, text=d.text)) for d in [about, *others][:k]
    ]
    return [
        Request(
            prefix_ids=tuple(asked[: PREFIX - end] + asked[-end:]),
            suffix_ids=(fmt.ids[Retrieve.YES], *ids[: PASSAGE - 2], ids[-1]),
            max_new_tokens=WRITTEN,
            watch_ids=fmt.ids.all,
        )
        for ids in passages
    ]


def opened(name: str, path: Path, cache_bytes: int = CACHE_BYTES) -> Engine:
    """A model folder on an engine by its precision, on numpy or on llama.cpp."""
    if name == BATCHED:
        from selfrag.engine.llamacpp import LlamaCppEngine
        from selfrag.train.gguf_file import GgufType, write_gguf

        with tempfile.TemporaryDirectory() as folder:
            file = write_gguf(path, Path(folder) / "model.gguf", GgufType.BF16)
            return LlamaCppEngine(file, name=name, n_threads=1)
    if name == "numpy":
        return LlamaEngine(path, name=name, cache_bytes=cache_bytes)
    precision = Precision(name)
    return PagedEngine(path, name=name, precision=precision, n_threads=1, cache_bytes=cache_bytes)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """CPU seconds of this process, and what the call gave."""
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def measure(name: str, path: Path, rounds: int, out: Path | None) -> dict[str, float]:
    """CPU seconds of one engine by K, together and serial; what it wrote goes to `out`."""
    if name == Q4_1:
        return measure_q4_1(path, rounds)
    engine = opened(name, path)
    engine.generate(requests_of(engine, rounds, 2))  # what the first call prepares
    found: dict[str, float] = {}
    ids = PromptFormat.of(engine.tokenizer).ids
    stops = [*ids.retrieve, ids.end_of_sequence]
    written: dict[str, np.ndarray[Any, Any]] = {"stops": np.array(stops)}
    for k in KS:
        seconds = []
        for number in range(rounds):
            asked = requests_of(engine, number + (k == KS[1]) * (rounds + 1), k)
            taken, done = timed(partial(engine.generate, asked))
            seconds.append(taken)
            for n, each in enumerate(done):
                written[f"{k}.{number}.{n}.ids"] = np.array(each.token_ids)
                written[f"{k}.{number}.{n}.watched"] = each.watched
        found[f"cpu_s_k{k}"] = min(seconds)
    engine.close()
    if out:
        np.savez(out, allow_pickle=False, **written)
    return found if name == BATCHED else found | measure_serial(name, path, rounds)


def measure_serial(name: str, path: Path, rounds: int) -> dict[str, float]:
    """One branch a call on an engine that keeps nothing between calls."""
    engine = opened(name, path, cache_bytes=0)
    engine.generate(requests_of(engine, rounds, 1))
    found = {}
    for k in KS:
        asked = requests_of(engine, k == KS[1], k)
        alone = [timed(partial(engine.generate, [one]))[0] for one in asked]
        found[f"serial_k{k}"] = sum(alone)
    return found


def measure_q4_1(path: Path, rounds: int) -> dict[str, float]:
    """llama.cpp in this process on the packaged Q4_1 file, whole prompts one after the other."""
    import xllamacpp

    engine = opened("numpy", path)  # for its tokenizer
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(base_gguf())
    parameters.n_ctx, parameters.n_parallel, parameters.cpuparams.n_threads = 2048, 1, 1
    parameters.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(parameters)
    vocabulary = 49152  # of the packaged file: our tokens are not in it
    found = {}
    for k in KS:
        asked = requests_of(engine, k == KS[1], k)

        def serial(asked: Sequence[Request] = asked) -> None:
            for request in asked:
                reply = server.handle_completions(
                    {
                        "prompt": [i % vocabulary for i in request.prompt_ids],
                        "n_predict": WRITTEN,
                        "temperature": 0,
                        "ignore_eos": True,
                        "cache_prompt": False,
                        "n_probs": 0,
                    }
                )
                assert "error" not in reply, reply

        serial(asked[:1])
        found[f"cpu_s_k{k}"] = min(timed(serial)[0] for _ in range(max(rounds - 1, 1)))
    return found


def machine() -> dict[str, float]:
    """Operations a second in bf16 products and in fp32, and bytes read a second, one thread."""
    import torch

    torch.set_num_threads(1)
    found = {}
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
        torch.mm(a, b)
        best = min(timed(partial(torch.mm, a, b))[0] for _ in range(5))
        found[f"{name}_flops"] = 2 * 2048**3 / best
    big = torch.ones(200_000_000)
    found["read_bytes_s"] = big.nbytes / min(timed(lambda: torch.sum(big))[0] for _ in range(5))
    return found


def sizes(path: Path) -> tuple[int, int]:
    """How many weights all layers have, and how many the head, which is applied once a choice."""
    config = read_model_config(path)
    shape, dim = LlamaShape.read(path), config["hidden_size"]
    attention = 2 * dim * shape.head_dim * (shape.n_heads + shape.n_kv_heads)
    layer = attention + 3 * dim * config["intermediate_size"]
    return shape.n_layers * layer, config["vocab_size"] * dim


def limit(machine: dict[str, float], path: Path, k: int) -> float:
    """Seconds below which one step cannot be done in bf16 without guesses."""
    parameters, head = sizes(path)
    n_read = PREFIX + k * (PASSAGE + WRITTEN)
    operations = 2 * parameters * n_read + 2 * head * k * WRITTEN
    weight_bytes = 2 * (parameters + head)
    return operations / machine["bf16_flops"] + weight_bytes * WRITTEN / machine["read_bytes_s"]


def differences(path: Path, reference: Path) -> tuple[float, float]:
    """The largest change of a watched log-probability with p > .001, and the share of equal ids.

    Only as far as two branches have written the same, and to where the segment ends: what follows
    is written for the clock alone.
    """
    ours, theirs = np.load(path), np.load(reference)
    largest, equal = 0.0, []
    for name in theirs.files:
        if not name.endswith(".ids"):
            continue
        ids, expected = ours[name], theirs[name]
        ends = np.flatnonzero(np.isin(expected, theirs["stops"]))
        ids, expected = (z[: ends[0] + 1 if len(ends) else None] for z in (ids, expected))
        same = np.append(np.cumprod(ids == expected), 0)
        equal.append(bool(same[:-1].all()))
        n = min(int(same.sum()) + 1, len(ids))
        a, b = (z[name.replace(".ids", ".watched")][:n] for z in (ours, theirs))
        likely = b > np.log(1e-3)
        if likely.any():
            largest = max(largest, float(np.abs(a - b)[likely].max()))
    return largest, sum(equal) / len(equal)


def child(name: str, path: Path, rounds: int, out: Path) -> dict[str, float]:
    """`measure` in a process of its own, with one thread."""
    command = [sys.executable, __file__, "--child", name, "--out", str(out), "--model", str(path)]
    done = subprocess.run(
        [*command, "--rounds", str(rounds)],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        return {}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Measures all engines, then compares the one named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", default="exact", choices=OURS, help="the one compared")
    parser.add_argument("--model", help="a folder instead of the default weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="kept for scripts; always printed")
    parser.add_argument("--child", metavar="ENGINE", help="one engine alone, in this process")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    model = Path(args.model) if args.model else model_folder(DEFAULT)
    if args.child == "machine":
        print(json.dumps(machine()))
        return
    if args.child:
        print(json.dumps(measure(args.child, model, args.rounds, args.out)))
        return
    with tempfile.TemporaryDirectory() as folder:
        names = (*OURS, BATCHED, *([] if args.model else [Q4_1]))
        files = {name: Path(folder) / f"{name}.npz" for name in names}
        facts = child("machine", model, 1, Path(folder))
        found: dict[str, dict[str, float]] = {}
        found |= {name: child(name, model, args.rounds, path) for name, path in files.items()}
        rows: dict[str, tuple[float, float]] = {}
        for name in OURS:
            if found[name]:
                rows[name] = differences(files[name], files["numpy"])
                print(name, {k: round(v, 2) for k, v in found[name].items()}, rows[name])
        others = {name: found[name] for name in names if name not in OURS}
        print(others, {k: f"{v:.3g}" for k, v in facts.items()})
    ours, numpy = found[args.engine], found["numpy"]
    result: dict[str, Any] = {"engine": args.engine}
    for k in KS:
        key = f"cpu_s_k{k}"
        result[key] = round(ours[key], 3)
        result[f"limit_s_k{k}"] = round(limit(facts, model, k), 3)
        result[f"times_limit_k{k}"] = round(ours[key] / limit(facts, model, k), 3)
        result[f"ratio_serial_k{k}"] = round(ours[f"serial_k{k}"] / ours[key], 3)
        result[f"ratio_numpy_k{k}"] = round(numpy[key] / ours[key], 3)
        for name in (each for each in others if others[each]):
            result[f"ratio_{name}_k{k}"] = round(others[name][key] / ours[key], 3)
    result["max_dlogp"], same = rows[args.engine]
    result["same_ids"] = round(same, 4)
    print(json.dumps(result))


if __name__ == "__main__":
    main()

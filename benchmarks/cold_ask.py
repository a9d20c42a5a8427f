"""From the start of a process to the answer of `selfrag ask`, and where that time goes.

`python benchmarks/cold_ask.py --json` asks one question of the demo index, everything fetched and
built before; seconds, the least of some runs. `--mode never` leaves the index out. The parts are
measured one after the other in a process of their own: `selfrag ask` itself opens index and engine
side by side. The last line is one JSON object.
"""

import argparse
import json
import subprocess
import sys
import time

QUESTION = "Which planet has the moon Titan?"
PARTS = """
import json, sys, time
def lap():
    global last
    before, last = last, time.time()
    return last - before
last = float(sys.argv[1])
from selfrag.cli import ask
from selfrag.decode.config import SearchConfig
from selfrag.decode.answer import answer_questions
from selfrag.open.calibrations import open_calibration
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.open.indexes import open_index
from selfrag.progress import SILENT
from selfrag.retrieval.base import FixedRetriever
found = {"import_s": lap()}
config, question = SearchConfig(mode=sys.argv[2]), sys.argv[3]
index = None if config.mode == "never" else open_index(None, SILENT)
found["open_index_s"] = lap()
engine = open_engine()
found["open_engine_s"] = lap()
hits = index.search([question], config.top_k)[0] if index else []
found["search_s"] = lap()
known = FixedRetriever({question: hits})
means = open_calibration(ModelOptions())
answer_questions([question], engine=engine, retriever=known, config=config, calibration=means)
found["answer_s"] = lap()
found["load_s"] = found["open_index_s"] + found["open_engine_s"]
print(json.dumps(found))
"""


def main() -> None:
    """Runs both and prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", default="adaptive", choices=["adaptive", "always", "never"])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="kept for scripts; always printed")
    args = parser.parse_args()
    command = [sys.executable, "-m", "selfrag", "ask", QUESTION, "--mode", args.mode]
    walls, parts = [], []
    for _ in range(args.runs):
        started = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
        walls.append(time.perf_counter() - started)
        told = subprocess.run(
            [sys.executable, "-c", PARTS, str(time.time()), args.mode, QUESTION],
            stdout=subprocess.PIPE,
            check=True,
        )
        parts.append(json.loads(told.stdout))
    result = {name: min(part[name] for part in parts) for name in parts[0]}
    result = {"cold_s": min(walls), **result}
    print(json.dumps({name: round(value, 2) for name, value in result.items()}))


if __name__ == "__main__":
    main()

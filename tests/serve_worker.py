"""Serves the index in a folder, in a process that may be killed.

`serve_worker.py FOLDER [MODEL_URL TOKENIZER]`: with a scripted model, or one behind a server.
"""

import sys
from pathlib import Path

from selfrag.decode.config import SearchConfig
from selfrag.open.engines import ModelOptions, open_engine
from selfrag.serve.app import serve
from selfrag.serve.limits import Access, Limits
from selfrag.serve.service import Service
from serve_parts import open_library, scripted_engine

# So that a question fits into the 256 positions of the tiny model.
SMALL = SearchConfig(max_passage_tokens=40, max_new_tokens=8, max_segments=1, top_k=2)


def main(folder: Path, *model: str) -> None:
    """Serves until it is killed; says its address first."""
    config = SMALL if model else SearchConfig()

    def opened(_):
        if not model:
            return open_library(folder), scripted_engine()
        url, tokenizer = model
        return open_library(folder), open_engine(ModelOptions(model=url, tokenizer=tokenizer))

    def tell(url: str) -> None:
        print(url, flush=True)  # noqa: T201

    service = Service(opened, Limits(), config)
    serve(service, Access(), host="127.0.0.1", port=0, on_address=tell)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])

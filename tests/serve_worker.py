"""Serves the index in a folder with a scripted model, in a process that may be killed."""

import sys
from pathlib import Path

from selfrag.serve.app import serve
from selfrag.serve.limits import Access, Limits
from selfrag.serve.service import Service
from serve_parts import open_library, scripted_engine

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    service = Service(lambda _: (open_library(folder), scripted_engine()), Limits())

    def tell(url: str) -> None:
        print(url, flush=True)  # noqa: T201

    serve(service, Access(), host="127.0.0.1", port=0, on_address=tell)

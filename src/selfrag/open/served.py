"""From the addresses of model servers to the engine that asks them."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from selfrag.errors import BadInput
from selfrag.prompt import Tokenizer

if TYPE_CHECKING:
    from selfrag.engine.base import Engine


def open_served(model: str, *, key_name: str, tokenizer_of: Callable[[str], Tokenizer]) -> "Engine":
    """A served model, whose log-probabilities are checked before any is trusted.

    `key_name`: the environment variable with the key of the servers. `tokenizer_of`: the tokenizer
    by the folder or hub id that a server names.
    """
    from selfrag.engine.check import check_engine
    from selfrag.engine.remote import RemoteEngine, ServerConfig, look_up

    if key_name and key_name not in os.environ:
        raise BadInput(
            f"cannot reach {model} with a key: the environment variable {key_name} is not set; "
            "set it or leave out --model-key-env"
        )
    urls = tuple(url.strip().rstrip("/") for url in model.split(",") if url.strip())
    config = ServerConfig(urls=urls, api_key=os.environ[key_name] if key_name else "")
    served = look_up(config)
    engine = RemoteEngine(config, tokenizer=tokenizer_of(served.root), served=served)
    check_engine(engine)
    return engine

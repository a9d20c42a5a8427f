"""From the addresses of model servers to the engine that asks them, and to who writes there."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from selfrag.engine.chat import ApiModel
from selfrag.engine.failure import Failure, Reason
from selfrag.errors import BadInput, EngineError
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

    key = _key(key_name, model, "--model-key-env")
    urls = tuple(url.strip().rstrip("/") for url in model.split(",") if url.strip())
    config = ServerConfig(urls=urls, api_key=key)
    served = look_up(config)
    engine = RemoteEngine(config, tokenizer=tokenizer_of(served.root), served=served)
    check_engine(engine)
    return engine


def served_writer(address: str, *, key_name: str) -> ApiModel:
    """A chat model at an OpenAI-compatible API, `#` and its name there behind the address.

    Without a name it is the only one that the API lists. `key_name`: the environment variable with
    the key; without one OPENAI_API_KEY goes to OpenAI and to nobody else.
    """
    url, _, name = address.partition("#")
    url = _checked(url.rstrip("/"))
    own = "OPENAI_API_KEY" if urlsplit(url).hostname == "api.openai.com" else ""
    key = _key(key_name or own, url, "--writer-key-env") or "none"
    listed = _listed(url, key)
    # A server need not list its models, but what cannot be reached cannot write either.
    if isinstance(listed, Failure) and (not name or listed.reason in _OUT_OF_REACH):
        raise EngineError(
            f"cannot have {url} write: {listed.detail}; expected an OpenAI-compatible API, as "
            "http://127.0.0.1:8000/v1, so look whether it runs and whether the key is right"
        )
    known = [] if isinstance(listed, Failure) else listed
    if not name and len(known) != 1:
        shown = ", ".join(sorted(each[:80] for each in known[:10])) or "none"
        raise BadInput(
            f"cannot have {url} write: no model is named, and it lists {len(known)} ({shown}); "
            f"expected one, so give its name as {url}#NAME"
        )
    # A small machine writes one segment at a time, and the last one waits for all before it.
    return ApiModel(base_url=url, model=name or known[0], api_key=key, timeout_s=600.0)


_OUT_OF_REACH = (Reason.UNREACHABLE, Reason.UNAUTHORISED)


def _listed(url: str, key: str) -> list[str] | Failure:
    """The names of the models at an API, asked once more where it does not answer."""
    from selfrag.engine.endpoint import Endpoint, EndpointConfig, listed_models

    config = EndpointConfig(base_url=url, model="", api_key=key, max_retries=1, timeout_s=30.0)
    endpoint = Endpoint(config)
    try:
        ((_, found),) = endpoint.run([listed_models])
    finally:
        endpoint.close()
    return found


def _checked(url: str) -> str:
    """`url`; raises `BadInput` where it is none of a server."""
    try:
        parts = urlsplit(url)
        is_one = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:  # of an address in brackets, or a port
        is_one = False
    if not is_one:
        raise BadInput(
            f"cannot have {url!r} write: it is no address of a server; expected one as "
            "http://127.0.0.1:8000/v1, so correct it"
        )
    return url


def _key(name: str, server: str, option: str) -> str:
    """The key in the environment; none where no variable is named."""
    if name and name not in os.environ:
        raise BadInput(
            f"cannot reach {server} with a key: the environment variable {name} is not set; "
            f"set it, or name another with {option}"
        )
    return os.environ[name] if name else ""

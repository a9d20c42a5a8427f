"""The `lancedb` package, imported in half the time.

Knows nothing of passages or indexes.
"""

import importlib.util
import sys
from typing import Any

# Client for catalogues behind HTTP: lancedb reads its record types, we use none of it.
_REST_CLIENT = "lance_namespace_urllib3_client"


def import_lancedb() -> Any:
    """The package itself; raises `ImportError` where it is not installed.

    Of 2.2 CPU-seconds (lancedb 0.40, AVX2 machine) 1.1 go into the `__init__` of its REST client,
    which has pydantic read the signature of every remote call. Here that waits for its first use.
    """
    put_off(_REST_CLIENT)
    import lancedb

    return lancedb


def put_off(name: str) -> None:
    """Runs the `__init__` of package `name` when an attribute of it is first read, not on import.

    Its submodules can be imported before. Nothing happens to a package that is imported already or
    not installed. `importlib.util.LazyLoader` would not do: importing a submodule reads `__path__`
    of the package, and that alone makes it run.
    """
    spec = None if name in sys.modules else importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        return
    package, loader = importlib.util.module_from_spec(spec), spec.loader

    def run(attribute: str) -> Any:
        package.__dict__.pop("__getattr__", None)
        loader.exec_module(package)
        return getattr(package, attribute)

    package.__dict__["__getattr__"] = run
    sys.modules[name] = package

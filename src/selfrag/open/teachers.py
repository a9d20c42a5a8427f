"""From what a user names to a teacher that answers: local model, chat endpoint, trained critic."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from selfrag import assets
from selfrag.cluster import Workers, connected
from selfrag.errors import BadInput
from selfrag.open.engines import (
    EngineKind,
    ModelOptions,
    is_url,
    model_folder,
    open_engine,
    weight_files,
)
from selfrag.progress import SILENT, Progress
from selfrag.serial import setting

if TYPE_CHECKING:
    from selfrag.annotate.judge import Teacher
    from selfrag.engine.endpoint import Endpoint

OPENAI_URL = "https://api.openai.com/v1"


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOptions:
    """Who is asked and how, as given on the command line.

    `teacher`: `local`, `openai`, the address of a server, or a GGUF file. `critic`: a model folder
    or the address of a server that runs one; it goes before `teacher`. `workers`: the cluster that
    asks, where one is named.
    """

    teacher: str = setting(
        "local", "local, openai, an http address, or a GGUF file; gold takes known labels."
    )
    critic: str = setting("", "Trained critic: its folder, or its server's address.")
    model: str = setting("", "The server's name for the model.")
    api_key_env: str = setting(
        "", "Environment variable with the server's key; of openai OPENAI_API_KEY."
    )
    explain: bool = setting(False, "Have every label explained.", "--explain")
    structured: bool = setting(False, "Ask for JSON held to a schema.", "--structured")
    concurrency: int = setting(8, "Calls at once to a server.", least=1)
    max_retries: int = setting(6, "Tries more after 429, 5xx and lost lines.", least=0)
    threads: int = setting(0, "Of the local teacher; 0 for all cores.", least=0)
    engine: EngineKind = setting(EngineKind.AUTO, "auto, openvino, numpy or transformers.")
    workers: Workers = field(default_factory=Workers)


@contextmanager
def open_teacher(
    options: TeacherOptions, report: Progress, *, dry_run: bool = False
) -> "Iterator[Teacher]":
    """The teacher, ready to answer; a server of ours ends with the block.

    With `dry_run` it can only be sized: nothing is fetched or started.
    """
    if options.workers.ray and not dry_run:
        with _on_cluster(options, report) as teacher:
            yield teacher
    elif is_url(options.critic):
        from selfrag.annotate.chat import ServedCritic

        with _endpoint(options, options.critic, _model_of(options)) as endpoint:
            yield ServedCritic(endpoint, identity=options.critic)
    elif options.critic:
        yield _folder_critic(options, report)
    elif options.teacher == "openai" or is_url(options.teacher):
        url = OPENAI_URL if options.teacher == "openai" else options.teacher
        with _chat(options, url, _model_of(options), identity=url) as teacher:
            yield teacher
    else:
        with _local(options, report, dry_run=dry_run) as teacher:
            yield teacher


@contextmanager
def _on_cluster(options: TeacherOptions, report: Progress) -> "Iterator[Teacher]":
    from selfrag.annotate.judge import ClusterTeacher

    n_threads = options.threads or max(1, int(options.workers.n_cpus))
    on_worker = replace(options, workers=Workers(), threads=n_threads)
    with (
        open_teacher(on_worker, report, dry_run=True) as here,
        connected(options.workers.ray, "annotate", options.workers) as cluster,
    ):
        yield ClusterTeacher(here, partial(_open_on_worker, on_worker), cluster)


def _open_on_worker(options: TeacherOptions) -> "AbstractContextManager[Teacher]":
    return open_teacher(options, SILENT)


def n_cpus() -> int:
    """CPUs that this process may use; all of the machine where the system does not tell."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextmanager
def served_teacher(
    report: Progress, model: Path | None = None, n_threads: int = 0
) -> Iterator[tuple[str, str]]:
    """Address and name of a GGUF model that is served to us alone, the local teacher's if None."""
    from selfrag.annotate.local import MODEL_NAME, fetch_local_model, serving

    name = model.stem if model else MODEL_NAME
    path = model or fetch_local_model(report)
    report.say(f"starting {name} on this machine")
    with serving(path, n_threads=n_threads or n_cpus()) as url:
        yield url, name


@contextmanager
def _local(options: TeacherOptions, report: Progress, *, dry_run: bool) -> "Iterator[Teacher]":
    from selfrag.annotate.local import MODEL_NAME

    model = None if options.teacher == "local" else Path(options.teacher)
    if model is not None and not model.is_file():
        raise BadInput(
            f"cannot ask the teacher {options.teacher!r}: it is none of local, gold and "
            "openai, no http address and no file; expected one of these, so name one"
        )
    identity = _stamp([model]) if model else assets.named("teacher").files[0].sha256
    if dry_run:
        url, name = "http://127.0.0.1:0/v1", model.stem if model else MODEL_NAME
        with _chat(options, url, name, identity=identity) as teacher:
            yield teacher
        return
    with (
        served_teacher(report, model, options.threads) as (url, name),
        _chat(options, url, name, identity=identity) as teacher,
    ):
        yield teacher


@contextmanager
def _chat(options: TeacherOptions, url: str, model: str, *, identity: str) -> "Iterator[Teacher]":
    from selfrag.annotate.chat import ChatConfig, ChatTeacher

    config = ChatConfig(identity=identity, explain=options.explain, structured=options.structured)
    with _endpoint(options, url, model) as endpoint:
        yield ChatTeacher(endpoint, config)


@contextmanager
def _endpoint(options: TeacherOptions, url: str, model: str) -> "Iterator[Endpoint]":
    from selfrag.engine.endpoint import Endpoint, EndpointConfig

    is_ours = not is_url(options.teacher) and options.teacher != "openai" and not options.critic
    config = EndpointConfig(
        base_url=url,
        model=model,
        api_key="" if is_ours else _api_key(options),
        concurrency=1 if is_ours else options.concurrency,
        max_retries=options.max_retries,
        timeout_s=600.0 if is_ours else 60.0,
    )
    endpoint = Endpoint(config)
    try:
        yield endpoint
    finally:
        endpoint.close()


def _folder_critic(options: TeacherOptions, report: Progress) -> "Teacher":
    from selfrag.annotate.critic import EngineCritic

    model = ModelOptions(model=options.critic, engine=options.engine)
    path = model_folder(model.model, report)
    files = sorted([path / "config.json", *weight_files(path)])
    # Its labels are words of the vocabulary: a critic needs no reflection tokens.
    engine = open_engine(model, report, reflects=False)
    return EngineCritic(engine, name=engine.name, identity=_stamp(files))


def _api_key(options: TeacherOptions) -> str:
    """The key from the environment; a server that is not OpenAI's gets none that it was not given.

    Raises `BadInput` where the variable is not set.
    """
    name = options.api_key_env or ("OPENAI_API_KEY" if options.teacher == "openai" else "")
    if not name or (options.critic and not options.api_key_env):
        return ""
    if not os.environ.get(name):
        raise BadInput(
            f"cannot ask the server: the environment variable {name} is not set; expected the "
            "server's key in it, so set it or name another with --api-key-env"
        )
    return os.environ[name]


def _model_of(options: TeacherOptions) -> str:
    if not options.model:
        raise BadInput(
            "cannot ask a server without knowing which model; expected --model with the name that "
            "the server knows it by, so give one"
        )
    return options.model


def _stamp(files: list[Path]) -> str:
    """Names, sizes and times of change: what stands for a model in the keys of stored answers."""
    facts = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return repr(facts)

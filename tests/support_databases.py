"""Real database servers for tests: PostgreSQL and MariaDB, each in a folder of its own.

They run as an unprivileged account, listen on loopback, and end with the tests (or with the
process that started them, should it be killed). Where their programs are missing, root on Debian
gets them installed by `.ci/databases`; others see a skip that names the packages.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import psycopg
import pymysql
import pytest

ROOT = Path(__file__).resolve().parents[1]
# Characters that a URL must escape, so that masking meets them too.
PASSWORD = "s3cret/of@the:tests"
START_SECONDS = 60
MEMORY_BYTES = 4 << 30


def _programs(folders: list[Path], *names: str) -> list[str] | None:
    path = os.pathsep.join([*map(str, folders), os.environ.get("PATH", ""), "/usr/sbin"])
    found = [shutil.which(name, path=path) for name in names]
    return None if None in found else [program for program in found if program]


def programs(what: str, pattern: str, *names: str) -> list[str]:
    """Paths of the programs of a server; installs them where that is possible, else skips."""

    def look() -> list[str] | None:
        return _programs(sorted(Path("/usr/lib").glob(pattern), reverse=True), *names)

    found = look()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        done = subprocess.run(
            [ROOT / ".ci" / "databases"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        found = look()
    if found is None:
        reason = f"{what} is not installed (apt-get install {what.lower()})"
        if os.environ.get("XEC_REQUIRE_DATABASES"):
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def _as_account(*wanted: str) -> tuple[list[str], int | None]:
    """What to put before a command so that it runs unprivileged, and the account's id."""
    if os.geteuid() != 0:
        return [], None
    accounts = {entry.pw_name: entry for entry in pwd.getpwall()}
    account = next(accounts[name] for name in (*wanted, "nobody") if name in accounts)
    ids = [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    return ["setpriv", "--pdeathsig=KILL", *ids], account.pw_uid


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Server:
    """A database server process in `folder`, to be started and stopped as a test wants."""

    folder: Path
    prefix: list[str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def greet(self) -> None:
        """Connect and leave again; raises while the server is not ready."""
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.command()], stdout=log, stderr=log, cwd=self.folder
            )
        limit = time.monotonic() + START_SECONDS
        while not self.greets():
            said = (self.folder / "server.log").read_text(errors="replace")[-2000:]
            assert self.process.poll() is None, said
            assert time.monotonic() < limit, said
            time.sleep(0.05)

    def greets(self) -> bool:
        try:
            self.greet()
        except (psycopg.OperationalError, pymysql.MySQLError):
            return False
        return True

    def stop(self, how: signal.Signals) -> None:
        """Until its children are gone too: those of one that is killed answer for a while."""
        import psutil

        assert self.process is not None
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(how)
        self.process.wait(30)
        assert psutil.wait_procs(children, 30)[1] == []

    def pause(self) -> None:
        """Stop the server and its children without closing their connections."""
        self._signal_all(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_all(signal.SIGCONT)

    def _signal_all(self, number: signal.Signals) -> None:
        import psutil

        assert self.process is not None
        parent = psutil.Process(self.process.pid)
        for process in (parent, *parent.children(recursive=True)):
            process.send_signal(number)


@dataclass
class PostgreSQL(Server):
    """PostgreSQL with the superuser `xec`, who needs the password."""

    programs: list[str] = field(default_factory=list)
    databases: int = 0

    def prepare(self) -> None:
        secret = self.folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        command = [self.programs[0], "-D", str(self.folder / "data"), "-U", "xec", "--no-sync"]
        command += ["--auth=scram-sha-256", f"--pwfile={secret}", "--encoding=UTF8", "--locale=C"]
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def command(self) -> list[str]:
        settings = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "fsync": "off",
            "shared_buffers": "16MB",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        data = str(self.folder / "data")
        return [self.programs[1], "-D", data, "-p", str(self.port), *options]

    def execute(self, statement: str, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())

    def greet(self) -> None:
        self.execute("SELECT 1")

    def url(self, database: str, user: str = "xec", password: str = PASSWORD) -> str:
        return f"postgresql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"

    def new_database(self, template: str = "template1") -> str:
        """The URL of a database of its own."""
        self.databases += 1
        name = f"conditions_{self.databases}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.url(name)


@dataclass
class MariaDB(Server):
    """MariaDB with the user `root`, who needs no password on this loopback port."""

    # Tests of logic, not of disks.
    SMALL = (
        "--innodb-flush-method=nosync",
        "--innodb-log-file-size=8M",
        "--innodb-buffer-pool-size=16M",
    )
    programs: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        command = [
            self.programs[0],
            "--no-defaults",
            *self.SMALL,
            f"--datadir={self.folder / 'data'}",
        ]
        command += ["--auth-root-authentication-method=normal", "--skip-test-db"]
        done = subprocess.run([*self.prefix, *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def command(self) -> list[str]:
        return [
            self.programs[1],
            "--no-defaults",
            f"--datadir={self.folder / 'data'}",
            f"--socket={self.folder / 'socket'}",
            f"--pid-file={self.folder / 'pid'}",
            f"--port={self.port}",
            "--bind-address=127.0.0.1",
            *self.SMALL,
        ]

    def connect(self, user: str = "root", password: str = "") -> pymysql.Connection:
        return pymysql.connect(
            host="127.0.0.1", port=self.port, user=user, password=password, autocommit=True
        )

    def greet(self) -> None:
        self.connect().close()

    def execute(self, *statements: str) -> None:
        connection = self.connect()
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
        finally:
            connection.close()

    def url(self, database: str, user: str = "reader", password: str = PASSWORD) -> str:
        return f"mysql://{user}:{quote(password, safe='')}@127.0.0.1:{self.port}/{database}"


def quick_folder() -> Path:
    """A new folder, in memory where there is room: these tests wait for no disk.

    Not below pytest's own folder, which no other account can enter; short enough for a socket.
    """
    memory = Path("/dev/shm")
    room = memory.is_dir() and shutil.disk_usage(memory).free > MEMORY_BYTES
    return Path(tempfile.mkdtemp(prefix="xec-db-", dir=memory if room else None))


def _folder(owner: int | None) -> Path:
    folder = quick_folder()
    if owner is not None:
        os.chown(folder, owner, -1)
    return folder


def _life(server: PostgreSQL | MariaDB) -> Iterator[None]:
    try:
        server.prepare()
        server.start()
        yield
    finally:
        if server.process is not None and server.process.poll() is None:
            server.stop(signal.SIGQUIT if isinstance(server, PostgreSQL) else signal.SIGKILL)
        shutil.rmtree(server.folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgresql() -> Iterator[PostgreSQL]:
    """A running PostgreSQL, for all tests."""
    found = programs("PostgreSQL", "postgresql/*/bin", "initdb", "postgres")
    prefix, owner = _as_account("postgres")
    server = PostgreSQL(_folder(owner), prefix, programs=found)
    for _ in _life(server):
        yield server


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A running MariaDB, for all tests."""
    found = programs("MariaDB-server", "mariadb/*", "mariadb-install-db", "mariadbd")
    prefix, owner = _as_account("mysql")
    server = MariaDB(_folder(owner), prefix, programs=found)
    for _ in _life(server):
        yield server

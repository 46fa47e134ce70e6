"""A throw-away PostgreSQL and a Weir in front of it, for suites that other people wrote.

Knows how to start, ask and stop both; does not know what is run against them. tests/house is the same for our own tests.
"""
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".work"
SUPERUSER, PASSWORD = "postgres", "super-secret"
PATIENCE = 30

# What ends us from outside ends our servers, too: as an exception, on which every `with` is left.
signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by a signal"))

# Ends PostgreSQL when this process ends, however it does: our end of the pipe closes then.
KEEPER = '"$@" >>"$LOG" 2>&1 </dev/null & child=$!; read -r _; kill -QUIT $child; wait $child; rm -rf "$DIRECTORY"'

USUAL = [
    "listen_addresses=127.0.0.1", "fsync=off", "synchronous_commit=off", "full_page_writes=off",
    "max_connections=100", "max_prepared_transactions=10", "log_line_prefix=%m [%p] %q%u@%d %a ",
]


def newest_bin():
    versions = [entry for entry in Path("/usr/lib/postgresql").glob("*/bin") if (entry / "postgres").exists()]
    if not versions:
        sys.exit("PostgreSQL is not installed; tools/setup installs it")
    return max(versions, key=lambda entry: int(entry.parent.name))


def as_postgres(*command):
    """PostgreSQL refuses to run as root."""
    return ["runuser", "-u", "postgres", "--", *command] if os.getuid() == 0 else list(command)


def give_to_postgres(path):
    if os.getuid() == 0:
        subprocess.run(["chown", "-R", "postgres:", path], check=True)


def free_port():
    """Below the range that the kernel takes outgoing ones from, so that nobody's connection lands on it before we do."""
    for offset in range(12_000):
        port = 20_000 + (os.getpid() * 20 + free_port.next + offset) % 12_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        free_port.next += offset + 1
        return port
    sys.exit("no free port")


free_port.next = 0


def eventually(what, holds):
    deadline = time.monotonic() + PATIENCE
    while True:
        seen = holds()
        if seen:
            return seen
        if time.monotonic() > deadline:
            sys.exit(f"never {what}")
        time.sleep(0.05)


def bare_environment():
    """Ours less what would send a suite, or Weir, elsewhere."""
    return {name: value for name, value in os.environ.items()
            if not name.startswith(("WEIR_", "AURORA_", "POSTGRES_", "PG", "AWS_"))}


class Postgres:
    def __init__(self, settings=(), auth="scram-sha-256", programs=None, tls=False):
        self.bin = programs or newest_bin()
        self.directory = Path(tempfile.mkdtemp(prefix="weir-suites-"))
        self.host, self.port = "127.0.0.1", free_port()
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        give_to_postgres(self.directory)
        made = subprocess.run(
            as_postgres(self.bin / "initdb", "--no-sync", "--auth-local=trust", f"--auth-host={auth}", "--encoding=UTF8",
                        "--locale=C", "--username", SUPERUSER, "--pwfile", secret, "--pgdata", self.directory / "data"),
            cwd="/", capture_output=True, text=True)
        if made.returncode:
            sys.exit(f"initdb: {made.stdout}{made.stderr}")
        if tls:
            # Weir offers TLS, and drivers take what is offered: so must what it is compared with.
            settings = [*settings, "ssl=on"]
            subprocess.run(as_postgres("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "9", "-subj", "/CN=localhost",
                                       "-keyout", self.directory / "data/server.key", "-out", self.directory / "data/server.crt"),
                           cwd="/", check=True, capture_output=True)
        command = [self.bin / "postgres", "-D", self.directory / "data", "-k", self.directory, "-p", str(self.port)]
        for setting in [*USUAL, *settings]:
            command += ["-c", setting]
        environment = dict(bare_environment(), LOG=str(self.directory / "log"), DIRECTORY=str(self.directory))
        self.keeper = subprocess.Popen(as_postgres("sh", "-c", KEEPER, "keeper", *command), cwd="/",
                                       stdin=subprocess.PIPE, env=environment)
        eventually(f"did PostgreSQL come up:\n{self.log()[-2000:]}", lambda: self.psql("SELECT 1", check=False) == "1\n")

    def psql(self, sql, database="postgres", check=True):
        done = subprocess.run(
            [self.bin / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.host, "-p", str(self.port), "-U", SUPERUSER,
             "-d", database, "-c", sql],
            env=dict(bare_environment(), PGPASSWORD=PASSWORD), capture_output=True, text=True)
        if check and done.returncode:
            sys.exit(f"{sql}: {done.stderr}")
        return done.stdout

    def log(self):
        path = self.directory / "log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.keeper.stdin.close()
        self.keeper.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


class Weir:
    """In front of `postgres` with `cap` connections, for the superuser and whoever else `users` names (name, password)."""

    def __init__(self, postgres, cap, log, users=(), settings=()):
        self.host, self.port, self.http = "127.0.0.1", free_port(), free_port()
        self.log = Path(log)
        environment = bare_environment()
        for number, (name, password) in enumerate(users):
            environment[f"WEIR__USERS__{number}__NAME"] = name
            environment[f"WEIR__USERS__{number}__PASSWORD"] = password
        environment.update(
            AURORA_HOST=postgres.host, AURORA_PORT=str(postgres.port), AURORA_DATABASE="postgres", AURORA_SSL="false",
            AURORA_USER=SUPERUSER, AURORA_PASSWORD=PASSWORD, AURORA_MAX_CONNECTIONS=str(cap),
            WEIR_LISTEN=f"{self.host}:{self.port}", WEIR_HTTP_LISTEN=f"{self.host}:{self.http}", **dict(settings))
        self.child = subprocess.Popen([binary()], env=environment, stdin=subprocess.DEVNULL,
                                      stdout=self.log.open("w"), stderr=subprocess.STDOUT)
        eventually(f"was Weir ready; its log is {self.log}", self.ready)

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.host}:{self.http}{path}", timeout=5) as answer:
            return answer.read().decode()

    def ready(self):
        if self.child.poll() is not None:
            sys.exit(f"Weir ended: {self.log.read_text()}")
        try:
            return self.get("/ready") is not None
        except OSError:
            return False

    def pools(self):
        return json.loads(self.get("/pools"))

    def pins(self):
        """How many by reason, over all pools."""
        found = {}
        for labels, value in re.findall(r"^weir_pool_pins_total\{([^}]*)\} (\d+)", self.get("/metrics"), re.M):
            reason = re.search(r'reason="([^"]*)"', labels)
            reason = reason.group(1) if reason else labels
            found[reason] = found.get(reason, 0) + int(value)
        return {reason: number for reason, number in sorted(found.items()) if number}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        # A second signal ends the drain of clients that a suite left behind.
        for _ in range(2):
            if self.child.poll() is None:
                self.child.send_signal(signal.SIGTERM)
                time.sleep(0.1)
        try:
            self.child.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def binary():
    """Another build, such as an image's, may be put to the test."""
    built = os.environ.get("WEIR_BIN") or Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "weir"
    if not Path(built).exists():
        sys.exit(f"{built} is not there: cargo build --release --bin weir, or say WEIR_BIN")
    return built


def expected(path):
    """Lines of a name and a reason; the names that are allowed, and have, to differ."""
    names = {}
    for line in Path(path).read_text().splitlines() if Path(path).exists() else []:
        if line.strip() and not line.startswith("#"):
            name, _, reason = line.strip().partition("  ")
            if not reason.strip():
                sys.exit(f"{path}: no reason given (after two spaces) for {name}")
            names[name] = reason.strip()
    return names


def run(command, timeout, output, **more):
    """Runs what may hang, in a process group of its own that ends with it. Gives the exit code, or None when time ran out."""
    with open(output, "w") as sink:
        child = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                                 start_new_session=True, **more)
        try:
            return child.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        finally:
            try:
                os.killpg(child.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            child.wait()

"""The servers that are compared: a throw-away PostgreSQL, PgBouncer, Weir and the bare relay, on free loopback ports.

Knows how each is configured and started, so that all are treated alike; measures nothing.
"""

import base64
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import wire

USER, PASSWORD, DATABASE = "app", "a-bench-password", "bench"
POOL = 20
# 10,000 idle clients and room for the others; each of these processes may have 20,000 files open.
MAX_CLIENTS = 12000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def find(name, *folders):
    for folder in folders:
        path = os.path.join(folder, name)
        if os.access(path, os.X_OK):
            return path
    found = shutil.which(name)
    if not found:
        raise SystemExit(f"compare: {name} is not installed (make bench installs it: tools/setup)")
    return found


def postgres_bin():
    root = "/usr/lib/postgresql"
    versions = sorted(os.listdir(root), key=float, reverse=True) if os.path.isdir(root) else []
    return [os.path.join(root, v, "bin") for v in versions]


class House:
    """A temporary directory and everything that runs in it; all stopped and removed on exit."""

    def __init__(self, binaries):
        self.binaries = binaries
        # PostgreSQL and PgBouncer refuse to be root.
        self.account = "postgres" if os.geteuid() == 0 else None
        self.running = []

    def __enter__(self):
        self.path = tempfile.mkdtemp(prefix="weir-bench-")
        os.chmod(self.path, 0o755)
        self.own(self.path)
        self.certificate()
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            stop(process)
        shutil.rmtree(self.path, ignore_errors=True)

    def own(self, path):
        if self.account:
            entry = pwd.getpwnam(self.account)
            os.chown(path, entry.pw_uid, entry.pw_gid)

    def file(self, name, text):
        path = os.path.join(self.path, name)
        with open(path, "w") as out:
            out.write(text)
        os.chmod(path, 0o600)
        self.own(path)
        return path

    def certificate(self):
        """One certificate for PostgreSQL, PgBouncer and Weir: the handshake and the records cost all the same."""
        self.cert, self.key = os.path.join(self.path, "server.pem"), os.path.join(self.path, "server.key")
        subprocess.run(
            [find("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
             "-subj", "/CN=localhost", "-addext", "basicConstraints=critical,CA:FALSE", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.key, "-out", self.cert],
            check=True, capture_output=True)
        os.chmod(self.key, 0o600)
        for path in (self.cert, self.key):
            self.own(path)

    def start(self, name, command, environment=None, account=None, prefix=()):
        log = open(os.path.join(self.path, f"{name}.log"), "ab")
        env = dict(os.environ, LC_ALL="C.UTF-8", **(environment or {}))
        extra = {"user": account, "group": account, "extra_groups": []} if account else {}
        process = subprocess.Popen([*prefix, *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=env,
                                   cwd=self.path, start_new_session=True, **extra)
        process.label = name
        self.running.append(process)
        return process

    def stop(self, process):
        self.running.remove(process)
        stop(process)

    def log_of(self, name):
        with open(os.path.join(self.path, f"{name}.log"), errors="replace") as log:
            return log.read()[-2000:]

    def await_login(self, process, port, seconds=30):
        deadline = time.monotonic() + seconds
        while True:
            try:
                wire.Client(port, USER, PASSWORD, DATABASE, timeout=10).close()
                return
            except (OSError, ConnectionError, wire.ServerError) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"compare: {process.label} does not serve ({error}):\n{self.log_of(process.label)}") from error
            time.sleep(0.05)

    def postgres(self):
        folders = postgres_bin()
        data, port = os.path.join(self.path, "data"), free_port()
        account = {"user": self.account, "group": self.account, "extra_groups": []} if self.account else {}
        subprocess.run([find("initdb", *folders), "-D", data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C.UTF-8", "-E", "UTF8"],
                       check=True, capture_output=True, cwd=self.path, **account)
        with open(os.path.join(data, "postgresql.conf"), "a") as conf:
            conf.write(f"listen_addresses='127.0.0.1'\nport={port}\nunix_socket_directories='{self.path}'\nmax_connections=400\n"
                       "shared_buffers=64MB\nfsync=off\nsynchronous_commit=off\nfull_page_writes=off\nautovacuum=off\n"
                       f"ssl=on\nssl_cert_file='{self.cert}'\nssl_key_file='{self.key}'\nlog_min_messages=fatal\n")
        with open(os.path.join(data, "pg_hba.conf"), "w") as hba:
            hba.write("local all postgres trust\nhost all all 127.0.0.1/32 scram-sha-256\n")
        process = self.start("postgres", [find("postgres", *folders), "-D", data], account=self.account)
        self.await_socket(process, port)
        psql = [find("psql", *folders), "-X", "-q", "-v", "ON_ERROR_STOP=1", "-h", self.path, "-p", str(port), "-U", "postgres"]
        subprocess.run([*psql, "-c", f"CREATE ROLE {USER} LOGIN PASSWORD '{PASSWORD}'", "-c", f"CREATE DATABASE {DATABASE} OWNER {USER}",
                        "postgres"], check=True, capture_output=True)
        subprocess.run([find("pgbench", *folders), "-i", "-q", "-s", "1"], check=True, capture_output=True, env=client_environment(port))
        subprocess.run([*psql, "-c", "CREATE TABLE big AS SELECT repeat('0123456789', 100) AS line FROM generate_series(1, 100000)",
                        "-c", f"GRANT ALL ON big TO {USER}", "-c", "VACUUM ANALYZE", DATABASE], check=True, capture_output=True)
        asked = subprocess.run([*psql, "-At", "-c", f"SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'"], check=True, capture_output=True, text=True)
        self.verifier = asked.stdout.strip()
        self.postgres_port = port
        return process, port

    def await_socket(self, process, port):
        deadline = time.monotonic() + 30
        while not os.path.exists(os.path.join(self.path, f".s.PGSQL.{port}")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"compare: PostgreSQL does not start:\n{self.log_of('postgres')}")
            time.sleep(0.05)
        time.sleep(0.2)

    def pgbouncer(self, prefix=(), server_tls=False):
        port = free_port()
        # Given the password it would make a verifier for each login, of 4,096 hashes; with the database's own it needs one.
        users = self.file("userlist.txt", f'"{USER}" "{self.verifier}"\n')
        config = self.file("pgbouncer.ini", f"""[databases]
{DATABASE} = host=127.0.0.1 port={self.postgres_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
pool_mode = transaction
default_pool_size = {POOL}
max_client_conn = {MAX_CLIENTS}
auth_type = scram-sha-256
auth_file = {users}
client_tls_sslmode = allow
client_tls_cert_file = {self.cert}
client_tls_key_file = {self.key}
server_tls_sslmode = {"require" if server_tls else "disable"}
ignore_startup_parameters = extra_float_digits
log_connections = 0
log_disconnections = 0
log_stats = 0
""")
        command = [find("pgbouncer", "/usr/sbin"), config]
        return self.serve("pgbouncer", command, port, account=self.account, prefix=prefix)

    def weir(self, prefix=(), server_tls=False, environment=None):
        port = free_port()
        settings = {
            "AURORA_HOST": "127.0.0.1", "AURORA_PORT": str(self.postgres_port), "AURORA_DATABASE": DATABASE,
            "AURORA_USER": USER, "AURORA_PASSWORD": PASSWORD, "AURORA_SSL": "require" if server_tls else "false",
            "AURORA_MAX_CONNECTIONS": str(POOL), "WEIR_LISTEN": f"127.0.0.1:{port}", "WEIR_HTTP_LISTEN": f"127.0.0.1:{free_port()}",
            "WEIR_TLS_CERT": self.cert, "WEIR_TLS_KEY": self.key, "WEIR_WORKERS": "1", "WEIR_LOG": "warn",
            "WEIR__LISTEN__MAX_CLIENTS": str(MAX_CLIENTS),
            **(environment or {}),
        }
        return self.serve("weir", [self.binaries["weir"], "run"], port, environment=settings, prefix=prefix)

    def token(self):
        """A JSON web token of an issuer of our own, and the settings of a Weir that takes it: it is checked once, and remembered."""
        key, public = os.path.join(self.path, "issuer.key"), os.path.join(self.path, "jwks.json")
        run = lambda *words, **how: subprocess.run([find("openssl"), *words], check=True, capture_output=True, **how).stdout
        run("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
        url64 = lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode()
        modulus = bytes.fromhex(run("rsa", "-in", key, "-noout", "-modulus", text=True).strip().split("=")[1])
        with open(public, "w") as out:
            json.dump({"keys": [{"kty": "RSA", "kid": "bench", "alg": "RS256", "use": "sig", "n": url64(modulus), "e": "AQAB"}]}, out)
        role, now = "arn:aws:iam::123456789012:role/bench", int(time.time())
        claims = {"iss": "https://issuer.example", "aud": "weir://bench", "sub": role, "iat": now, "exp": now + 3600}
        words = ({"alg": "RS256", "kid": "bench", "typ": "JWT"}, claims)
        signed = ".".join(url64(json.dumps(word).encode()) for word in words)
        signature = run("dgst", "-sha256", "-sign", key, input=signed.encode())
        config = self.file("token.toml", f"""[auth.iam]
mode = "optional"
cache_ttl = "15m"
[auth.iam.jwt]
issuers = ["https://issuer.example"]
audience = "weir://bench"
jwks_file = "{public}"
[[auth.iam.map]]
principal = "{role}"
users = ["{USER}"]
""")
        return f"{signed}.{url64(signature)}", {"WEIR_CONFIG": config}

    def relay(self, prefix=(), server_tls=False):
        """TLS, where there is any, goes through the relay untouched: it is the floor without the cost of TLS."""
        port = free_port()
        return self.serve("relay", [self.binaries["relay"], f"127.0.0.1:{port}", f"127.0.0.1:{self.postgres_port}"], port, prefix=prefix)

    def serve(self, name, command, port, **how):
        process = self.start(name, command, **how)
        self.await_login(process, port, seconds=120 if how.get("prefix") else 30)
        return process, port


def client_environment(port, tls=False, password=PASSWORD):
    return dict(os.environ, PGHOST="127.0.0.1", PGPORT=str(port), PGUSER=USER, PGPASSWORD=password, PGDATABASE=DATABASE,
                PGSSLMODE="require" if tls else "disable", PGGSSENCMODE="disable", LC_ALL="C.UTF-8")


def stop(process):
    """SIGINT ends PostgreSQL and PgBouncer fast; whoever stays for ten seconds is killed."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM if process.label in ("weir", "relay") else signal.SIGINT)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

"""The smallest PostgreSQL client that the measurements need: login with SCRAM-SHA-256, a simple query, a result drained unread.

Knows the wire; nothing of what is measured or how. Standard library only.
"""

import base64
import functools
import hashlib
import hmac
import os
import socket
import ssl
import struct

SSL_REQUEST = struct.pack("!II", 8, 80877103)
READY_IDLE = b"Z\x00\x00\x00\x05I"


class ServerError(Exception):
    """An ErrorResponse: its fields by letter."""

    def __init__(self, body):
        fields = dict((f[:1].decode(), f[1:].decode(errors="replace")) for f in body.split(b"\0") if f)
        super().__init__(f"{fields.get('C')}: {fields.get('M')}")


@functools.lru_cache(maxsize=64)
def salted(password, salt, rounds):
    """PBKDF2, remembered: ten thousand logins of one user must not take a minute of ours."""
    return hashlib.pbkdf2_hmac("sha256", password, salt, rounds)


def digest(key, message):
    return hmac.new(key, message, hashlib.sha256).digest()


class Client:
    """One blocking connection, logged in and idle when the constructor returns."""

    def __init__(self, port, user, password, database, tls=False, timeout=60):
        self.pending = b""
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if tls:
            self.start_tls()
        self.startup(user, database)
        self.login(password)

    def start_tls(self):
        self.socket.sendall(SSL_REQUEST)
        if self.socket.recv(1) != b"S":
            raise ConnectionError("TLS refused")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        self.socket = context.wrap_socket(self.socket)

    def startup(self, user, database):
        words = b"".join(w.encode() + b"\0" for w in ("user", user, "database", database)) + b"\0"
        self.socket.sendall(struct.pack("!II", 8 + len(words), 196608) + words)

    def send(self, tag, body):
        self.socket.sendall(tag + struct.pack("!I", 4 + len(body)) + body)

    def message(self):
        """The next message as (tag, body); an ErrorResponse is raised."""
        while len(self.pending) < 5 or len(self.pending) < 1 + struct.unpack_from("!I", self.pending, 1)[0]:
            more = self.socket.recv(65536)
            if not more:
                raise ConnectionError("closed by the server")
            self.pending += more
        end = 1 + struct.unpack_from("!I", self.pending, 1)[0]
        tag, body, self.pending = self.pending[:1], self.pending[5:end], self.pending[end:]
        if tag == b"E":
            raise ServerError(body)
        return tag, body

    def login(self, password):
        while True:
            tag, body = self.message()
            if tag == b"Z":
                return
            if tag == b"R":
                kind = struct.unpack_from("!I", body)[0]
                if kind == 10:
                    self.scram(password.encode())
                elif kind not in (0, 12):
                    raise ConnectionError(f"authentication method {kind} is not known here")

    def scram(self, password):
        nonce = base64.b64encode(os.urandom(18)).decode()
        bare = f"n=,r={nonce}"
        first = ("n,," + bare).encode()
        self.send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!I", len(first)) + first)
        _, body = self.message()
        challenge = body[4:].decode()
        parts = dict(p.split("=", 1) for p in challenge.split(","))
        key = salted(password, base64.b64decode(parts["s"]), int(parts["i"]))
        final = f"c=biws,r={parts['r']}"
        signed = f"{bare},{challenge},{final}".encode()
        client_key = digest(key, b"Client Key")
        signature = digest(hashlib.sha256(client_key).digest(), signed)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self.send(b"p", f"{final},p={base64.b64encode(proof).decode()}".encode())

    def query(self, sql):
        """Runs `sql`; the rows as lists of text."""
        self.send(b"Q", sql.encode() + b"\0")
        rows = []
        while True:
            tag, body = self.message()
            if tag == b"D":
                rows.append(row(body))
            if tag == b"Z":
                return rows

    def drain(self, sql, buffer):
        """Runs `sql` and throws the reply away unread; how many bytes it had."""
        self.send(b"Q", sql.encode() + b"\0")
        total, tail, view = 0, b"", memoryview(buffer)
        while tail != READY_IDLE:
            got = self.socket.recv_into(buffer)
            if not got:
                raise ConnectionError("closed by the server")
            total += got
            tail = (tail + bytes(view[max(0, got - 6):got]))[-6:]
        return total

    def close(self):
        try:
            self.send(b"X", b"")
        except OSError:
            pass
        self.socket.close()


def row(body):
    values, at = [], 2
    for _ in range(struct.unpack_from("!H", body)[0]):
        size = struct.unpack_from("!i", body, at)[0]
        at += 4
        values.append(None if size < 0 else body[at:at + size].decode())
        at += max(size, 0)
    return values

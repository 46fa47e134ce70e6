"""An issuer of JSON web tokens: serves its keys, and signs whatever it is asked to.

Prints its port; then for each line of JSON on standard input one line: for {"sign": claims, "header": {..}, "key": name,
"alg": name} a token; for {"do": "fetches"} how often keys were fetched; {"do": "rotate"} makes new keys; {"do": "fail"}
and {"do": "serve"} say what fetching gets.
"""

import base64
import hashlib
import hmac
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

STATE = {"fetches": 0, "fail": False, "number": 0}
KEYS = {}


def coded(raw):
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def number(value, length=None):
    return coded(value.to_bytes(length or (value.bit_length() + 7) // 8, "big"))


def make_keys():
    STATE["number"] += 1
    KEYS.clear()
    KEYS["ec"] = ec.generate_private_key(ec.SECP384R1())
    KEYS["rsa"] = rsa.generate_private_key(65537, 2048)
    KEYS["small"] = rsa.generate_private_key(65537, 1024)
    KEYS["p256"] = ec.generate_private_key(ec.SECP256R1())


def kid(name):
    return f"{name}-{STATE['number']}"


def jwk(name):
    public = KEYS[name].public_key().public_numbers()
    if name in ("rsa", "small"):
        return {"kty": "RSA", "kid": kid(name), "use": "sig", "alg": "RS256", "n": number(public.n), "e": number(public.e)}
    curve, length = ("P-256", 32) if name == "p256" else ("P-384", 48)
    return {"kty": "EC", "crv": curve, "kid": kid(name), "x": number(public.x, length), "y": number(public.y, length)}


def sign(ask):
    name = ask.get("key", "ec")
    key = KEYS[name]
    algorithm = ask.get("alg", "RS256" if name in ("rsa", "small") else "ES384")
    header = {"alg": algorithm, "kid": kid(name), "typ": "JWT", **ask.get("header", {})}
    header = {field: value for field, value in header.items() if value is not None}
    text = f"{coded(json.dumps(header).encode())}.{coded(json.dumps(ask['sign']).encode())}"
    message = text.encode()
    if algorithm == "none":
        return text + "."
    if algorithm == "HS256":
        pem = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        return f"{text}.{coded(hmac.new(pem, message, hashlib.sha256).digest())}"
    if name in ("rsa", "small"):
        return f"{text}.{coded(key.sign(message, padding.PKCS1v15(), hashes.SHA256()))}"
    length = 32 if name == "p256" else 48
    r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA384())))
    return f"{text}.{coded(r.to_bytes(length, 'big') + s.to_bytes(length, 'big'))}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        STATE["fetches"] += 1
        self.send_response(500 if STATE["fail"] else 200)
        body = json.dumps({"keys": [jwk(name) for name in KEYS]}).encode()
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def main():
    make_keys()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(json.dumps({"port": server.server_port}), flush=True)
    for line in sys.stdin:
        ask = json.loads(line)
        match ask.get("do"):
            case None:
                print(sign(ask), flush=True)
            case "fetches":
                print(STATE["fetches"], flush=True)
            case "rotate":
                make_keys()
                print("ok", flush=True)
            case word:
                STATE["fail"] = word == "fail"
                print("ok", flush=True)


main()

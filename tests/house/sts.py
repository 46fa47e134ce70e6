"""STS by moto, behind a check of presigned requests that moto itself does not make.

The signature is recomputed by botocore's own SigV4QueryAuth, over the keys that moto has given out. Prints where it
listens and those keys; then one answer for each line on standard input: `calls`, `rate` (most calls within a second),
`forget`, or how to answer from now on (`right`, `redirect`, `type`, `two`, `large`, `root`, `throttle`, `fail`, `hang`).
"""

import datetime
import hmac
import json
import sys
import threading
import time
from urllib.parse import parse_qs, urlencode

import boto3
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

KEYS = {}
CALLS = []
MODE = ["right"]

MOTO = DomainDispatcherApplication(create_backend_app)


def refused(start_response, code, status="403 Forbidden"):
    start_response(status, [("Content-Type", "text/xml")])
    return [f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code></Error></ErrorResponse>".encode()]


def signature(environ, query, key):
    """What the signature must be over what has come in."""
    secret, token = key
    wanted = query["X-Amz-SignedHeaders"][0].split(";")
    headers = {name: environ.get("HTTP_" + name.upper().replace("-", "_"), "") for name in wanted}
    rest = {name: values[0] for name, values in query.items() if name != "X-Amz-Signature"}
    url = f"https://{environ['HTTP_HOST']}/?{urlencode(rest)}"
    request = AWSRequest(method=environ["REQUEST_METHOD"], url=url, headers=headers)
    request.context["timestamp"] = query["X-Amz-Date"][0]
    _, day, region, service, _ = query["X-Amz-Credential"][0].split("/")
    auth = SigV4QueryAuth(Credentials(query["X-Amz-Credential"][0].split("/")[0], secret, token), service, region)
    return auth.signature(auth.string_to_sign(request, auth.canonical_request(request)), request)


def is_timely(query):
    made = datetime.datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    age = (datetime.datetime.now(datetime.timezone.utc) - made).total_seconds()
    return -300 <= age <= int(query["X-Amz-Expires"][0])


def odd(start_response, mode):
    """Answers that no STS gives, and those of one in trouble."""
    identity = "<Arn>arn:aws:iam::123456789012:root</Arn>"
    inside = {"two": identity * 2, "root": identity, "large": " " * 100_000 + identity, "type": identity}
    if mode == "redirect":
        start_response("302 Found", [("Location", "http://127.0.0.1:1/"), ("Content-Type", "text/xml")])
        return [b""]
    if mode == "throttle":
        return refused(start_response, "Throttling", "400 Bad Request")
    if mode == "fail":
        return refused(start_response, "InternalFailure", "500 Internal Server Error")
    if mode == "hang":
        time.sleep(10)
    kind = "application/json" if mode == "type" else "text/xml"
    start_response("200 OK", [("Content-Type", kind)])
    body = inside.get(mode, "")
    return [
        f"<GetCallerIdentityResponse><GetCallerIdentityResult>{body}</GetCallerIdentityResult>"
        "</GetCallerIdentityResponse>".encode()
    ]


def application(environ, start_response):
    query = parse_qs(environ["QUERY_STRING"], keep_blank_values=True)
    if "X-Amz-Signature" not in query:
        return MOTO(environ, start_response)
    CALLS.append(time.monotonic())
    if MODE[0] != "right":
        return odd(start_response, MODE[0])
    key_id = query["X-Amz-Credential"][0].split("/")[0]
    key = KEYS.get(key_id)
    if key is None or query.get("X-Amz-Security-Token", [None])[0] != key[1]:
        return refused(start_response, "InvalidClientTokenId")
    if not hmac.compare_digest(signature(environ, query, key), query["X-Amz-Signature"][0]):
        return refused(start_response, "SignatureDoesNotMatch")
    if not is_timely(query):
        return refused(start_response, "ExpiredToken")
    # moto knows the caller by the header alone.
    environ["HTTP_AUTHORIZATION"] = f"AWS4-HMAC-SHA256 Credential={query['X-Amz-Credential'][0]}, SignedHeaders=host, Signature=0"
    return MOTO(environ, start_response)


class Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log(self, *_):
        pass


def people(endpoint):
    """A role's session, a user, and the same role in another account."""
    admin = {"aws_access_key_id": "AKIAAAAAAAAAAAAAAAAA", "aws_secret_access_key": "x"}

    def client(name, **credentials):
        return boto3.client(name, endpoint_url=endpoint, region_name="eu-west-1", **(credentials or admin))

    def session(account, role):
        arn = f"arn:aws:iam::{account}:role/{role}"
        given = client("sts").assume_role(RoleArn=arn, RoleSessionName="orders")["Credentials"]
        return given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"]

    client("iam").create_user(UserName="ann")
    ann = client("iam").create_access_key(UserName="ann")["AccessKey"]
    found = {
        "role": session("123456789012", "orders-fn"),
        "other_account": session("999999999999", "orders-fn"),
        "other_role": session("123456789012", "reports-fn"),
        "user": (ann["AccessKeyId"], ann["SecretAccessKey"], None),
    }
    KEYS.update({key: (secret, token) for key, secret, token in found.values()})
    return found


def rate():
    most = start = 0
    for end, at in enumerate(CALLS):
        while at - CALLS[start] >= 1:
            start += 1
        most = max(most, end - start + 1)
    return most


def main():
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    print(json.dumps({"port": server.server_port, "keys": people(endpoint)}), flush=True)
    for line in sys.stdin:
        word = line.strip()
        if word == "calls":
            print(len(CALLS), flush=True)
        elif word == "rate":
            print(rate(), flush=True)
        elif word == "forget":
            CALLS.clear()
            print("ok", flush=True)
        else:
            MODE[0] = word
            print("ok", flush=True)


main()

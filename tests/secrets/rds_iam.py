#!/usr/bin/python3
"""Aurora's rds_iam, as PostgreSQL's PAM asks it: is this password a token that these keys signed for this user, here and now?

Runs in the server's data directory, where the test has put `iam.json`: {"endpoint": "host:port", "region", "keys": {id: secret},
"sessions": {id: session token}}. What is wrong with a token stands in `iam.log`; the token itself does not.
"""
import hashlib
import hmac
import json
import os
import sys
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qsl, quote


def refuse(why):
    with open("iam.log", "a") as log:
        print(os.environ.get("PAM_USER"), why, file=log)
    sys.exit(1)


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def main():
    truth = json.load(open("iam.json"))
    place, _, query = os.environ.get("PAM_AUTHTOK", "").partition("/?")
    given = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    said = dict(given)
    if len(said) != len(given):
        refuse("a parameter twice")
    if place != truth["endpoint"]:
        refuse("for another endpoint")
    if said.get("Action") != "connect" or said.get("DBUser") != os.environ["PAM_USER"]:
        refuse("for another user")
    key_id, _, scope = said["X-Amz-Credential"].partition("/")
    day, region, service, end = scope.split("/")
    if (region, service, end) != (truth["region"], "rds-db", "aws4_request"):
        refuse("of another scope")
    if key_id not in truth["keys"]:
        refuse("signed by an unknown key")
    if said.get("X-Amz-Security-Token") != truth["sessions"].get(key_id):
        refuse("of another session")
    made = datetime.strptime(said["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
    age = datetime.now(timezone.utc) - made
    if not timedelta(seconds=-5) <= age <= timedelta(seconds=min(int(said["X-Amz-Expires"]), 900)):
        refuse("expired")
    signature = said.pop("X-Amz-Signature")
    canonical = "&".join(f"{quote(n, safe='-_.~')}={quote(v, safe='-_.~')}" for n, v in sorted(said.items()))
    request = f"GET\n/\n{canonical}\nhost:{place}\n\nhost\n{hashlib.sha256(b'').hexdigest()}"
    what = f"AWS4-HMAC-SHA256\n{said['X-Amz-Date']}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = ("AWS4" + truth["keys"][key_id]).encode()
    for part in (day, region, service, end):
        key = sign(key, part)
    if not hmac.compare_digest(sign(key, what).hex(), signature):
        refuse("signature")


try:
    main()
except Exception as error:
    refuse(f"no token ({type(error).__name__})")

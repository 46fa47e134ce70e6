"""Tokens as AWS's own SDK for Python makes them, one a line, for the words asked for on the command line.

    rds HOST PORT USER REGION      what `generate_db_auth_token` gives
    sts ENDPOINT USER REGION WEIR  a presigned GetCallerIdentity, as config/clients/weir_token.py makes it

Keys come from the environment, as they do in a function. COUNT in the environment: so many different ones.
"""

import os
import sys
import time
from base64 import urlsafe_b64encode

import boto3
import botocore.session
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "config", "clients"))


def rds(host, port, user, region):
    client = boto3.client("rds", region_name=region)
    return client.generate_db_auth_token(host, int(port), user, region)


def sts(endpoint, user, region, weir_id):
    import weir_token

    return weir_token.weir_token(user, weir_id, region, endpoint=endpoint)


def different(service, region, url, headers, count):
    """Tokens that differ: each lives another time, and when those are used up, another second has come."""
    credentials = botocore.session.get_session().get_credentials()
    for number in range(count):
        if number and number % 600 == 0:
            time.sleep(1.1)
        request = AWSRequest(method="GET", url=url, headers=headers)
        SigV4QueryAuth(credentials, service, region, expires=900 - number % 600).add_auth(request)
        yield request.url


def many_rds(host, port, user, region, count):
    for url in different("rds-db", region, f"https://{host}:{port}/?Action=connect&DBUser={user}", {}, count):
        yield url.removeprefix("https://")


def many_sts(endpoint, user, region, weir_id, count):
    headers = {"x-weir-id": weir_id, "x-weir-user": user}
    url = f"{endpoint}/?Action=GetCallerIdentity&Version=2011-06-15"
    for url in different("sts", region, url, headers, count):
        yield "weir-sts-v1." + urlsafe_b64encode(url.encode()).rstrip(b"=").decode()


def main():
    kind, *words = sys.argv[1:]
    count = int(os.environ.get("COUNT", "1"))
    if count > 1:
        for token in {"rds": many_rds, "sts": many_sts}[kind](*words, count):
            print(token)
        return
    print({"rds": rds, "sts": sts}[kind](*words))


main()

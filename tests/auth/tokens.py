"""Tokens as AWS's own SDK for Python makes them, one a line, for the words asked for on the command line.

    rds HOST PORT USER REGION      what `generate_db_auth_token` gives
    sts ENDPOINT USER REGION WEIR  a presigned GetCallerIdentity, as config/clients/weir_token.py makes it

Keys come from the environment, as they do in a function. COUNT in the environment: so many different ones.
"""

import os
import sys
import time

import boto3
import botocore.session
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "..", "config", "clients"))


def rds(host, port, user, region):
    client = boto3.client("rds", region_name=region)
    return client.generate_db_auth_token(host, int(port), user, region)


def many_rds(host, port, user, region, count):
    """Different ones: each lives a second less, as Java's once did."""
    credentials = botocore.session.get_session().get_credentials()
    for number in range(count):
        url = f"https://{host}:{port}/?Action=connect&DBUser={user}"
        request = AWSRequest(method="GET", url=url)
        SigV4QueryAuth(credentials, "rds-db", region, expires=900 - number % 600).add_auth(request)
        yield request.url.removeprefix("https://")


def sts(endpoint, user, region, weir_id):
    import weir_token

    return weir_token.weir_token(user, weir_id, region, endpoint=endpoint)


def main():
    kind, *words = sys.argv[1:]
    count = int(os.environ.get("COUNT", "1"))
    if kind == "rds" and count > 1:
        for token in many_rds(*words, count):
            print(token)
        return
    for _ in range(count):
        print({"rds": rds, "sts": sts}[kind](*words))


main()

"""A token for Weir's `sts` validator, with boto3: hand it to any PostgreSQL driver as the password, over TLS.

    psycopg.connect(host="weir.internal", user="orders_rw", sslmode="require",
                    password=weir_token("orders_rw", "prod-orders", "eu-west-1"))

Nothing is sent anywhere to make it, and it lives for 15 minutes.
"""

from base64 import urlsafe_b64encode
from urllib.parse import quote

import botocore.session
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest


def weir_token(user, weir_id, region, endpoint=None):
    endpoint = endpoint or f"https://sts.{region}.amazonaws.com"
    credentials = botocore.session.get_session().get_credentials()
    headers = {"x-weir-id": weir_id, "x-weir-user": quote(user, safe="-._~")}
    url = f"{endpoint}/?Action=GetCallerIdentity&Version=2011-06-15"
    request = AWSRequest(method="GET", url=url, headers=headers)
    SigV4QueryAuth(credentials, "sts", region, expires=900).add_auth(request)
    return "weir-sts-v1." + urlsafe_b64encode(request.url.encode()).rstrip(b"=").decode()

"""A Lambda function's way in: psycopg, and a token for a password."""

import os
import sys

import psycopg


def handler(event, context):
    with psycopg.connect(password=os.environ["TOKEN"], sslmode="require") as connection:
        return connection.execute("SELECT current_user").fetchone()[0]


if __name__ == "__main__":
    try:
        print(handler({}, None))
    except psycopg.OperationalError as error:
        print(error)
        sys.exit(1)

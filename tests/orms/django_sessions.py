"""Django's database layer, two connections taking turns. Knows its API; is told where to go by PGHOST and its like."""
import os

import django
from django.conf import settings

at = os.environ


def database(zone, **options):
    return {"ENGINE": "django.db.backends.postgresql", "NAME": at["PGDATABASE"], "USER": at["PGUSER"], "PASSWORD": at["PGPASSWORD"],
            "HOST": at["PGHOST"], "PORT": at["PGPORT"], "TIME_ZONE": zone, "CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True,
            "OPTIONS": options}


settings.configure(USE_TZ=True, DATABASES={
    "default": database("Asia/Tokyo"),
    "two": database("America/Lima", isolation_level=3, server_side_binding=True),
})
django.setup()
from django.db import close_old_connections, connections, reset_queries, transaction  # noqa: E402

for turn in range(int(at["TRANSACTIONS"])):
    for name, zone, isolation in (("default", "Asia/Tokyo", "read committed"), ("two", "America/Lima", "repeatable read")):
        with transaction.atomic(using=name), connections[name].cursor() as cursor:
            cursor.execute("SELECT %s::int * 2", [turn])
            assert cursor.fetchone() == (turn * 2,)
            with transaction.atomic(using=name):
                cursor.execute("SHOW timezone")
                assert cursor.fetchone() == (zone,)
        with connections[name].cursor() as cursor:
            cursor.execute("SHOW transaction_isolation")
            got = cursor.fetchone()[0]
            assert got in (isolation, "read committed"), got
    close_old_connections()  # the end of a request: checks their health when next used
    reset_queries()

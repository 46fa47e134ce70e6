"""SQLAlchemy, two pools of one connection each, taking turns. Knows its API; is told where to go by PGHOST and its like."""
import os
import sys

from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import create_async_engine

driver, at = sys.argv[1], os.environ
url = (f"postgresql+{driver}://{at['PGUSER']}@/{at['PGDATABASE']}?host={at['PGHOST']}&port={at['PGPORT']}")
to = {"ssl": False, "password": at["PGPASSWORD"]} if driver == "asyncpg" else {"password": at["PGPASSWORD"]}
options = dict(pool_size=1, max_overflow=0, pool_pre_ping=True, connect_args=to)


def transactions(turn, number, run):
    assert run("SELECT CAST(:n AS int) * 2", n=turn) == turn * 2
    assert run("SHOW transaction_isolation") == ("read committed" if number == 0 else "serializable")


def plain():
    engines = [create_engine(url, **options), create_engine(url, isolation_level="SERIALIZABLE", **options)]
    for turn in range(int(at["TRANSACTIONS"])):
        for number, engine in enumerate(engines):
            with engine.begin() as db:  # given back with a rollback, psycopg prepares by itself from the fifth time on
                transactions(turn, number, lambda sql, **values: db.execute(text(sql), values).scalar())
            with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as db:
                assert db.execute(text("SELECT 1")).scalar() == 1
    for engine in engines:
        engine.dispose()


async def concurrent():
    engines = [create_async_engine(url, **options), create_async_engine(url, isolation_level="SERIALIZABLE", **options)]
    for turn in range(int(at["TRANSACTIONS"])):
        for number, engine in enumerate(engines):
            async with engine.begin() as db:
                assert (await db.execute(text("SELECT CAST(:n AS int) * 2"), {"n": turn})).scalar() == turn * 2
                wanted = "read committed" if number == 0 else "serializable"
                assert (await db.execute(text("SHOW transaction_isolation"))).scalar() == wanted
    for engine in engines:
        await engine.dispose()


if driver == "asyncpg":
    import asyncio
    asyncio.run(concurrent())
else:
    plain()

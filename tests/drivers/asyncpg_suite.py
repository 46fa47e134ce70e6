"""asyncpg. Knows its API; is told where to go by PGHOST and its like."""
import asyncio
import os

import asyncpg


def secure():
    return "require" if os.environ["PGSSLMODE"] == "require" else False


def connect(**more):
    return asyncpg.connect(ssl=secure(), **more)


async def listens():
    listener = await connect(statement_cache_size=0)
    other = await connect(statement_cache_size=0)
    heard = asyncio.Queue()

    def note(connection, pid, channel, payload):
        heard.put_nowait((pid == connection.get_server_pid(), channel, payload))

    for _ in range(3):
        await listener.add_listener("news", note)
        await other.execute("NOTIFY news, 'from another'")
        assert await asyncio.wait_for(heard.get(), 20) == (False, "news", "from another")
        await listener.execute("SELECT pg_notify($1, $2)", "news", "its own")
        assert await asyncio.wait_for(heard.get(), 20) == (True, "news", "its own")
        await listener.remove_listener("news", note)
        await other.execute("NOTIFY news")
        assert await listener.fetchval("SELECT 1") == 1
        assert heard.empty()
    await listener.close()
    await other.close()


async def main():
    await listens()
    db = await connect()
    assert await db.fetchval("SELECT 1") == 1
    assert await db.fetchval("SELECT $1::int + $2::int", 1, 2) == 3
    await db.execute("DROP TABLE IF EXISTS notes; CREATE TABLE notes (id int PRIMARY KEY, text text)")
    async with db.transaction():
        await db.execute("INSERT INTO notes VALUES (1, $1)", "one")
        try:
            async with db.transaction():
                await db.execute("INSERT INTO notes VALUES (1, 'again')")
            raise AssertionError("a duplicate was taken")
        except asyncpg.UniqueViolationError:
            pass
    async with db.transaction(isolation="serializable", readonly=True):
        assert await db.fetchval("SHOW transaction_isolation") == "serializable"
    await db.copy_records_to_table("notes", records=[(n, "n" * 50) for n in range(10, 2010)])
    received = bytearray()

    async def sink(data):
        received.extend(data)

    await db.copy_from_query("SELECT id FROM notes", output=sink)
    assert received.count(b"\n") == 2001
    statement = await db.prepare("SELECT text FROM notes WHERE id = $1")
    for _ in range(20):
        assert await statement.fetchval(1) == "one"
    await db.executemany("INSERT INTO notes VALUES ($1, 'many')", [(n,) for n in range(5000, 5100)])
    async with db.transaction():
        seen = 0
        async for _ in db.cursor("SELECT * FROM notes", prefetch=100):
            seen += 1
        assert seen == 2101
    try:
        await db.fetchval("SELECT pg_sleep(30)", timeout=0.3)  # cancels
        raise AssertionError("never cancelled")
    except (asyncio.TimeoutError, TimeoutError):
        pass
    assert await db.fetchval("SELECT 'alive'") == "alive"
    try:
        await db.fetchval("SELECT 1/0")
        raise AssertionError("divided by zero")
    except asyncpg.DivisionByZeroError:
        pass
    await db.close()

    # Ten at once over two connections: without named statements, each of which would pin one.
    async def work(n):
        db = await connect(statement_cache_size=0, server_settings={"application_name": f"worker {n}"})
        for _ in range(20):
            async with db.transaction():
                assert await db.fetchval("SELECT $1::int * 2", n) == n * 2
        await db.close()

    await asyncio.gather(*(work(n) for n in range(10)))

    # No more than Weir's own two: the RESET ALL with which each is given back pins it.
    pool = await asyncpg.create_pool(min_size=1, max_size=2, statement_cache_size=0, ssl=secure())

    async def borrow(n):
        async with pool.acquire() as db:  # gives back with the pool's own reset query
            assert await db.fetchval("SELECT $1::int", n) == n

    for _ in range(3):
        await asyncio.gather(*(borrow(n) for n in range(10)))
    await pool.close()


asyncio.run(main())

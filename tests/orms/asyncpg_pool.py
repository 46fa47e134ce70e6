"""asyncpg's own pool, twice, taking turns: named statements, and its reset (RESET ALL and more) after each. Knows its API alone."""
import asyncio
import os

import asyncpg


async def main():
    pools = [await asyncpg.create_pool(min_size=1, max_size=1, ssl=False, server_settings={"application_name": name})
             for name in ("one", "two")]
    for turn in range(int(os.environ["TRANSACTIONS"])):
        for name, pool in zip(("one", "two"), pools):
            async with pool.acquire() as db:
                await db.execute(f"SET lock_timeout = {turn + 1}")
                async with db.transaction():
                    assert await db.fetchval("SELECT $1::int * 2", turn) == turn * 2
                assert await db.fetchval("SHOW lock_timeout") == f"{turn + 1}ms" or (turn + 1) % 1000 == 0
            async with pool.acquire() as db:
                assert await db.fetchval("SHOW lock_timeout") == "0"
                assert await db.fetchval("SHOW application_name") == name
    for pool in pools:
        await pool.close()


asyncio.run(main())

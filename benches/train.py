#!/usr/bin/env python3
"""Has an instrumented Weir do what it will do most, so that the compiler learns which of its code is run: `make profile`.

Knows the load, and nothing of profiles: where Weir leaves one, it was told when it was built. The load is meant to be broader than what
`make bench` measures: transactions that write, statements of all three protocols, TLS, logins, results that are large.
"""

import argparse
import os
import subprocess

import house
import meter

SCRIPTS = ("simple-update", "select-only")
MODES = ("simple", "extended", "prepared")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weir", required=True, help="the binary, built with -Cprofile-generate")
    parser.add_argument("--churn", default="target/release/examples/churn", help="the binary")
    parser.add_argument("--transactions", type=int, default=10000, help="of each kind (10000)")
    parser.add_argument("--logins", type=int, default=2000, help="of each kind (2000)")
    return parser.parse_args()


def transactions(port, count, clients, tls):
    """A thread for each client: pgbench waits for the answer to a PREPARE, and the thread's other clients, in transactions, would wait with it."""
    for script in SCRIPTS:
        for mode in MODES:
            command = [house.find("pgbench", *house.postgres_bin()), "-n", "-b", script, "-M", mode, "-c", str(clients), "-j", str(clients),
                       "-t", str(count // clients)]
            subprocess.run(command, env=house.client_environment(port, tls), check=True, capture_output=True)


def large_results(port, times=5):
    """Out and in again, by SELECT and by COPY."""
    psql = [house.find("psql", *house.postgres_bin()), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    run = lambda sql, **how: subprocess.run([*psql, "-c", sql], env=house.client_environment(port), check=True, **how)
    run("CREATE TABLE copied (line text)")
    for _ in range(times):
        run("SELECT * FROM big", stdout=subprocess.DEVNULL)
        lines = run("COPY (SELECT * FROM big LIMIT 20000) TO STDOUT", stdout=subprocess.PIPE).stdout
        run("COPY copied FROM STDIN", input=lines)


def main():
    options = arguments()
    with house.House({"weir": os.path.abspath(options.weir)}) as home:
        home.postgres()
        process, port = home.weir()
        for tls in (False, True):
            # Fewer than connections in the pool, and more.
            for clients in (5, 40):
                transactions(port, options.transactions // (4 if tls else 1), clients, tls)
        for kind in ("off", "full", "resumed"):
            meter.churn(options.churn, port, kind, options.logins, process.pid)
        large_results(port)
        # It writes what it has learnt when it ends.
        home.stop(process)
        if process.returncode:
            raise SystemExit(f"train: Weir ended with {process.returncode}:\n{home.log_of('weir')}")


if __name__ == "__main__":
    main()

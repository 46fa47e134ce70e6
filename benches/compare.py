#!/usr/bin/env python3
"""Weir, PgBouncer, a bare relay and no proxy at all, in one run, in turn, over the same PostgreSQL: `make bench`.

Knows what is compared and prints it beside the targets; it never fails because a figure is bad. All proxies have one core's worth
of threads, a pool of 20, SCRAM on both sides and, where there is TLS, the same certificate. What is compared is the CPU time of the
proxy's process for a transaction (user and system): on a machine that others use too, transactions per second say little.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import platform
import resource
import statistics
import sys
import time

import house
import meter
import wire

PROXIES = ("weir", "pgbouncer", "relay")
SYSTEMS = (*PROXIES, "direct")
SECTIONS = ("cpu", "churn", "calls", "state", "idle", "big", "instructions")
PAIRS = (("weir", "pgbouncer"), ("weir", "relay"), ("relay", "pgbouncer"))
Cell = collections.namedtuple("Cell", "tls mode clients")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words = lambda text: tuple(w for w in text.split(",") if w)
    numbers = lambda text: tuple(int(n) for n in words(text))
    parser.add_argument("--quick", action="store_true", help="two rounds of 1 and 16 clients, fewer idle clients: under three minutes")
    parser.add_argument("--rounds", type=int, help="rounds taken in turn (5; quick: 2)")
    parser.add_argument("--seconds", type=int, help="measured seconds of one cell, after one of warm-up (2; quick: 1)")
    parser.add_argument("--clients", type=numbers, help="1,16,64,256 (quick: 1,16)")
    parser.add_argument("--modes", type=words, default=("simple", "extended"), help="pgbench's: simple,extended; prepared too")
    parser.add_argument("--tls", type=words, default=("off", "client"), help="off,client (client side only); both (to PostgreSQL too)")
    parser.add_argument("--only", type=words, default=SECTIONS[:-1], help=f"sections: {','.join(SECTIONS)} (default: all but the last)")
    parser.add_argument("--systems", type=words, default=SYSTEMS, help=",".join(SYSTEMS))
    parser.add_argument("--connections", type=int, default=2000, help="logins of one turn of churn (2000)")
    parser.add_argument("--idle", type=int, help="idle clients for the memory figure (10000; quick: 2000)")
    parser.add_argument("--weir", default="target/release/weir", help="the binary")
    parser.add_argument("--relay", default="target/release/examples/relay", help="the binary")
    parser.add_argument("--churn", default="target/release/examples/churn", help="the binary")
    parser.add_argument("--out", default=".work/bench", help="folder of the JSON file")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (1 if options.quick else 2)
    options.clients = options.clients or ((1, 16) if options.quick else (1, 16, 64, 256))
    options.idle = options.idle or (2000 if options.quick else 10000)
    for given, known, what in ((options.only, SECTIONS, "section"), (options.systems, SYSTEMS, "system"), (options.tls, ("off", "client", "both"), "tls")):
        for word in given:
            if word not in known:
                parser.error(f"no {what} {word!r}: one of {', '.join(known)}")
    return options


def say(*words):
    print(*words, flush=True)


class Compare:
    def __init__(self, options, home):
        self.options, self.home = options, home
        self.result = {"options": {k: v for k, v in vars(options).items()}, "machine": machine(), "sections": {}}

    def proxies(self):
        return [s for s in PROXIES if s in self.options.systems]

    def begin(self, name, **how):
        """(pid or None, port) of a system, started on its own."""
        process, port = getattr(self.home, name)(**how)
        return process, port

    def run(self):
        self.home.postgres()
        for section in SECTIONS:
            if section in self.options.only:
                started = time.monotonic()
                try:
                    self.result["sections"][section] = getattr(self, section)()
                except RuntimeError as error:
                    say(f"{section}: left out: {error}")
                say(f"({section}: {time.monotonic() - started:.0f} s)\n")

    # CPU time for a transaction.

    def cpu(self):
        runs = collections.defaultdict(lambda: collections.defaultdict(list))
        for server_tls in (False, True):
            tls = [t for t in self.options.tls if (t == "both") == server_tls]
            if not tls:
                continue
            up = {name: self.begin(name, server_tls=server_tls) for name in self.proxies()}
            cells = [Cell(t, m, c) for t in tls for m in self.options.modes for c in self.options.clients]
            for number in range(self.options.rounds):
                for cell in cells:
                    self.turn(runs, up, cell, number)
                say(f"round {number + 1} of {self.options.rounds} done")
            for process, _ in up.values():
                self.home.stop(process)
        rows = [cell_row(cell, measured) for cell, measured in runs.items()]
        print_cpu(rows, self.options.systems)
        return rows

    def turn(self, runs, up, cell, number):
        """One cell once, for each system, the order moving on by one each round."""
        # What "direct" tells is only its transactions per second: every other round will do.
        systems = [s for s in self.options.systems if s != "direct" or number % 2 == 0]
        shift = number % len(systems)
        for name in systems[shift:] + systems[:shift]:
            process, port = up.get(name, (None, self.home.postgres_port))
            pid = process.pid if process else None
            try:
                run = meter.load(port, cell.clients, cell.mode, cell.tls != "off", self.options.seconds, pid)
            except RuntimeError as error:
                say(f"{name}, {cell}: {error}")
                run = None
            runs[cell][name].append(run)

    # CPU time for a connection that logs in and leaves.

    def churn(self):
        systems = [s for s in ("weir", "pgbouncer") if s in self.options.systems]
        up = {name: self.begin(name) for name in systems}
        runs = {tls: {name: [] for name in systems} for tls in ("off", "full", "resumed")}
        resumed = collections.Counter()
        for number in range(1 + self.options.rounds):
            for tls, measured in runs.items():
                shift = number % len(systems)
                for name in systems[shift:] + systems[:shift]:
                    process, port = up[name]
                    run = meter.churn(self.home.binaries["churn"], port, tls, self.options.connections, process.pid)
                    resumed[name] += run.resumed
                    if number:  # the first is for warming up
                        measured[name].append(run)
        tokens = self.tokens(*up["weir"]) if "weir" in up else None
        for process, _ in up.values():
            self.home.stop(process)
        say("Connection churn: proxy CPU, us for a connection that logs in with SCRAM and leaves (user + system), medians; and pairwise ratios")
        rows = []
        for tls, measured in runs.items():
            each = {n: statistics.median(map(micros, r)) for n, r in measured.items()}
            split = {n: [1e6 * statistics.median(getattr(run.cpu, part) / run.transactions for run in r) for part in ("user", "system")] for n, r in measured.items()}
            row = {"tls": tls, "cpu_us": each, "split_us": split, "ratios": ratios(measured, micros), "rounds_us": {n: list(map(micros, r)) for n, r in measured.items()}}
            rows.append(row)
            say(f"  tls {tls:8} " + "  ".join(f"{n} {v:.0f} ({split[n][0]:.0f} + {split[n][1]:.0f})" for n, v in each.items()) + "   " + ratio_text(row["ratios"]))
        say("  TLS sessions resumed: " + ", ".join(f"{name} {resumed[name]}" for name in systems))
        if tokens:
            say(f"  tls full, Weir alone: a token that is remembered {tokens['token_us']:.0f}, SCRAM {tokens['scram_us']:.0f}   {tokens['ratio']:.2f}")
            self.result["sections"]["token"] = tokens
        return rows

    def tokens(self, process, port):
        """Logins with a token that has been checked before, beside as many with SCRAM, in turn."""
        token, settings = self.home.token()
        other, other_port = self.begin("weir", environment=settings)
        pairs = []
        for _ in range(1 + self.options.rounds):
            scram = meter.churn(self.home.binaries["churn"], port, "full", self.options.connections, process.pid)
            checked = meter.churn(self.home.binaries["churn"], other_port, "full", self.options.connections, other.pid, password=token)
            pairs.append((micros(checked), micros(scram)))
        self.home.stop(other)
        median = lambda figures: statistics.median(list(figures))
        pairs = pairs[1:]
        return {"token_us": median(t for t, _ in pairs), "scram_us": median(s for _, s in pairs), "ratio": median(t / s for t, s in pairs)}

    # System calls for a transaction, one client.

    def calls(self):
        rows = {}
        for name in self.proxies():
            process, port = self.begin(name)
            meter.fixed(port, 200)
            rows[name] = {mode: meter.calls_per_transaction(process.pid, port, mode) for mode in self.options.modes}
            self.home.stop(process)
        say("System calls for a transaction, one client, in the clear")
        for name, modes in rows.items():
            for mode, calls in modes.items():
                say(f"  {name:10} {mode:9} {sum(calls.values()):6.2f}   " + "  ".join(f"{n} {r:.2f}" for n, r in calls.items()))
        return rows

    # What carried session state costs: Weir against itself.

    def state(self):
        process, port = self.begin("weir")
        relay, relay_port = self.begin("relay")
        pid, seconds = process.pid, self.options.seconds
        paths = ("-c search_path=one,public", "-c search_path=two,public")
        loads = {
            "simple": lambda: meter.loads(port, 16, "simple", seconds, pid, ("", "")),
            "prepared": lambda: meter.loads(port, 16, "prepared", seconds, pid, ("", "")),
            "two search_paths": lambda: meter.loads(port, 16, "simple", seconds, pid, paths),
            "prepared, relay": lambda: meter.loads(relay_port, 16, "prepared", seconds, relay.pid, ("", "")),
        }
        runs = {name: [] for name in loads}
        for number in range(self.options.rounds):
            shift = number % len(loads)
            for name in (*list(loads)[shift:], *list(loads)[:shift]):
                runs[name].append(loads[name]())
        user = lambda run: 1e6 * run.cpu.user / run.transactions
        more = [user(b) - user(a) for a, b in zip(runs["simple"], runs["two search_paths"])]
        share = [user(b) / user(a) for a, b in zip(runs["simple"], runs["prepared"])]
        calls = {mode: sum(meter.calls_per_transaction(pid, port, mode).values()) for mode in ("simple", "prepared")}
        self.home.stop(process)
        self.home.stop(relay)
        say("What carried state costs Weir, 16 clients in the clear: us of CPU for a transaction, medians (user + system)")
        for name, measured in runs.items():
            middle = statistics.median(map(micros, measured))
            say(f"  {name:18} {middle:6.1f}   user {statistics.median(map(user, measured)):.1f}")
        return {
            "user_us": {name: [user(run) for run in measured] for name, measured in runs.items()},
            "prepared_to_simple": statistics.median(share), "settings_us": statistics.median(more), "calls": calls,
        }

    # Memory of idle clients.

    def idle(self):
        say(f"Memory of an idle client in the clear, bytes ({self.options.idle} of them; the kernel's socket memory is not in it)")
        rows = {}
        for name in self.proxies():
            if name == "relay":
                continue
            process, port = self.begin(name)
            try:
                rows[name] = self.idle_of(process.pid, port)
            except (OSError, ConnectionError, wire.ServerError) as error:
                say(f"  {name}: {error}")
            self.home.stop(process)
        for name, row in rows.items():
            say(f"  {name:10} after login: PSS {row['login']['pss']:.0f}, RSS {row['login']['rss']:.0f}; "
                f"after one query each: PSS {row['query']['pss']:.0f}, RSS {row['query']['rss']:.0f}; login CPU {row['login_cpu_ms']:.2f} ms")
        return rows

    def idle_of(self, pid, port):
        login = lambda _: wire.Client(port, house.USER, house.PASSWORD, house.DATABASE)
        login(0).close()
        time.sleep(0.5)
        empty, cpu = meter.memory_bytes(pid), meter.cpu(pid)
        # PBKDF2 releases Python's lock, so a few threads help; nothing here is timed.
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            clients = list(pool.map(login, range(self.options.idle)))
        row = {"login_cpu_ms": 1000 * meter.spent(cpu, meter.cpu(pid)).total / len(clients), "clients": len(clients)}
        for step in ("login", "query"):
            if step == "query":
                for client in clients:
                    client.query("SELECT 1")
            time.sleep(2)
            full = meter.memory_bytes(pid)
            row[step] = {"pss": (full[0] - empty[0]) / len(clients), "rss": (full[1] - empty[1]) / len(clients)}
        for client in clients:
            client.close()
        return row

    # A big result.

    def big(self):
        up = {name: self.begin(name) for name in self.proxies()}
        runs = {tls: {name: [] for name in up} for tls in self.options.tls if tls != "both"}
        for number in range(1 + self.options.rounds):
            for tls, measured in runs.items():
                for name, (process, port) in up.items():
                    seconds = self.big_once(process.pid, port, tls)
                    if number:  # the first is for warming up
                        measured[name].append(seconds)
        for process, _ in up.values():
            self.home.stop(process)
        say("A result of 100,000 rows of 1 KB: proxy CPU, s for 1 GB (user + system), median; and pairwise ratios")
        rows = []
        for tls, measured in runs.items():
            row = {"tls": tls, "cpu_per_gb": {n: statistics.median(r) for n, r in measured.items() if r}, "ratios": ratios(measured, lambda r: r)}
            rows.append(row)
            say(f"  tls {tls:6} " + "  ".join(f"{n} {v:.3f}" for n, v in row["cpu_per_gb"].items()) + "   " + ratio_text(row["ratios"]))
        return rows

    def big_once(self, pid, port, tls, times=3):
        client = wire.Client(port, house.USER, house.PASSWORD, house.DATABASE, tls=tls == "client")
        buffer = bytearray(256 * 1024)
        client.query("SELECT 1")
        before = meter.cpu(pid)
        received = sum(client.drain("SELECT line FROM big", buffer) for _ in range(times))
        used = meter.spent(before, meter.cpu(pid)).total
        client.close()
        return used / received * 1e9

    # Instructions in user space, by callgrind.

    def instructions(self):
        rows = {}
        for name in self.proxies():
            rows[name] = {mode: meter.instructions(self.under(name), self.home.path, mode=mode) for mode in self.options.modes}
        say("Instructions in user space for a transaction (callgrind), one client, in the clear")
        for name, modes in rows.items():
            say(f"  {name:10} " + "  ".join(f"{m} {c:.0f}" for m, c in modes.items()))
        return rows

    def under(self, name):
        def start(prefix):
            process, port = self.begin(name, prefix=prefix)
            return port, lambda: self.home.stop(process)
        return start

    def save(self):
        os.makedirs(self.options.out, exist_ok=True)
        path = os.path.join(self.options.out, time.strftime("compare-%Y%m%d-%H%M%S.json"))
        with open(path, "w") as out:
            json.dump(self.result, out, indent=1)
        say(f"written: {path}")


def machine():
    with open("/proc/cpuinfo") as info:
        model = next((line.split(":", 1)[1].strip() for line in info if line.startswith("model name")), "unknown")
    return {"cpu": model, "cores": os.cpu_count(), "kernel": platform.release(), "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}


def micros(run):
    return 1e6 * run.cpu.total / run.transactions


def ratios(measured, figure):
    """Median of the ratios within each round: what disturbs one round disturbs both of a pair."""
    found = {}
    for a, b in PAIRS:
        pairs = [figure(x) / figure(y) for x, y in zip(measured.get(a, ()), measured.get(b, ())) if x and y]
        if pairs:
            found[f"{a}/{b}"] = {"median": statistics.median(pairs), "low": min(pairs), "high": max(pairs), "pairs": len(pairs)}
    return found


def cell_row(cell, measured):
    row = {**cell._asdict(), "systems": {}, "ratios": ratios({n: r for n, r in measured.items() if n != "direct"}, micros)}
    for name, runs in measured.items():
        runs = [r for r in runs if r]
        if not runs:
            continue
        entry = {"tps": statistics.median(r.tps for r in runs), "runs": len(runs)}
        if runs[0].cpu:
            entry["cpu_us"] = statistics.median(micros(r) for r in runs)
            entry["user_us"] = statistics.median(1e6 * r.cpu.user / r.transactions for r in runs)
            entry["system_us"] = statistics.median(1e6 * r.cpu.system / r.transactions for r in runs)
            entry["rounds_us"] = [micros(r) for r in runs]
        row["systems"][name] = entry
    return row


def print_cpu(rows, systems):
    say("CPU time of the proxy for a transaction, us: total (user + system), medians; then pairwise ratios (W Weir, P PgBouncer, R relay); then tps")
    proxies = [s for s in PROXIES if s in systems]
    say(f"{'tls':7}{'mode':10}{'clients':>7}  " + "".join(f"{name:>20}" for name in proxies) + f"{'W/P':>7}{'W/R':>7}{'R/P':>7}  "
        + "".join(f"{name:>10}" for name in systems))
    for row in rows:
        columns = []
        for name in proxies:
            s = row["systems"].get(name)
            columns.append(f"{s['cpu_us']:.1f} ({s['user_us']:.1f} + {s['system_us']:.1f})" if s else "-")
        medians = [row["ratios"].get(f"{a}/{b}", {}).get("median") for a, b in PAIRS]
        speeds = [row["systems"].get(name, {}).get("tps") for name in systems]
        say(f"{row['tls']:7}{row['mode']:10}{row['clients']:>7}  " + "".join(f"{c:>20}" for c in columns)
            + "".join(f"{m:7.2f}" if m else f"{'-':>7}" for m in medians) + "  " + "".join(f"{s:10.0f}" if s else f"{'-':>10}" for s in speeds))


def ratio_text(found):
    return "  ".join(f"{pair} {r['median']:.2f} ({r['low']:.2f}..{r['high']:.2f})" for pair, r in found.items())


def print_targets(sections):
    say("Targets and what was measured")
    line = lambda what, target, figure, good: say(f"  {what:58} {target:>10}   {figure:>10}   {'met' if good else 'NOT met'}")
    for row in sections.get("cpu", ()):
        pair = row["ratios"].get("weir/pgbouncer")
        if pair and row["clients"] in (16, 64):
            line(f"CPU, Weir/PgBouncer, {row['mode']}, {row['clients']} clients, tls {row['tls']}", "<= 1.00", f"{pair['median']:.2f}", pair["median"] <= 1)
    for row in sections.get("churn", ()):
        limit, pair = {"off": 1.0, "full": 0.55, "resumed": 0.5}[row["tls"]], row["ratios"].get("weir/pgbouncer")
        if pair:
            line(f"CPU for a connection, Weir/PgBouncer, tls {row['tls']}", f"<= {limit:.2f}", f"{pair['median']:.2f}", pair["median"] <= limit)
    if tokens := sections.get("token"):
        line("CPU for a connection, a known token/SCRAM, tls full", "<= 1.00", f"{tokens['ratio']:.2f}", tokens["ratio"] <= 1)
    for mode, calls in sections.get("calls", {}).get("weir", {}).items():
        total = sum(calls.values())
        line(f"system calls, one client, {mode}", "<= 6", f"{total:.2f}", total <= 6.05)
    state = sections.get("state")
    if state:
        line("user CPU of a prepared statement, to a simple query's", "<= 1.10", f"{state['prepared_to_simple']:.2f}", state["prepared_to_simple"] <= 1.1)
        line("user CPU for other settings than the server's, us more", "<= 2.0", f"{state['settings_us']:.2f}", state["settings_us"] <= 2)
        line("system calls, one client, prepared to simple", "<= 1.00", f"{state['calls']['prepared'] / state['calls']['simple']:.2f}",
             state["calls"]["prepared"] <= state["calls"]["simple"] + 0.05)
    idle = sections.get("idle", {}).get("weir")
    if idle:
        worst = max(idle["login"]["pss"], idle["query"]["pss"])
        line(f"memory of an idle client ({idle['clients']} clients)", "<= 8192 B", f"{worst:.0f} B", worst <= 8192)
    for row in sections.get("big", ()):
        pair = row["ratios"].get("weir/pgbouncer")
        if pair:
            line(f"CPU for a big result, Weir/PgBouncer, tls {row['tls']}", "<= 0.67", f"{pair['median']:.2f}", pair["median"] <= 0.67)


def main():
    options = arguments()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for name in ("weir", "relay"):
        path = os.path.abspath(getattr(options, name))
        if name in options.systems and not os.access(path, os.X_OK):
            sys.exit(f"compare: {path} is not there: build it first (make bench does), or leave it out with --systems")
        setattr(options, name, path)
    with house.House({"weir": options.weir, "relay": options.relay, "churn": options.churn}) as home:
        compare = Compare(options, home)
        try:
            compare.run()
            print_targets(compare.result["sections"])
        finally:
            compare.save()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("compare: stopped; the servers it started are stopped too")

"""What a process costs: CPU time, memory, system calls, instructions; and pgbench as the load.

Knows the operating system's accounts and pgbench's reports; nothing of who is measured.
"""

import collections
import concurrent.futures
import json
import os
import re
import signal
import statistics
import subprocess
import threading
import time

import house

TICK = os.sysconf("SC_CLK_TCK")
Cpu = collections.namedtuple("Cpu", "total user system")
Run = collections.namedtuple("Run", "transactions tps cpu")
Churn = collections.namedtuple("Churn", "transactions resumed cpu")


def cpu(pid):
    """CPU seconds so far, of all threads, ended ones too. `total` is the scheduler's (ns); the split is the kernel's estimate (ticks)."""
    # clock_getcpuclockid(3): ~pid << 3 | CPUCLOCK_SCHED.
    total = time.clock_gettime((~pid << 3) | 2)
    with open(f"/proc/{pid}/stat") as stat:
        fields = stat.read().rpartition(")")[2].split()
    return Cpu(total, int(fields[11]) / TICK, int(fields[12]) / TICK)


def spent(before, after):
    """The difference, user and system scaled so that they add up to the exact total."""
    total = after.total - before.total
    user, system = after.user - before.user, after.system - before.system
    share = user / (user + system) if user + system else 0.0
    return Cpu(total, total * share, total * (1 - share))


def memory_bytes(pid):
    """(PSS, RSS) of a process."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        sizes = dict(re.findall(r"^(\w+):\s+(\d+) kB", rollup.read(), re.M))
    return int(sizes["Pss"]) * 1024, int(sizes["Rss"]) * 1024


def pgbench_command(clients, mode, *more):
    threads = min(2, clients)
    return [house.find("pgbench", *house.postgres_bin()), "-n", "-S", "-M", mode, "-c", str(clients), "-j", str(threads), *more]


def load(port, clients, mode, tls, seconds, pid, options=""):
    """pgbench for 1 s of warm-up (logins come before it), then `seconds`; CPU is that of `pid` after the warm-up, or None.

    `options`: settings that its clients log in with, as PGOPTIONS has them."""
    # Logins count against pgbench's own time limit, so that is out of reach; its alarm is what we ring when we have seen enough.
    command = pgbench_command(clients, mode, "-T", "600", "-P", "1", "--progress-timestamp")
    environment = dict(house.client_environment(port, tls), PGOPTIONS=options)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watchdog = threading.Timer(60 + seconds, process.kill)
    watchdog.start()
    reports, noise = [], []
    for line in process.stderr:
        progress = re.match(r"progress: ([\d.]+) s, ([\d.]+) tps", line)
        if not progress:
            noise.append(line)
        elif len(reports) <= seconds:
            reports.append((float(progress[1]), float(progress[2]), cpu(pid) if pid else None))
            if len(reports) > seconds:
                process.send_signal(signal.SIGALRM)
    process.stdout.read()
    process.wait()
    watchdog.cancel()
    if process.returncode or len(reports) <= seconds:
        raise RuntimeError(f"pgbench failed ({process.returncode}): {''.join(noise)[-600:]}")
    transactions = sum(speed * (at - before) for (at, speed, _), (before, _, _) in zip(reports[1:], reports))
    if transactions < 1:
        raise RuntimeError("pgbench got nothing done")
    first, last = reports[0], reports[-1]
    return Run(transactions, transactions / (last[0] - first[0]), spent(first[2], last[2]) if pid else None)


def loads(port, clients, mode, seconds, pid, options):
    """The same with as many pgbenches at a time as there are `options`, the clients divided among them."""
    each = clients // len(options)
    with concurrent.futures.ThreadPoolExecutor(len(options)) as pool:
        runs = list(pool.map(lambda one: load(port, each, mode, False, seconds, pid, one), options))
    cpu = Cpu(*(statistics.mean(run.cpu[part] for run in runs) for part in range(3)))
    return Run(sum(run.transactions for run in runs), sum(run.tps for run in runs), cpu)


def churn(binary, port, tls, connections, pid, threads=8, password=house.PASSWORD):
    """So many clients that log in and leave; CPU until the last of them has gone."""
    before = cpu(pid)
    command = [binary, f"127.0.0.1:{port}", tls, str(connections), str(threads), house.USER, house.DATABASE]
    done = subprocess.run(command, env=house.client_environment(port, password=password), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"churn failed: {done.stderr}")
    time.sleep(0.1)
    said = json.loads(done.stdout)
    return Churn(said["connections"], said["resumed"], spent(before, cpu(pid)))


def fixed(port, transactions, mode="simple"):
    """One client, a fixed number of transactions."""
    command = pgbench_command(1, mode, "-t", str(transactions))
    subprocess.run(command, env=house.client_environment(port), check=True, capture_output=True)


def system_calls(pid, work):
    """Calls by name while `work()` runs."""
    tracer = subprocess.Popen([house.find("strace"), "-c", "-f", "-p", str(pid)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    while "attached" not in tracer.stderr.readline():
        if tracer.poll() is not None:
            raise RuntimeError("strace may not attach to the proxy (needs root, or kernel.yama.ptrace_scope=0)")
    time.sleep(0.2)
    work()
    tracer.send_signal(signal.SIGINT)
    calls = {}
    for line in tracer.communicate()[1].splitlines():
        fields = line.split()
        if len(fields) >= 5 and re.fullmatch(r"[\d.]+", fields[0]) and fields[-1] != "total":
            calls[fields[-1]] = int(fields[3])
    return calls


def calls_per_transaction(pid, port, mode, few=300, many=2300):
    """Logins and ticks cancel out: the difference between a long run and a short one."""
    short = system_calls(pid, lambda: fixed(port, few, mode))
    long = system_calls(pid, lambda: fixed(port, many, mode))
    names = sorted(set(short) | set(long))
    rates = {n: (long.get(n, 0) - short.get(n, 0)) / (many - few) for n in names}
    return {n: round(r, 3) for n, r in sorted(rates.items(), key=lambda i: -i[1]) if r > 0.001}


def instructions(start, path, few=200, many=2200, mode="simple"):
    """Instructions in user space per transaction; `start(prefix)` starts the proxy under the given prefix, returning (process, port, stop)."""
    totals = []
    for count in (few, many):
        # A name of its own: the last one's file may be another account's.
        out = os.path.join(path, f"callgrind.{time.monotonic_ns()}.out")
        prefix = (house.find("valgrind"), "--tool=callgrind", f"--callgrind-out-file={out}", "-q")
        port, stop = start(prefix)
        fixed(port, count, mode)
        stop()
        with open(out, errors="replace") as profile:
            totals.append(int(re.findall(r"^(?:summary|totals): (\d+)", profile.read(), re.M)[-1]))
    return (totals[1] - totals[0]) / (many - few)

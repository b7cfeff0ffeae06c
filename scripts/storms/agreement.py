"""Compares real storms with `weir plan`. A single storm is a single draw: one client that has to come back once more
adds 2 s. So each storm runs several times, with several seeds of the plan for each run, and the medians are
compared."""

import json, statistics, subprocess

from logins import least_time, in_turn
from processes import WEIR, Weir, place, servers, url, users
from storm import seconds, storm
from table import row

# Name, bcrypt's cost, servers, clients, times, and how many logins measure what the servers can do.
STORMS = (
    ("bcrypt 11", 11, 1, 50, 3, 30),
    ("bcrypt 11", 11, 1, 200, 3, 30),
    ("bcrypt 6", 6, 3, 1000, 7, 200),
    ("plain", None, 3, 3000, 7, 400),
)
SEEDS = 5
CAP = 60


def speed(login, user, count, clients, share):
    """Logins per second of the servers with two at a time on each, and the seconds that one login takes alone."""
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, count, login)]
        alone = in_turn(those[0].port, user, 1, 100)
        return clients / least_time(those, user, clients, share), 1 / alone


def for_real(login, user, count, clients):
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, count, login)]
        report = storm([url(Weir(stack, directory, those).port, user)], clients, CAP)
        return seconds(report) or CAP, report["phases"][0]["tries"]


def foretold(count, clients, per_second, alone, seed):
    """The plan's result. All that the plan is given is what the servers can do."""
    plan = [WEIR, "plan", "--json", "--clients", clients, "--servers", count, "--handshakes", f"{per_second:.2f}", "--at-once"]
    plan += ["--handshake-time", f"{1e6 * alone:.0f}us", "--for", f"{CAP}s", "--seed", seed]
    weir = json.loads(subprocess.run(list(map(str, plan)), capture_output=True, check=True).stdout)["cases"][-1]
    return weir["seconds_to_100"] or CAP, weir["tries"]


def spread(values, digits):
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def agreement(_):
    for what, cost, count, clients, times, share in STORMS:
        login, user = users(cost) if cost else "", "a" if cost else None
        name = f"{clients:,} clients at once, {what}, {count} server{'s' if count > 1 else ''}, {times} times"
        speeds, real, plan = [], [], []
        for round_ in range(times):
            # Measured anew for each run: the machine's speed changes.
            per_second, alone = speed(login, user, count, clients, share)
            speeds.append(per_second)
            real.append(for_real(login, user, count, clients))
            plan += [foretold(count, clients, per_second, alone, round_ * SEEDS + seed) for seed in range(SEEDS)]
        row(name, "the servers", f"{spread(speeds, 1)} logins a second")
        (storm_took, storm_tries), (plan_took, plan_tries) = zip(*real), zip(*plan)
        off = statistics.median(plan_took) / statistics.median(storm_took) - 1
        row(name, "storm and plan", f"{spread(storm_took, 2)} and {spread(plan_took, 2)} s, {spread(storm_tries, 0)} and {spread(plan_tries, 0)} tries: {off:+.0%}",
            "medians within 15 %", abs(off) <= 0.15)

"""Clients that connect all at once: directly, through HAProxy, through weir."""

import time

from logins import least_time, in_turn
from processes import HAPROXY, Weir, haproxy, place, servers, url, users
from storm import begin_storm, end_storm, seconds, storm, told
from table import row


def pace(name, weir, capacity):
    """Compares, by weir's record of the storm, the clients let in per second with what the servers can do: in the
    fastest and in the slowest three seconds in a row in which somebody waited."""
    points = weir.storm()["series"]["points"]
    busy = [p["admitted"] for before, p in zip(points, points[1:]) if before["waiting"] and p["waiting"]]
    if len(busy) < 3:
        return
    runs = [sum(busy[n:n + 3]) / 3 for n in range(len(busy) - 2)]
    row(name, "let in per second, any three seconds in a row", f"{min(runs):.1f} to {max(runs):.1f}, of {capacity:.1f}",
        f"≤ {1.3 * capacity:.1f}", max(runs) <= 1.3 * capacity)


def bcrypt11(options):
    name, login = "bcrypt cost 11, 1 server", users(11)
    with place() as (stack, directory):
        one = servers(stack, directory, 1, login)[0].start()
        alone = in_turn(one.port, "a", 6, 40)
        row(name, "fed one after another", f"{alone:.1f} logins a second")
        capacity = 100 / least_time([one], "a", 100, 40)
        row(name, "fed two at a time", f"{capacity:.1f} logins a second")
        if "direct" in options.who:
            report = storm([url(one.port, "a")], 50, 20)
            row(name, "direct, 50 clients", told(report, 20))
    if HAPROXY and "HAProxy" in options.who:
        with place() as (stack, directory):
            one = servers(stack, directory, 1, login)[0].start()
            report = storm([url(haproxy(stack, directory, [one])[1], "a")], 50, 20)
            row(name, "HAProxy, 50 clients", told(report, 20))
    for clients in options.sizes if "weir" in options.who else ():
        with place() as (stack, directory):
            one = servers(stack, directory, 1, login)[0].start()
            weir, least = Weir(stack, directory, [one]), clients / alone
            report = storm([url(weir.port, "a")], clients, least * 3 + 20)
            most = 1.15 * least
            good = bool(seconds(report)) and seconds(report) <= most and report["given_up"] == 0
            row(name, f"weir, {clients} clients", told(report, int(least * 3 + 20)), f"≤ {most:.1f} s, 0 given up", good)
            pace(name, weir, capacity)


def bcrypt6(options):
    name, login, clients = "bcrypt cost 6, 3,000 at once, 3 servers of 4,000", users(6), 3000
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, 3, login)]
        least = least_time(those, "a", clients)
        row(name, "the servers' least possible time", f"{least:.1f} s")
    if "direct" in options.who:
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, 3, login)]
            started = [begin_storm([url(server.port, "a")], clients // 3, 30) for server in those]
            reports = [end_storm(process) for process in started]
            came = sum(report["phases"][0]["came_in"] for report in reports)
            took = max(seconds(report) or 30 for report in reports)
            row(name, "direct", f"{came} in {took:.1f} s, {sum(r['phases'][0]['tries'] for r in reports)} tries")
    if HAPROXY and "HAProxy" in options.who:
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, 3, login)]
            row(name, "HAProxy", told(storm([url(haproxy(stack, directory, those)[1], "a")], clients, 40), 40))
    if "weir" not in options.who:
        return
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, 3, login)]
        weir = Weir(stack, directory, those)
        report = storm([url(weir.port, "a")], clients, 60)
        good = bool(seconds(report)) and seconds(report) <= 1.25 * least and report["phases"][0]["most_tries"] <= 3
        row(name, "weir", told(report, 60), f"≤ {1.25 * least:.1f} s, at most 3 tries", good)
        pace(name, weir, clients / least)


def plain(options):
    name, clients = "plain, 9,000 at once, 3 servers of 4,000", 9000
    best = {"direct": [], "HAProxy": [], "weir": []}
    for _ in range(options.rounds):
        if "direct" in options.who:
            with place() as (stack, directory):
                those = [server.start() for server in servers(stack, directory, 3)]
                started = [begin_storm([url(server.port)], clients // 3, 20) for server in those]
                best["direct"].append(max(seconds(end_storm(process)) or 20 for process in started))
        if HAPROXY and "HAProxy" in options.who:
            with place() as (stack, directory):
                those = [server.start() for server in servers(stack, directory, 3)]
                best["HAProxy"].append(seconds(storm([url(haproxy(stack, directory, those)[1])], clients, 20)) or 20)
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, 3)]
            weir = Weir(stack, directory, those)
            idle = weir.running.cpu()
            # Once all are in, nothing happens for a moment; then the connections of the servers are counted.
            process = begin_storm([url(weir.port)], clients, 20, more=["--drop-after", "3s"])
            counts, deadline = None, time.monotonic() + 15
            while time.monotonic() < deadline:
                if weir.metric("weir_sessions_active") >= clients:
                    counts = [server.connections() for server in those]
                    break
                time.sleep(0.05)
            cpu = weir.running.cpu() - idle
            report = end_storm(process)
            phase = report["phases"][0]
            best["weir"].append(phase["seconds_to_100"] or 20)
            failed, full = phase["tries"] - clients, weir.metric('weir_closed_total{party="upstream",phase="dial"')
            row(name, "weir: failed tries, difference between servers, refused by a server",
                f"{failed}, {max(counts) - min(counts) if counts else None}, {int(full)}",
                "0, ≤ 2, 0", failed == 0 and bool(counts) and max(counts) - min(counts) <= 2)
            row(name, "weir's CPU", f"{cpu:.2f} s")
    for peer in ("direct", "HAProxy"):
        if best[peer]:
            row(name, f"{peer}, best of {options.rounds}", f"{min(best[peer]):.2f} s")
    took, peer = min(best["weir"]), min(best["HAProxy"], default=None)
    target = (f"≤ {peer:.2f} s, the best peer's", took <= peer) if peer else ()
    row(name, f"weir, best of {options.rounds}", f"{took:.2f} s", *target)

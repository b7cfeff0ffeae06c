"""Storms during which a server dies and another joins, or readings stop."""

import time

from processes import Readings, Weir, place, servers, url, users
from storm import begin_storm, end_storm, seconds, told
from table import row


def death():
    name, clients = "a server is killed 2 s into a storm of 3,000 (bcrypt 6), another joins at 4 s", 3000
    with place() as (stack, directory):
        those = servers(stack, directory, 3, users(6))
        those[0].start(), those[1].start()
        weir = Weir(stack, directory, those)
        began = time.monotonic()
        process = begin_storm([url(weir.port, "a")], clients, 60)
        time.sleep(2)
        had = weir.metric(f'weir_sessions_active{{server="{those[0].name}"}}')
        those[0].running.kill()
        time.sleep(2)
        those[2].start()
        # `weir storm` ends when all clients are in at the same time, including those that had lost the first server.
        report = end_storm(process)
        took = time.monotonic() - began
        row(name, "weir", f"all in after {took:.1f} s, {report['cut']} of {had:.0f} on it were told of its end, {report['given_up']} given up, {report['phases'][0]['most_tries']} tries at most",
            "all in, 0 given up, somebody was on it", report["connected"] == clients and report["given_up"] == 0 and report["cut"] > 0.9 * had > 0)


def readings():
    name, clients = "readings stop for 10 s in a storm of 5,000, bcrypt 6", 5000
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, 3, users(6))]
        fronts = [Readings(server.monitor) for server in those]
        weir = Weir(stack, directory, those, [front.port for front in fronts])
        process = begin_storm([url(weir.port, "a")], clients, 60)
        time.sleep(2)
        for front in fronts:
            front.silent = True
        time.sleep(10)
        for front in fronts:
            front.silent = False
        report = end_storm(process)
        row(name, "weir", told(report, 60), "all in, 0 given up", bool(seconds(report)) and report["given_up"] == 0)

"""What a storm costs clients that are not part of it: those of another account, and established sessions."""

import time

from logins import Aside, connects, during, messages, percentile
from processes import HAPROXY, Callout, Weir, haproxy, place, servers, url, users
from storm import begin_storm, end_storm, seconds, told
from table import row


def beside(name, what, work, user, per_second, callout_takes=None):
    """Measures quiet traffic beside a storm of another account, and the same traffic on a server without a storm, which
    shows the machine's part of the effect. Logins are bcrypt of cost 6, or those of a callout that takes
    `callout_takes` milliseconds."""
    for who in ("direct", "HAProxy", "weir"):
        if who == "HAProxy" and not HAPROXY:
            continue
        with place() as (stack, directory):
            service = Callout(stack, callout_takes) if callout_takes else None
            login = service.users if service else users(6, ("a", "b"))
            *those, bystander = [server.start() for server in servers(stack, directory, 4, login)]
            for server in (*those, bystander) if service else ():
                service.serve(server)
            front = Weir(stack, directory, those) if who == "weir" else None
            ports = {"direct": [s.port for s in those], "HAProxy": None, "weir": front and [front.port]}[who] or [haproxy(stack, directory, those)[1]]
            aside, alone = Aside(work, ports[0], user, per_second), Aside(work, bystander.port, user, per_second)
            time.sleep(8)
            began, share = time.monotonic(), 5000 // len(ports)
            # Without weir the storm takes too long; 12 s show the effect.
            cap = 60 if front else 12
            reports = [end_storm(one) for one in [begin_storm([url(port, "a")], share, cap) for port in ports]]
            ended = began + max(seconds(report) or cap for report in reports)
            for found, of in ((aside.end(), ""), (alone.end(), ", on a server without a storm")):
                # For each measured step, if there are several.
                steps = [[(at, took) for at, took in zip(column[0], one)] for column in [list(zip(*found))] for one in column[1:]]
                calm, stormy = ([[percentile(during(step, *span), at) * 1e3 for at in (0.5, 0.99)] for step in steps]
                                for span in ((began - 7, began), (began, ended)))
                text = "; ".join(
                    f"{step}calm {a[0]:.1f} and {a[1]:.1f} ms, in the storm {b[0]:.1f} and {b[1]:.1f} ms" for step, a, b in zip(("", "to INFO "), calm, stormy)
                )
                # In the first half second all clients connect, which alone keeps the cores busy.
                settled = [percentile(during(steps[0], began + 0.5, ended), at) * 1e3 for at in (0.5, 0.99)]
                text += f"; after its first half second {settled[0]:.1f} and {settled[1]:.1f} ms"
                good = stormy[0][1] <= 2 * calm[0][1]
                target = (f"p99 ≤ {2 * calm[0][1]:.1f} ms", good) if front and not of else ()
                row(name, f"{who}: {what}{of}, median and p99", text, *target)
            row(name, f"{who}: the storm itself", "; ".join(told(report, cap) for report in reports))
            if front:
                row(name, "weir: handshakes with servers, mean", f"{1e3 * front.metric('weir_handshake_seconds_sum') / front.metric('weir_handshake_seconds_count'):.1f} ms")


def accounts():
    beside("two accounts, 5,000 of one storm, bcrypt 6", "connects of the other, 20 a second", connects, "b", 20)


def latency():
    beside("established sessions in a storm of 5,000, bcrypt 6", "a message to itself", messages, "b", 100)


def callout():
    beside("two accounts, 5,000 of one storm, logins of 4 ms elsewhere", "connects of the other, 20 a second", connects, "b", 20, 4)
    beside("established sessions in a storm of 5,000, logins of 4 ms elsewhere", "a message to itself", messages, "b", 100, 4)

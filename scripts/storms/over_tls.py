"""Clients that connect over TLS all at once: to the server itself, through weir, through HAProxy."""

import contextlib, json, subprocess, time

from logins import Aside, during, messages, percentile
from processes import HAPROXY, Weir, haproxy, place, servers, url
from storm import back, seconds, storm, told
from table import row


def certificate(directory, kind):
    """Creates an authority and its certificate for 127.0.0.1; returns the files of the authority, the certificate and
    the key."""
    key = {"ecdsa": ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"], "rsa": ["-newkey", "rsa:2048"]}[kind]
    ca, cert, name = f"{directory}/ca.pem", f"{directory}/own.pem", f"{directory}/own.key"

    def openssl(*args):
        subprocess.run(["openssl", "req", "-x509", "-nodes", "-days", "2", *key, *args], check=True, capture_output=True)

    openssl("-subj", "/CN=storms", "-keyout", f"{directory}/ca.key", "-out", ca)
    more = ["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    openssl("-subj", "/CN=own", "-CA", ca, "-CAkey", f"{directory}/ca.key", *more, "-keyout", name, "-out", cert)
    with open(cert) as one, open(name) as other, open(f"{directory}/both.pem", "w") as both:
        both.write(one.read() + other.read())
    return ca, cert, name


@contextlib.contextmanager
def behind_tls(kind, who, first):
    """Starts one server, and `who` does TLS for it. Yields the authority's file, the port, a port for plain clients,
    the weir if it is one, and the processes whose CPU counts."""
    with place() as (stack, directory):
        ca, cert, key = certificate(directory, kind)
        own = f'tls {{ cert_file: "{cert}", key_file: "{key}", timeout: 2, handshake_first: {str(first).lower()} }}'
        own += "\nallow_non_tls: true" if not first else ""
        one = servers(stack, directory, 1, own if who == "direct" else "")[0].start()
        if who == "direct":
            yield ca, one.port, one.port, None, [one.running]
        elif who == "weir":
            table = f'cert_file = "{cert}"\nkey_file = "{key}"\nhandshake_first = {str(first).lower()}\n'
            weir = Weir(stack, directory, [one], tls=table)
            yield ca, weir.port, weir.plain_port, weir, [weir.running, one.running]
        else:
            running, port = haproxy(stack, directory, [one], tls=f" ssl crt {directory}/both.pem")
            yield ca, port, None, None, [running, one.running]


def tls(kind):
    name, clients = f"2,000 at once over TLS, {kind}, 1 server", 2000
    all_in = {}
    for first in (False, True):
        for who in ("direct", "weir", "HAProxy"):
            if who == "HAProxy" and not (first and HAPROXY):
                continue
            with behind_tls(kind, who, first) as (ca, port, _, weir, those):
                before = [one.cpu() for one in those]
                flags = ["--tls-first" if first else "--tls", "--ca", ca, "--drop-after", "1s", "--threads", "2"]
                report = storm([url(port)], clients, 40, more=flags)
                took = [one.cpu() - was for one, was in zip(those, before)]
                done = report["tls"]["full"] + report["tls"]["resumed"]
                label = f"{who}, {'TLS first' if first else 'INFO first'}"
                for phase in report["phases"]:
                    row(name, f"{label}: {phase['phase']}, 50 / 90 / 99 / 100 % in",
                        f"{back(phase)}; {phase['tries']} tries, {phase['most_tries']} at most" + "".join(f"; {json.dumps(phase[what])}" for what in ("refused", "errors") if phase[what]))
                    all_in[first, who, phase["phase"]] = phase["seconds_to_100"] or 40
                spent = " + ".join(f"{1e3 * cpu / done:.2f}" for cpu in took)
                busy = int(weir.metric('weir_refused_total{reason="tls_busy"')) if weir else 0
                row(name, f"{label}: handshakes, CPU of each, given up", f"{done}, {spent} = {1e3 * sum(took) / done:.2f} ms "
                    f"(the clients' side {1e3 * report['tls']['cpu_seconds'] / done:.2f} ms, all of the clients {1e3 * report['cpu_seconds'] / done:.2f} ms); "
                    f"never begun {busy}; {report['given_up']} given up")
        for phase in ("connect", "reconnect"):
            mine, direct = all_in[first, "weir", phase], all_in[first, "direct", phase]
            row(name, f"weir against direct, {'TLS first' if first else 'INFO first'}, {phase}", f"{mine:.2f} s", f"≤ {direct:.2f} s", mine <= direct)


def tls_latency():
    """Measures two established sessions, one plain and one with TLS, while other clients connect over TLS."""
    name, clients, found = "established sessions in a storm of 2,000 over TLS", 2000, {}
    for who in ("direct", "weir"):
        with behind_tls("ecdsa", who, False) as (ca, port, plain_port, *_):
            asides = [("plain", Aside(messages, plain_port, None, 100)), ("TLS", Aside(messages, port, None, 100, ca))]
            time.sleep(5)
            began = time.monotonic()
            report = storm([url(port)], clients, 40, more=["--tls", "--ca", ca, "--threads", "2"])
            ended = began + (seconds(report) or 40)
            for what, aside in asides:
                all_of_it = aside.end()
                calm, stormy = during(all_of_it, began - 4, began), during(all_of_it, began, ended)
                found[who, what] = percentile(stormy, 0.99)
                shown = [f"{percentile(v, 0.5) * 1e3:.2f} / {percentile(v, 0.99) * 1e3:.2f} / {max(v) * 1e3:.2f} ms" for v in (calm, stormy)]
                target, met = "", None
                if who == "weir":
                    target, met = f"p99 ≤ {found['direct', what] * 1e3:.2f} ms, direct", found[who, what] <= found["direct", what]
                row(name, f"{who}, {what} session, median / p99 / most", f"calm {shown[0]}, in the storm {shown[1]}", target, met)
            row(name, f"{who}, the storm itself", told(report, 40))

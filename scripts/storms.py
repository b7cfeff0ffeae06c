"""The storms of scripts/storm-bench: every process on loopback, every figure from one run."""

import argparse, contextlib, crypt, json, multiprocessing, os, socket, ssl, subprocess, sys, tempfile, threading, time, urllib.request

WEIR, NATS, HAPROXY = os.environ["WEIR_BIN"], os.environ["NATS_SERVER"], os.environ.get("BENCH_HAPROXY")
LIBRARIES = os.environ.get("BENCH_LIBRARIES")
SALT = "abcdefghijklmnopqrstuu"
rows = []
# What --who and --sizes leave of a case.
who, sizes = ("direct", "HAProxy", "weir"), (50, 200, 500)


def row(case, what, value, target="", met=None):
    rows.append((case, what, value, target, met))
    verdict = "" if met is None else ("met" if met else "NOT MET")
    print(f"  {case}: {what}: {value}  {target}  {verdict}", file=sys.stderr, flush=True)


def bcrypt(cost):
    return crypt.crypt("pass", f"$2a${cost:02}${SALT}")


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


class Running:
    """A process, ended with the block it was started in."""

    def __init__(self, stack, command, log, env=None):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(log, "ab"), stderr=subprocess.STDOUT, env=env)
        stack.callback(self.kill)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cpu(self):
        """Seconds so far."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_for(port, log):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    with open(log) as file:
        raise SystemExit(f"nobody listens on {port}: {file.read()}")


class Server:
    def __init__(self, stack, directory, name, users, most):
        self.stack, self.directory, self.name = stack, directory, name
        self.port, self.monitor = free_port(), free_port()
        self.config = f"{directory}/{name}.conf"
        with open(self.config, "w") as file:
            file.write(f"server_name: {name}\nlisten: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.monitor}\nmax_connections: {most}\n{users}\n")

    def start(self):
        self.running = Running(self.stack, [NATS, "-c", self.config], f"{self.directory}/{self.name}.log")
        wait_for(self.port, f"{self.directory}/{self.name}.log")
        return self

    def connections(self):
        return json.loads(get(self.monitor, "/varz"))["connections"]


def servers(stack, directory, count, users="", most=4000):
    return [Server(stack, directory, f"n{n + 1}", users, most) for n in range(count)]


class Weir:
    def __init__(self, stack, directory, those, monitors=None, more="", tls=""):
        """`tls` is the listener's table; there is then a plain listener too."""
        self.port, self.monitor, self.plain_port = free_port(), free_port(), free_port()
        monitors = monitors or [server.monitor for server in those]
        text = f'workers = 2\n[log]\nlevel = "info"\n[[listeners]]\nlisten = "127.0.0.1:{self.port}"\nmax_clients = 9200\n'
        if tls:
            text += f'[listeners.tls]\n{tls}[[listeners]]\nlisten = "127.0.0.1:{self.plain_port}"\nmax_clients = 9200\n'
        text += f'[monitor]\nlisten = "127.0.0.1:{self.monitor}"\n'
        # The servers are a moment old when the storm comes; that they fill steadily is another matter.
        text += '[cluster]\nslow_start = "0s"\n' + more
        for server, monitor in zip(those, monitors):
            text += f'[[cluster.servers]]\nname = "{server.name}"\naddress = "127.0.0.1:{server.port}"\nmonitor = "http://127.0.0.1:{monitor}"\n'
        config = f"{directory}/weir.toml"
        with open(config, "w") as file:
            file.write(text)
        self.log = f"{directory}/weir.log"
        self.running = Running(stack, [WEIR, "run", "-c", config], self.log)
        wait_for(self.port, self.log)

    def metric(self, prefix):
        return sum(float(line.split()[-1]) for line in get(self.monitor, "/metrics").splitlines() if line.startswith(prefix))

    def storm(self):
        """What its flight recorder has seen so far."""
        told = json.loads(get(self.monitor, "/storms"))
        return told["running"] or (told["storms"] or [None])[0]


def haproxy(stack, directory, those, most=4000, tls=""):
    """Tuned: two threads, spliced, the fewest connections first, each server's limit as its maxconn. Returns it and its port."""
    port, config = free_port(), f"{directory}/haproxy.cfg"
    lines = "\n".join(f"    server {s.name} 127.0.0.1:{s.port} maxconn {most}" for s in those)
    with open(config, "w") as file:
        file.write(
            "global\n    nbthread 2\n    tune.bufsize 16384\n    maxconn 9200\n    maxpipes 400\n    log /dev/null local0 emerg\n"
            "defaults\n    mode tcp\n    option splice-auto\n    timeout connect 5s\n    timeout queue 30s\n    timeout client 1h\n    timeout server 1h\n"
            f"listen nats\n    bind 127.0.0.1:{port}{tls}\n    balance leastconn\n    maxconn 9200\n    backlog 16384\n{lines}\n"
        )
    env = dict(os.environ, LD_LIBRARY_PATH=LIBRARIES) if LIBRARIES else None
    running = Running(stack, [HAPROXY, "-db", "-f", config], f"{directory}/haproxy.log", env)
    wait_for(port, f"{directory}/haproxy.log")
    return running, port


def begin_storm(urls, clients, seconds, like="go", more=()):
    command = [WEIR, "storm", "--json", "--clients", str(clients), "--like", like, "--for", f"{seconds:.0f}s", *more]
    for url in urls:
        command += ["--url", url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def end_storm(process):
    return json.loads(process.communicate()[0])


def storm(*args, **kwargs):
    return end_storm(begin_storm(*args, **kwargs))


def seconds(report):
    return report["phases"][0]["seconds_to_100"]


def told(report, cap):
    phase, all_in = report["phases"][0], seconds(report)
    time_ = f"{all_in:.2f} s" if all_in else f"{phase['came_in']} of {report['clients']} in {cap} s"
    return f"{time_}, {phase['tries']} tries, {phase['most_tries']} at most, {report['given_up']} given up"


def pace(name, weir, capacity):
    """By the flight recorder's seconds: clients let in per second, in the fastest three seconds in a row and in the slowest three
    while somebody waited, against what the servers can do."""
    points = weir.storm()["series"]["points"]
    busy = [p["admitted"] for before, p in zip(points, points[1:]) if before["waiting"] and p["waiting"]]
    if len(busy) < 3:
        return
    runs = [sum(busy[n:n + 3]) / 3 for n in range(len(busy) - 2)]
    row(name, "let in per second, any three seconds in a row", f"{min(runs):.1f} to {max(runs):.1f}, of {capacity:.1f}",
        f"≤ {1.3 * capacity:.1f}", max(runs) <= 1.3 * capacity)


def in_turn(port, user, limit_seconds, most):
    """Logs in again and again, one after another; returns how many a second."""
    began, done = time.monotonic(), 0
    while done < most and time.monotonic() - began < limit_seconds:
        connect(port, user).close()
        done += 1
    return done / (time.monotonic() - began)


def connect(port, user=None, patience=10, ca=None, greeted=lambda: None):
    stream = socket.create_connection(("127.0.0.1", port), timeout=patience)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    read_until(stream, b"\n")
    greeted()
    if ca:
        stream = ssl.create_default_context(cafile=ca).wrap_socket(stream, server_hostname="127.0.0.1")
    login = f'"user":"{user}","pass":"pass",' if user else ""
    stream.sendall(f'CONNECT {{{login}"verbose":false,"pedantic":false,"lang":"go","version":"1.53.1","protocol":1,"name":"p{os.getpid()}-{time.monotonic_ns()}"}}\r\nPING\r\n'.encode())
    read_until(stream, b"PONG\r\n")
    return stream


def read_until(stream, end):
    got = b""
    while end not in got:
        more = stream.recv(65536)
        if not more or b"-ERR" in got:
            raise OSError(f"refused: {got!r}")
        got += more
    return got


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


class Aside(multiprocessing.Process):
    """Measures something every so often in a process of its own, until it is told to stop; gives (when, how long)."""

    def __init__(self, work, *args):
        super().__init__(daemon=True)
        self.work, self.args = work, args
        self.stop_flag, self.queue = multiprocessing.Event(), multiprocessing.Queue()
        self.start()

    def run(self):
        self.queue.put(self.work(self.stop_flag, *self.args))

    def end(self):
        self.stop_flag.set()
        found = self.queue.get(timeout=60)
        self.join()
        return found


def connects(stop, port, user, per_second):
    """Connects so many times a second, and closes a second later, as a client that comes and goes."""
    found, lock = [], threading.Lock()

    def one(due):
        # From when it was due: waiting for a thread is nobody's merit.
        greeted = []
        with contextlib.suppress(OSError):
            stream = connect(port, user, 5, greeted=lambda: greeted.append(time.monotonic() - due))
            with lock:
                found.append((due, time.monotonic() - due, *greeted))
            time.sleep(6)
            stream.close()
            return
        with lock:
            found.append((due, 5.0, 5.0))

    due = time.monotonic()
    while not stop.is_set():
        threading.Thread(target=one, args=(due,), daemon=True).start()
        due += 1 / per_second
        time.sleep(max(0, due - time.monotonic()))
    return found


def messages(stop, port, user, per_second, ca=None):
    """Publishes to itself so many times a second, over one connection."""
    stream, found = connect(port, user, ca=ca), []
    with contextlib.suppress(OSError):
        # What is measured is the path, not how long this process waits for a core; where that is not allowed, both.
        os.nice(-10)
    subject = f"me-{os.getpid()}".encode()
    stream.sendall(b"SUB " + subject + b" 1\r\nPING\r\n")
    read_until(stream, b"PONG\r\n")
    due = time.monotonic()
    while not stop.is_set():
        began = time.monotonic()
        stream.sendall(b"PUB " + subject + b" 5\r\nhello\r\n")
        read_until(stream, b"hello\r\n")
        found.append((began, time.monotonic() - began))
        due += 1 / per_second
        time.sleep(max(0, due - time.monotonic()))
    return found


class Readings:
    """Stands before a server's monitoring port, and can be told to be silent."""

    def __init__(self, to):
        self.to, self.silent, self.listener = to, False, socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            down, _ = self.listener.accept()
            up = socket.create_connection(("127.0.0.1", self.to))
            for a, b in ((down, up), (up, down)):
                threading.Thread(target=self.pump, args=(a, b), daemon=True).start()

    def pump(self, a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                while self.silent:
                    time.sleep(0.05)
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def place():
    with tempfile.TemporaryDirectory(prefix="storm-bench-") as directory, contextlib.ExitStack() as stack:
        yield stack, directory


def users(cost, accounts=("a",)):
    inside = "\n".join(f'  {name.upper()}: {{ users: [ {{ user: {name}, password: "{bcrypt(cost)}" }} ] }}' for name in accounts)
    return f"accounts {{\n{inside}\n}}"


def url(port, user=None):
    return f"nats://{user}:pass@127.0.0.1:{port}" if user else f"nats://127.0.0.1:{port}"


def bcrypt11():
    name, login = "bcrypt cost 11, 1 server", users(11)
    with place() as (stack, directory):
        one = servers(stack, directory, 1, login)[0].start()
        alone = in_turn(one.port, "a", 6, 40)
        row(name, "fed one after another", f"{alone:.1f} logins a second")
        capacity = 100 / floor_of([one], "a", 100, 40)
        row(name, "fed two at a time", f"{capacity:.1f} logins a second")
        if "direct" in who:
            report = storm([url(one.port, "a")], 50, 20)
            row(name, "direct, 50 clients", told(report, 20))
    if HAPROXY and "HAProxy" in who:
        with place() as (stack, directory):
            one = servers(stack, directory, 1, login)[0].start()
            report = storm([url(haproxy(stack, directory, [one])[1], "a")], 50, 20)
            row(name, "HAProxy, 50 clients", told(report, 20))
    for clients in sizes if "weir" in who else ():
        with place() as (stack, directory):
            one = servers(stack, directory, 1, login)[0].start()
            weir, floor = Weir(stack, directory, [one]), clients / alone
            report = storm([url(weir.port, "a")], clients, floor * 3 + 20)
            most = 1.15 * floor
            good = bool(seconds(report)) and seconds(report) <= most and report["given_up"] == 0
            row(name, f"weir, {clients} clients", told(report, int(floor * 3 + 20)), f"≤ {most:.1f} s, 0 given up", good)
            pace(name, weir, capacity)


def floor_of(those, user, clients, share=400):
    """Seconds in which these servers log so many clients in when two at a time come to each, and nobody waits."""
    done = []
    with multiprocessing.Pool(2 * len(those)) as pool:
        began = time.monotonic()
        jobs = [pool.apply_async(in_turn, (server.port, user, 60, share // 2)) for server in those for _ in range(2)]
        done = [job.get() for job in jobs]
        took = time.monotonic() - began
    return took * clients / (share * len(done) / 2)


def bcrypt6():
    name, login, clients = "bcrypt cost 6, 3,000 at once, 3 servers of 4,000", users(6), 3000
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, 3, login)]
        floor = floor_of(those, "a", clients)
        row(name, "the servers' floor", f"{floor:.1f} s")
    if "direct" in who:
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, 3, login)]
            started = [begin_storm([url(server.port, "a")], clients // 3, 30) for server in those]
            reports = [end_storm(process) for process in started]
            came = sum(report["phases"][0]["came_in"] for report in reports)
            took = max(seconds(report) or 30 for report in reports)
            row(name, "direct", f"{came} in {took:.1f} s, {sum(r['phases'][0]['tries'] for r in reports)} tries")
    if HAPROXY and "HAProxy" in who:
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, 3, login)]
            row(name, "HAProxy", told(storm([url(haproxy(stack, directory, those)[1], "a")], clients, 40), 40))
    if "weir" not in who:
        return
    with place() as (stack, directory):
        those = [server.start() for server in servers(stack, directory, 3, login)]
        weir = Weir(stack, directory, those)
        report = storm([url(weir.port, "a")], clients, 60)
        good = bool(seconds(report)) and seconds(report) <= 1.25 * floor and report["phases"][0]["most_tries"] <= 3
        row(name, "weir", told(report, 60), f"≤ {1.25 * floor:.1f} s, at most 3 tries", good)
        pace(name, weir, clients / floor)


def plain(rounds):
    name, clients = "plain, 9,000 at once, 3 servers of 4,000", 9000
    best = {"direct": [], "HAProxy": [], "weir": []}
    for _ in range(rounds):
        if "direct" in who:
            with place() as (stack, directory):
                those = [server.start() for server in servers(stack, directory, 3)]
                started = [begin_storm([url(server.port)], clients // 3, 20) for server in those]
                best["direct"].append(max(seconds(end_storm(process)) or 20 for process in started))
        if HAPROXY and "HAProxy" in who:
            with place() as (stack, directory):
                those = [server.start() for server in servers(stack, directory, 3)]
                best["HAProxy"].append(seconds(storm([url(haproxy(stack, directory, those)[1])], clients, 20)) or 20)
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, 3)]
            weir = Weir(stack, directory, those)
            idle = weir.running.cpu()
            # All are in, then for a moment nothing happens: the servers are counted.
            process = begin_storm([url(weir.port)], clients, 20, more=["--drop-after", "3s"])
            counts, deadline = None, time.monotonic() + 15
            while time.monotonic() < deadline:
                if weir.metric("weir_sessions_active") >= clients:
                    counts = [server.connections() for server in those]
                    break
                time.sleep(0.05)
            cpu = weir.running.cpu() - idle
            process.kill() if counts is None else None
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
            row(name, f"{peer}, best of {rounds}", f"{min(best[peer]):.2f} s")
    peer = min(best["HAProxy"] or [20])
    row(name, f"weir, best of {rounds}", f"{min(best['weir']):.2f} s", f"≤ {peer:.2f} s, the best peer's", min(best["weir"]) <= peer)


def during(found, began, ended):
    return [took for at, took, *_ in found if began <= at < ended]


def beside(name, what, work, user, per_second):
    """Something quiet beside a storm of another account; and the same on a server that has no part in it: the rest is the machine's."""
    for who in ("direct", "HAProxy", "weir"):
        if who == "HAProxy" and not HAPROXY:
            continue
        with place() as (stack, directory):
            *those, bystander = [server.start() for server in servers(stack, directory, 4, users(6, ("a", "b")))]
            front = Weir(stack, directory, those) if who == "weir" else None
            ports = {"direct": [s.port for s in those], "HAProxy": None, "weir": front and [front.port]}[who] or [haproxy(stack, directory, those)[1]]
            aside, alone = Aside(work, ports[0], user, per_second), Aside(work, bystander.port, user, per_second)
            time.sleep(8)
            began, share = time.monotonic(), 5000 // len(ports)
            # Without weir it takes too long: what is to be seen is seen by then.
            cap = 60 if front else 12
            reports = [end_storm(one) for one in [begin_storm([url(port, "a")], share, cap) for port in ports]]
            ended = began + max(seconds(report) or cap for report in reports)
            for found, of in ((aside.end(), ""), (alone.end(), ", on a server without a storm")):
                # Of each step of it, as far as there are several.
                steps = [[(at, took) for at, took in zip(column[0], one)] for column in [list(zip(*found))] for one in column[1:]]
                calm, stormy = ([[percentile(during(step, *span), at) * 1e3 for at in (0.5, 0.99)] for step in steps]
                                for span in ((began - 7, began), (began, ended)))
                text = "; ".join(
                    f"{step}calm {a[0]:.1f} and {a[1]:.1f} ms, in the storm {b[0]:.1f} and {b[1]:.1f} ms" for step, a, b in zip(("", "to INFO "), calm, stormy)
                )
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


def death():
    name, clients = "a server is killed 2 s into a storm of 3,000 (bcrypt 6), another joins at 4 s", 3000
    with place() as (stack, directory):
        those = servers(stack, directory, 3, users(6))
        those[0].start(), those[1].start()
        weir = Weir(stack, directory, those)
        began = time.monotonic()
        process = begin_storm([url(weir.port, "a")], clients, 60)
        time.sleep(2)
        those[0].running.kill()
        time.sleep(2)
        those[2].start()
        # The storm's tool ends when all are in at once, those included who had lost the first server.
        report = end_storm(process)
        took = time.monotonic() - began
        row(name, "weir", f"all in after {took:.1f} s, {report['cut']} had lost the server, {report['given_up']} given up, {report['phases'][0]['most_tries']} tries at most",
            "all in, 0 given up", report["connected"] == clients and report["given_up"] == 0)


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


def agreement():
    """The same clients in `weir plan`, told what the servers do when two at a time come to each, and on these."""
    for what, cost, count, clients in (("bcrypt 11", 11, 1, 50), ("bcrypt 11", 11, 1, 200), ("bcrypt 6", 6, 3, 1000), ("plain", None, 3, 3000)):
        login, user = users(cost) if cost else "", "a" if cost else None
        name = f"{clients:,} clients at once, {what}, {count} server{'s' if count > 1 else ''}"
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, count, login)]
            done = in_turn(those[0].port, user, 3, 200)
            per_second = clients / floor_of(those, user, clients, 30 if cost == 11 else 400)
        with place() as (stack, directory):
            those = [server.start() for server in servers(stack, directory, count, login)]
            real = storm([url(Weir(stack, directory, those).port, user)], clients, 60)
        plan = [WEIR, "plan", "--json", "--clients", clients, "--servers", count, "--handshakes", f"{per_second:.2f}", "--at-once", "--rate", "none"]
        plan += ["--handshake-time", f"{1e6 / done:.0f}us", "--for", "60s"]
        foretold = json.loads(subprocess.run(list(map(str, plan)), capture_output=True, check=True).stdout)["cases"][-1]
        took, tries = (seconds(real) or 60, foretold["seconds_to_100"] or 60), (real["phases"][0]["tries"], foretold["tries"])
        row(name, "the servers", f"{per_second:.1f} logins a second, one alone {1e3 / done:.1f} ms")
        row(name, "storm and plan", f"{took[0]:.2f} and {took[1]:.2f} s, {tries[0]} and {tries[1]} tries", "within 15 %", abs(took[1] / took[0] - 1) <= 0.15)


def certificate(directory, kind):
    """An authority, and a certificate of its for 127.0.0.1; returns the authority's file, the certificate's and the key's."""
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
    """One server, and who does TLS for it: gives the authority's file, the port, a port for plain clients, the weir if it is one, and
    the processes whose CPU counts."""
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


def back(phase):
    times = [phase[f"seconds_to_{share}"] for share in (50, 90, 99, 100)]
    return " / ".join(f"{time_:.2f}" if time_ else "not" for time_ in times) + " s"


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
    """Established sessions, one plain and one with TLS, while others come over TLS."""
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


CASES = {"bcrypt11": bcrypt11, "bcrypt6": bcrypt6, "plain": plain, "accounts": accounts, "latency": latency, "death": death, "readings": readings,
         "agreement": agreement, "tls": lambda: tls("ecdsa"), "tlsrsa": lambda: tls("rsa"), "tlslatency": tls_latency}


def main():
    global who, sizes
    parser = argparse.ArgumentParser(prog="scripts/storm-bench")
    parser.add_argument("--only", default=",".join(CASES), help="some of " + ", ".join(CASES))
    parser.add_argument("--rounds", type=int, default=3, help="of the plain storm, which is over in a second")
    parser.add_argument("--who", default=",".join(who), help="in bcrypt11, bcrypt6 and plain; some of " + ", ".join(who))
    parser.add_argument("--sizes", default=",".join(map(str, sizes)), help="of bcrypt11's storms")
    args = parser.parse_args()
    who, sizes = args.who.split(","), [int(size) for size in args.sizes.split(",")]
    for case in args.only.split(","):
        print(f"storm-bench: {case}", file=sys.stderr, flush=True)
        CASES[case](args.rounds) if case == "plain" else CASES[case]()
    print("| case | what | measured | target | met |\n|---|---|---|---|---|")
    for case, what, value, target, met in rows:
        print(f"| {case} | {what} | {value} | {target} | {'' if met is None else 'yes' if met else '**no**'} |")
    return 1 if any(met is False for *_, met in rows) else 0


if __name__ == "__main__":
    sys.exit(main())

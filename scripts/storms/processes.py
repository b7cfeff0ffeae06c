"""The processes of a storm: nats-servers, weir and HAProxy, all on loopback. Each ends with the block that started
it."""

import contextlib, crypt, json, os, socket, subprocess, tempfile, threading, time, urllib.request

from ports import free_port

WEIR, NATS, HAPROXY = os.environ["WEIR_BIN"], os.environ["NATS_SERVER"], os.environ.get("BENCH_HAPROXY")
LIBRARIES = os.environ.get("BENCH_LIBRARIES")
SALT = "abcdefghijklmnopqrstuu"


@contextlib.contextmanager
def place():
    with tempfile.TemporaryDirectory(prefix="storm-bench-") as directory, contextlib.ExitStack() as stack:
        yield stack, directory


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read().decode()


class Running:
    """A process that ends with the block that started it."""

    def __init__(self, stack, command, log, env=None):
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=open(log, "ab"), stderr=subprocess.STDOUT, env=env)
        stack.callback(self.kill)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def cpu(self):
        """CPU seconds so far."""
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


def bcrypt(cost):
    return crypt.crypt("pass", f"$2a${cost:02}${SALT}")


def users(cost, accounts=("a",)):
    inside = "\n".join(f'  {name.upper()}: {{ users: [ {{ user: {name}, password: "{bcrypt(cost)}" }} ] }}' for name in accounts)
    return f"accounts {{\n{inside}\n}}"


class Callout:
    """An auth callout that takes `milliseconds` for each login, one at a time for each server. Its logins keep no core
    busy."""

    def __init__(self, stack, milliseconds):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([os.environ["BENCH_CALLOUT"], str(int(1000 * milliseconds))], **pipes)
        stack.callback(self.kill)
        self.users = "".join(iter(self.process.stdout.readline, "\n"))

    def serve(self, server):
        print(f"127.0.0.1:{server.port}", file=self.process.stdin, flush=True)
        if self.process.stdout.readline() != "ready\n":
            raise SystemExit("the auth callout has ended")

    def kill(self):
        self.process.kill()
        self.process.wait()


def url(port, user=None):
    return f"nats://{user}:pass@127.0.0.1:{port}" if user else f"nats://127.0.0.1:{port}"


def until(what, is_so, patience=20):
    """Waits until `is_so()`; returns the seconds that took."""
    began = time.monotonic()
    while not is_so():
        if time.monotonic() - began > patience:
            raise SystemExit(f"waited in vain until {what}")
        time.sleep(0.02)
    return time.monotonic() - began


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
        """`tls` is the listener's TLS table; with one there is a plain listener too."""
        self.port, self.monitor, self.plain_port = free_port(), free_port(), free_port()
        monitors = monitors or [server.monitor for server in those]
        text = f'workers = 2\n[log]\nlevel = "info"\n[[listeners]]\nlisten = "127.0.0.1:{self.port}"\nmax_clients = 9200\n'
        if tls:
            text += f'[listeners.tls]\n{tls}[[listeners]]\nlisten = "127.0.0.1:{self.plain_port}"\nmax_clients = 9200\n'
        text += f'[monitor]\nlisten = "127.0.0.1:{self.monitor}"\n'
        # No slow start: the servers have just started when the storm comes, and slow start is not what is measured.
        text += '[cluster]\nslow_start = "0s"\n' + more
        for server, monitor in zip(those, monitors):
            text += f'[[cluster.servers]]\nname = "{server.name}"\naddress = "127.0.0.1:{server.port}"\nmonitor = "http://127.0.0.1:{monitor}"\n'
        config = f"{directory}/weir.toml"
        with open(config, "w") as file:
            file.write(text)
        self.log = f"{directory}/weir.log"
        self.running = Running(stack, [WEIR, "run", "-c", config], self.log)
        wait_for(self.port, self.log)
        # weir reads the servers before it serves, but its port is open by then.
        until("weir serves", lambda: "listening" in open(self.log).read())

    def metric(self, prefix):
        return sum(float(line.split()[-1]) for line in get(self.monitor, "/metrics").splitlines() if line.startswith(prefix))

    def storm(self):
        """Its record of the running or else the last storm."""
        told = json.loads(get(self.monitor, "/storms"))
        return told["running"] or (told["storms"] or [None])[0]


def haproxy(stack, directory, those, most=4000, tls=""):
    """Starts a tuned HAProxy: two threads, splicing, leastconn, each server's limit as its maxconn. Returns it and its
    port."""
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


class Readings:
    """A relay in front of a server's monitoring port that can be made silent."""

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

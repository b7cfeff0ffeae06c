"""A weir under an operator's hands, and clients that come back and count what they get."""

import asyncio, collections, contextlib, json, os, random, re, subprocess, time

import processes as p

PATIENCE = 120
CONNECT = b'CONNECT {"user":"%b","pass":"pass","verbose":false,"lang":"go","version":"1.53.1","protocol":1}\r\n'


class Weir:
    def __init__(self, stack, directory, those, more, level="info", log=None):
        self.port, self.monitor, self.socket = p.free_port(), p.free_port(), f"{directory}/weir.sock"
        text = (
            f'[log]\nlevel = "{level}"\n[[listeners]]\nlisten = "127.0.0.1:{self.port}"\n[monitor]\nlisten = "127.0.0.1:{self.monitor}"\n'
            f'[admin]\nsocket = "{self.socket}"\n[cluster]\nslow_start = "0s"\n'
        )
        for server in those:
            text += f'[[cluster.servers]]\nname = "{server.name}"\naddress = "127.0.0.1:{server.port}"\nmonitor = "http://127.0.0.1:{server.monitor}"\n'
        self.config = f"{directory}/weir.toml"
        with open(self.config, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as file:
            file.write(text + more)
        self.log, self.stack = log or f"{directory}/weir.log", stack
        self.running = p.Running(stack, [p.WEIR, "run", "-c", self.config], self.log)
        # What processes have counted that are no more.
        self.earlier = collections.Counter()

    def is_taken_over(self):
        """Another process takes over; returns the seconds until the one before has ended. That must have had nothing
        left."""
        before, began, counted = self.running, time.monotonic(), self.metrics()
        self.running = p.Running(self.stack, [p.WEIR, "run", "-c", self.config, "--takeover"], self.log)
        try:
            code = before.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise SystemExit("the weir that is taken over from does not end") from None
        if code != 0 or self.running.process.poll() is not None:
            raise SystemExit(f"a takeover has failed: {code}")
        self.earlier.update({name: n for name, n in counted.items() if "_total" in name})
        return time.monotonic() - began

    def total(self, name):
        """What all processes have counted under this name, whatever its labels."""
        now = self.metrics()
        return sum(n for all in (now, self.earlier) for key, n in all.items() if key.startswith(name))

    def metrics(self):
        lines = [line for line in p.get(self.monitor, "/metrics").splitlines() if not line.startswith("#")]
        return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines}

    def sees(self, those):
        with contextlib.suppress(OSError):
            metrics = self.metrics()
            return all(metrics.get(f'weir_server_up{{server="{one.name}"}}') == 1 for one in those)
        return False

    def closed(self, since):
        """Why sessions have ended behind this byte of the log, which must be one at debug: reason to number."""
        with open(self.log) as file:
            file.seek(since)
            closed = (re.search(r"DEBUG.* closed .*reason=\"(\w+)\"", line) for line in file)
            return collections.Counter(one[1] for one in closed if one)

    def moved(self, result, cause=""):
        return sum(n for name, n in self.metrics().items() if name.startswith("weir_moves_total{") and f'result="{result}"' in name and cause in name)

    def refused(self):
        return sum(n for name, n in self.metrics().items() if name.startswith("weir_refused_total{"))

    def on(self, server):
        return self.metrics().get(f'weir_sessions_active{{server="{server.name}"}}', 0)

    def does(self, *verb):
        done = subprocess.run([p.WEIR, *verb, "--socket", self.socket], capture_output=True, text=True, timeout=PATIENCE)
        if done.returncode != 0:
            raise SystemExit(f"weir {' '.join(verb)}: {done.stderr}")
        return done.stdout

    def answers(self, *verb):
        return json.loads(self.does(*verb, "--json"))


class Numbers:
    """What has been had of numbers that are published one after the other."""

    def __init__(self):
        self.first, self.last, self.missing, self.twice = None, None, set(), []

    def had(self, number):
        if self.first is None:
            self.first = self.last = number
        elif number > self.last:
            self.missing.update(range(self.last + 1, number))
            self.last = number
        elif number in self.missing:
            self.missing.remove(number)
        elif number >= self.first:
            self.twice.append(number)


class Client(asyncio.Protocol):
    """A client that counts what it gets of `all`, and comes back when its connection is lost."""

    def __init__(self, crowd):
        self.crowd, self.numbers, self.heard, self.tries = crowd, Numbers(), b"", 0
        self.inside, self.transport, self.asked, self.pongs = False, None, 0, 0

    async def dial(self):
        with contextlib.suppress(OSError):
            await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self.crowd.port)
            return
        self.again()

    def connection_made(self, transport):
        self.transport, self.heard, self.greeted = transport, b"", False

    def data_received(self, data):
        *lines, self.heard = (self.heard + data).split(b"\r\n")
        for line in lines:
            if line.startswith(b"MSG all "):
                self.is_number = True
            elif line.startswith(b"MSG jobs "):
                self.is_number = False
            elif line[:1].isdigit():
                (self.numbers.had if self.is_number else self.crowd.jobs.append)(int(line))
            elif line == b"PING":
                self.transport.write(b"PONG\r\n")
            elif line == b"PONG" and not self.inside:
                self.inside, self.tries = True, 0
                self.crowd.inside += 1
            elif line == b"PONG":
                self.pongs += 1
            elif line.startswith(b"-ERR"):
                self.crowd.errors.append(line)
            elif line.startswith(b"INFO ") and not self.greeted:
                self.greeted = True
                self.transport.write(CONNECT % self.crowd.user + b"SUB all 1\r\nSUB jobs workers 2\r\nPING\r\n")

    def connection_lost(self, _):
        if self.crowd.is_over:
            return
        if self.inside:
            self.inside = False
            self.crowd.inside -= 1
            self.crowd.disconnects += 1
        self.again()

    def again(self):
        self.tries += 1
        wait = random.random() * 0.1 if self.tries == 1 else 2 + random.random() * 0.1
        loop = asyncio.get_running_loop()
        loop.call_later(wait, lambda: self.crowd.is_over or loop.create_task(self.dial()))


class Crowd:
    """Clients of one user, whose password is `pass`."""

    def __init__(self, weir, user):
        self.port, self.user, self.clients, self.inside, self.disconnects = weir.port, user.encode(), [], 0, 0
        self.errors, self.jobs, self.is_over = [], [], False

    async def come(self, n):
        more = [Client(self) for _ in range(n)]
        self.clients += more
        for at in range(0, n, 200):
            await asyncio.gather(*(one.dial() for one in more[at : at + 200]))
        await until("all are in", lambda: self.inside == len(self.clients))

    async def all_answer(self):
        """Whoever has not lost its connection gets a PONG: no session stands still."""
        asked = [(one, one.transport, one.pongs) for one in self.clients if one.inside]
        for one, _, _ in asked:
            one.transport.write(b"PING\r\n")
        await until("each session passes a PING and its PONG", lambda: all(one.pongs > pongs or one.transport is not connection for one, connection, pongs in asked))

    def leave(self):
        self.is_over = True
        for one in self.clients:
            if one.transport:
                one.transport.abort()

    def told(self):
        """Numbers that clients have missed between the first and the last that they had, and had twice."""
        return sum(len(one.numbers.missing) for one in self.clients), sum(len(one.numbers.twice) for one in self.clients)

    def newly_twice(self):
        """Who has had numbers twice since this was asked last: local port to numbers."""
        found = {}
        for one in self.clients:
            if new := one.numbers.twice[one.asked :]:
                one.asked = len(one.numbers.twice)
                found[one.transport.get_extra_info("sockname")[1]] = new
        return found

    def told_of_jobs(self, published):
        """Jobs that nobody has had, and that several have."""
        had = set(self.jobs)
        return published - len(had), len(self.jobs) - len(had)


class Publisher:
    """Publishes numbers straight at a server, one a second."""

    def __init__(self, user):
        self.user = user.encode()

    async def start(self, server):
        self.next, self.is_over = 0, False
        reader, self.writer = await asyncio.open_connection("127.0.0.1", server.port)
        await reader.readline()
        self.writer.write(CONNECT % self.user + b"PING\r\n")
        self.tasks = [asyncio.ensure_future(one) for one in (self.answer(reader), self.publish())]

    async def answer(self, reader):
        while line := await reader.readline():
            if line == b"PING\r\n":
                self.writer.write(b"PONG\r\n")

    async def publish(self):
        while not self.is_over:
            number = str(self.next).encode()
            for subject in (b"all", b"jobs"):
                self.writer.write(b"PUB %b %d\r\n%b\r\n" % (subject, len(number), number))
            self.next += 1
            await asyncio.sleep(1)

    async def stop(self):
        self.is_over = True
        await self.tasks[1]
        await asyncio.sleep(2)
        self.tasks[0].cancel()


async def until(what, is_so, patience=PATIENCE):
    """Waits until `is_so()`; returns the seconds that took."""
    began = time.monotonic()
    while not await asyncio.to_thread(is_so):
        if time.monotonic() - began > patience:
            raise SystemExit(f"not within {patience} s: {what}")
        await asyncio.sleep(0.05)
    return time.monotonic() - began

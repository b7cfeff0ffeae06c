"""Single logins: what a server can do when nobody waits, and what a storm costs clients that are not part of it."""

import contextlib, multiprocessing, os, socket, ssl, threading, time


def read_until(stream, end):
    got = b""
    while end not in got:
        more = stream.recv(65536)
        if not more or b"-ERR" in got:
            raise OSError(f"refused: {got!r}")
        got += more
    return got


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


def in_turn(port, user, limit_seconds, most):
    """Logs in again and again, one login after the other; returns the logins per second."""
    began, done = time.monotonic(), 0
    while done < most and time.monotonic() - began < limit_seconds:
        connect(port, user).close()
        done += 1
    return done / (time.monotonic() - began)


def least_time(those, user, clients, share=400):
    """The least possible time: the seconds that these servers take to log `clients` in, with two at a time on each and
    nobody waiting."""
    done = []
    with multiprocessing.Pool(2 * len(those)) as pool:
        began = time.monotonic()
        jobs = [pool.apply_async(in_turn, (server.port, user, 60, share // 2)) for server in those for _ in range(2)]
        done = [job.get() for job in jobs]
        took = time.monotonic() - began
    return took * clients / (share * len(done) / 2)


class Aside(multiprocessing.Process):
    """Measures repeatedly in a process of its own, until `end`, which returns a list of (when, how long)."""

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
    """Connects `per_second` times a second, and closes each connection 6 s later."""
    found, lock = [], threading.Lock()

    def one(due):
        # Measured from when the connect was due, so that waiting for a thread counts.
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
    """Publishes to itself `per_second` times a second, over one connection."""
    stream, found = connect(port, user, ca=ca), []
    with contextlib.suppress(OSError):
        # To measure the path and not how long this process waits for a core. If nice is not allowed, it measures both.
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


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))] if values else None


def during(found, began, ended):
    return [took for at, took, *_ in found if began <= at < ended]

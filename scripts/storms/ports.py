"""Ports on loopback for servers that a script starts."""

import contextlib, random, socket


def lowest_of_connections():
    """The lowest port that the kernel gives to outgoing connections."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
        return int(file.read().split()[0])


given = set()


def free_port():
    """A port that nobody has, given once. An outgoing connection could take it before its server listens, so it is none
    of those that they get, where below them is room."""
    lowest = lowest_of_connections()
    while True:
        port = random.randrange(lowest // 2, lowest) if lowest > 8192 else 0
        with socket.socket() as one, contextlib.suppress(OSError):
            one.bind(("127.0.0.1", port))
            port = one.getsockname()[1]
            if port not in given:
                given.add(port)
                return port

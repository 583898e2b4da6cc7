"""A network whose packets take their time: namespaces joined by a switch in this process.

Linux' netem would do this, where the kernel has it. Each namespace has a TUN device, from which the
switch reads packets, and into that of the receiver it writes them, so much later.
"""

import ctypes
import fcntl
import os
import selectors
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from cnn.errors import UserError

NEW_NETWORK = 0x40000000  # CLONE_NEWNET of Linux' unshare(2)
TUNSETIFF, TUN_PACKETS = 0x400454CA, 0x1001  # IFF_TUN | IFF_NO_PI of linux/if_tun.h
LARGEST = 65000  # bytes of a packet
libc = ctypes.CDLL(None, use_errno=True)


def host(index: int) -> str:
    return f"10.9.0.{index + 1}"


def unshare() -> None:
    """Let this thread, and what it starts, have a network of its own."""
    if libc.unshare(NEW_NETWORK):
        raise UserError(f"no network of its own: {os.strerror(ctypes.get_errno())}; run it as root")


def enter(namespace: int) -> None:
    """Let this thread, and what it starts, be in a namespace, given by a descriptor."""
    if libc.setns(namespace, NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


def _own(index: int) -> tuple[int, int]:
    """Enter a new namespace with the address host(index); return descriptors of it and its TUN."""
    unshare()
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"delayed", TUN_PACKETS))
    for words in (
        "ip link set lo up",
        f"ip addr add {host(index)}/24 dev delayed",
        f"ip link set delayed mtu {LARGEST} up",
    ):
        subprocess.run(words.split(), check=True)
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY), device


@contextmanager
def delayed(n: int, seconds: float) -> Iterator[list[int]]:
    """Give n namespaces, in whose network a packet takes `seconds` from one to another."""
    here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        made = [_own(index) for index in range(n)]
    finally:
        enter(here)
        os.close(here)
    devices = {int.from_bytes(bytes(map(int, host(i).split(".")))): made[i][1] for i in range(n)}
    over = Event()
    switch = Thread(target=_switch, args=(devices, seconds, over), daemon=True)
    switch.start()
    try:
        yield [namespace for namespace, _ in made]
    finally:
        over.set()
        switch.join()
        for descriptor in (each for pair in made for each in pair):
            os.close(descriptor)


def _switch(devices: dict[int, int], seconds: float, over: Event) -> None:
    """Carry packets of IPv4 until it is over; what goes elsewhere is dropped."""
    waiting: deque[tuple[float, int, bytes]] = deque()
    with selectors.DefaultSelector() as selector:
        for device in devices.values():
            selector.register(device, selectors.EVENT_READ)
        while not over.is_set():
            left = max(0.0, waiting[0][0] - time.monotonic()) if waiting else 0.1
            for key, _ in selector.select(left):
                packet = os.read(key.fd, LARGEST + 100)
                target = devices.get(int.from_bytes(packet[16:20]))
                if packet[0] >> 4 == 4 and target is not None:
                    waiting.append((time.monotonic() + seconds, target, packet))
            while waiting and waiting[0][0] <= time.monotonic():
                _, target, packet = waiting.popleft()
                os.write(target, packet)

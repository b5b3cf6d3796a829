"""Servers that a test can take away and give back: a port in front of one, and a Redis of its own."""

from __future__ import annotations

import contextlib
import random
import socket
import subprocess
import threading
from pathlib import Path

import redis

from .support import wait_until


class Port:
    """A port of 127.0.0.1 in front of a server. Closed, it cuts every connection and takes no new one."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._streams: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.is_open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            if not self.is_open:
                client.close()
                continue
            server = socket.create_connection(self._target)
            self._streams += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_copy, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        self.is_open = False
        for stream in self._streams:
            _end(stream)
        self._streams.clear()

    def open(self) -> None:
        self.is_open = True


def _copy(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):  # a cut is what the test wants
        while piece := source.recv(65536):
            sink.sendall(piece)
    _end(source)
    _end(sink)


def _end(stream: socket.socket) -> None:
    with contextlib.suppress(OSError):  # ended already is fine
        stream.shutdown(socket.SHUT_RDWR)


class PrivateRedis:
    """Keeps every command before it answers, so that SIGKILL loses nothing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        # Below the ports of outgoing connections, so that none of them takes it while the server is away.
        self.port = next(port for port in iter(lambda: random.randrange(10_000, 20_000), 0) if _is_free(port))
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder)]
        command += ["--save", "", "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        wait_until("the private redis", self._answers)

    def _answers(self) -> bool:
        with redis.Redis.from_url(self.url) as client, contextlib.suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


def _is_free(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False

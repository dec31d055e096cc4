"""A network that fails: a TCP connection that can be cut, slowed down and counted."""

from __future__ import annotations

import contextlib
import socket
import threading
import time


class Wire:
    """Stands before a server on loopback, at a port of its own.

    Attributes:
        port: of the wire.
        bytes: that came back from the server.
        bytes_a_second: how fast they may come back; 0 is as fast as they do.
        forbidden: a connection over which these bytes go is cut off; None lets everything through.
        cut_off: how many connections were.
    """

    def __init__(self, port: int) -> None:
        """Args: port: the server's."""
        self.bytes, self.bytes_a_second = 0, 0.0
        self.forbidden: bytes | None = None
        self.cut_off = 0
        self._server_port = port
        self._is_cut = False
        self._ends: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """End all connections and let no new one through."""
        self._is_cut = True
        for end in self._ends:
            _hang_up(end)
        self._ends.clear()

    def mend(self) -> None:
        """Let new connections through again."""
        self._is_cut = False

    def close(self) -> None:
        """End all connections, for good."""
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                if self._is_cut:
                    raise ConnectionRefusedError
                far = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                self.cut_off += 1
                near.close()
                continue
            self._ends += [near, far]
            threading.Thread(target=self._carry, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._carry, args=(far, near, True), daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket, is_answer: bool) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(16 * 1024):
                if self.forbidden is not None and self.forbidden in content:
                    self.cut_off += 1
                    break
                if is_answer:
                    self.bytes += len(content)
                    if self.bytes_a_second:
                        time.sleep(len(content) / self.bytes_a_second)
                target.sendall(content)
        _hang_up(source)
        _hang_up(target)


def _hang_up(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)

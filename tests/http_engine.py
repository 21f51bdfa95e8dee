"""An engine that serves over HTTP, in a process of its own: a port for it, waiting for it, asking it."""

from __future__ import annotations

import ipaddress
import socket
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path

import pytest

HOST = str(ipaddress.IPv4Address(0x7F000001))  # this machine


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("", 0))
        return int(asked.getsockname()[1])


def wait_for(server: subprocess.Popen[bytes], host: str, port: int, log: Path) -> None:
    for _ in range(600):
        assert server.poll() is None, log.read_text()[-3000:]
        try:
            http(host, port, "GET", "/health")
            return
        except OSError:
            time.sleep(1)
    pytest.fail(log.read_text()[-3000:])


def http(host: str, port: int, method: str, path: str, body: str | None = None) -> str:
    connection = HTTPConnection(host, port, timeout=300)
    connection.request(method, path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    text = answer.read().decode()
    assert answer.status == 200, text
    return text

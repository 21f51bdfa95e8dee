"""A real HTTP server in front of a real small model, in the manners of several engines, with faults where asked for.

`fault(number, body)` says what happens to the number-th request for an answer (from 0, those for one token apart):
None answers it, else one of FAULTS, "too long", "busy for long" or "until it dies". Everything is over sockets; `stop`
and `start` are a process that dies and comes back on its port.
"""

from __future__ import annotations

import ipaddress
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from vocabtrim.collecting.in_process import LocalTarget
from vocabtrim.decoding.text import TargetText
from vocabtrim.measure.methods import Settings

HOST = str(ipaddress.IPv4Address(0x7F000001))  # this machine
NAME = "small"
FAULTS = ("busy", "broken", "cut", "slow", "error in the stream", "aborted", "no JSON")  # that pass

Fault = Callable[[int, dict[str, Any]], str | None]


class Model:
    """What answers: a causal LM of a folder, greedy; every answer is computed once."""

    def __init__(self, folder: Path) -> None:
        self.words = TargetText(folder)
        self._folder, self._known = folder, {}
        self._lock, self._targets = threading.Lock(), {}

    def answer(self, body: dict[str, Any]) -> tuple[list[int], str]:
        """Ids and finish reason."""
        if "messages" in body:
            prompt = self.words.conversation(body["messages"])
        else:
            asked = body["prompt"]
            prompt = asked if isinstance(asked, list) else self.words.prompt(asked, chat=False)
        key = json.dumps([prompt, body["max_tokens"]])
        with self._lock:
            if key not in self._known:
                self._known[key] = self._decode(prompt, body["max_tokens"])
            return self._known[key]

    def _decode(self, prompt: Sequence[int], length: int) -> tuple[list[int], str]:
        if length not in self._targets:
            settings = Settings(max_new_tokens=length, dtype="float32")
            self._targets[length] = LocalTarget(self._folder, None, self.words, settings)
        written = self._targets[length].answer_ids(prompt, 0)
        return list(written.token_ids), written.ended


class AnsweringServer:
    """manner: "vllm" tells ids in streams, "sglang" of chats in one piece alone, "plain" passes over what it does not
    know, "strict" refuses it, "bare" refuses streams too. key: asked for in the header."""

    def __init__(
        self, model: Model, *, manner: str = "vllm", fault: Fault = lambda number, body: None, key: str | None = None
    ) -> None:
        self.model, self.manner, self.fault, self.key = model, manner, fault, key
        self.names, self.answering = [NAME], NAME
        self.asked: list[dict[str, Any]] = []  # bodies of requests for answers
        self.answered = 0
        self.in_flight = self.most_in_flight = 0
        self.authorization: set[str | None] = set()
        self.lock = threading.Lock()
        self.port = 0
        self._open: set[socket.socket] = set()
        self._died = threading.Event()
        self._http: ThreadingHTTPServer | None = None

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> AnsweringServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer((HOST, self.port), Handler)
        self._http.daemon_threads = True
        self.port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Die: no port, and every connection cut where it is."""
        if self._http is None:
            return
        http, self._http = self._http, None
        http.shutdown()
        http.server_close()
        with self.lock:
            for connection in self._open:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        self._died.set()

    def wait_for_death(self) -> None:
        self._died.wait()

    def opened(self, connection: socket.socket) -> None:
        with self.lock:
            self._open.add(connection)


class _Handler(BaseHTTPRequestHandler):
    owner: AnsweringServer
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.owner.opened(self.connection)

    def log_message(self, *_: object) -> None:
        pass

    def handle(self) -> None:
        with suppress(ConnectionError, BrokenPipeError, ValueError):
            super().handle()

    def do_GET(self) -> None:
        if not self._allowed():
            return
        if self.path != "/v1/models":
            self._say(404, {"error": {"message": "no such page"}})
            return
        if "no list" in self.owner.names:
            self._say(500, {"error": {"message": "no list"}})
            return
        if "hostile" in self.owner.names:
            self._raw(200, b"[" * 100_000, {"Content-Type": "application/json"})
            return
        self._say(200, {"object": "list", "data": [{"id": name, "object": "model"} for name in self.owner.names]})

    def do_POST(self) -> None:
        owner = self.owner
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._allowed():
            return
        if body["model"] not in owner.names:
            self._say(404, {"error": {"message": f"The model {body['model']} does not exist."}})
            return
        if refusal := self._refusal(body):
            self._say(400, {"error": {"message": refusal}})
            return
        with owner.lock:
            fault = None
            if body["max_tokens"] > 1:
                fault = owner.fault(len(owner.asked), body)
                owner.asked.append(body)
            owner.in_flight += 1
            owner.most_in_flight = max(owner.most_in_flight, owner.in_flight)
        try:
            self._meet(fault, body)
        finally:
            with owner.lock:
                owner.in_flight -= 1

    def _meet(self, fault: str | None, body: dict[str, Any]) -> None:
        if fault == "busy":
            self._say(429, {"error": {"message": "too many requests"}}, {"Retry-After": "0.05"})
        elif fault == "busy for long":
            self._say(429, {"error": {"message": "too many requests"}}, {"Retry-After": "86400"})
        elif fault == "broken":
            self._say(500, {"error": {"message": "internal"}})
        elif fault == "too long":
            self._say(400, {"error": {"message": "This model's maximum context length is 512 tokens."}})
        elif fault == "no JSON":
            self._raw(200, b"<html>", {"Content-Type": "text/html"})
        elif fault == "until it dies":
            self.owner.wait_for_death()
        elif fault is not None and not body.get("stream"):
            self.connection.shutdown(socket.SHUT_RDWR)
        else:
            ids, ended = self.owner.model.answer(body)
            if body.get("stream"):
                self._stream(body, ids, ended, fault)
            else:
                self._whole(body, ids, ended)

    def _refusal(self, body: dict[str, Any]) -> str | None:
        manner, chat = self.owner.manner, self.path.endswith("/chat/completions")
        if manner == "sglang" and chat and body.get("stream") and body.get("return_token_ids"):
            return "return_token_ids is not supported with streaming on chat completions"
        if manner in ("strict", "bare") and ("return_token_ids" in body or "stream_options" in body):
            return "Unrecognized request argument supplied"
        if manner == "bare" and body.get("stream"):
            return "no streams"
        return None

    def _allowed(self) -> bool:
        told = self.headers.get("Authorization")
        self.owner.authorization.add(told)
        if self.owner.key is None or told == f"Bearer {self.owner.key}":
            return True
        self._say(401, {"error": {"message": f"Incorrect API key provided: {told}"}})
        return False

    def _ids_told(self, body: dict[str, Any], ids: Sequence[int]) -> dict[str, Any]:
        if not body.get("return_token_ids") or self.owner.manner not in ("vllm", "sglang"):
            return {}
        chat = self.path.endswith("/chat/completions")
        return {"response_token_ids" if self.owner.manner == "sglang" and chat else "token_ids": list(ids)}

    def _whole(self, body: dict[str, Any], ids: list[int], ended: str) -> None:
        text = self.owner.model.words.decode(ids)
        chat = self.path.endswith("/chat/completions")
        said = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        choice = {"index": 0, **said, "finish_reason": ended, **self._ids_told(body, ids)}
        usage = {"completion_tokens": len(ids)}
        self._say(200, {"model": self.owner.answering, "choices": [choice], "usage": usage})
        self.owner.answered += body["max_tokens"] > 1

    def _stream(self, body: dict[str, Any], ids: list[int], ended: str, fault: str | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, event in enumerate(self._events(body, ids, ended, fault)):
            if fault == "cut" and number == 2:
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            if fault == "slow":
                time.sleep(0.03)
            self._chunk(f"data: {json.dumps(event)}\n\n")
        self._chunk("data: [DONE]\n\n")
        self._chunk("")
        self.owner.answered += body["max_tokens"] > 1 and fault in (None, "slow")

    def _events(self, body: dict[str, Any], ids: list[int], ended: str, fault: str | None) -> Iterator[dict[str, Any]]:
        """Three tokens a piece, as engines that draft send several at once."""
        words, chat = self.owner.model.words, self.path.endswith("/chat/completions")
        about = {"model": self.owner.answering}
        if chat:
            yield {**about, "choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]}
        said = ""
        for start in range(0, len(ids), 3):
            piece, last = ids[start : start + 3], start + 3 >= len(ids)
            text = words.decode(ids[: start + 3])
            if not last and text.endswith("\ufffd"):
                text = said  # half a character is held back
            new, said = text[len(said) :], text
            delta = {"delta": {"content": new}} if chat else {"text": new}
            told = self._ids_told(body, piece) if not (chat and self.owner.manner == "sglang") else {}
            if fault == "error in the stream" and start:
                yield {"error": {"message": "engine died", "code": 500}}
                return
            reason = ("abort" if fault == "aborted" else ended) if last else None
            yield {**about, "choices": [{"index": 0, **delta, "finish_reason": reason, **told}]}
        if (body.get("stream_options") or {}).get("include_usage"):
            yield {**about, "choices": [], "usage": {"completion_tokens": len(ids)}}

    def _say(self, status: int, told: dict[str, Any], more: dict[str, str] | None = None) -> None:
        self._raw(status, json.dumps(told).encode(), {"Content-Type": "application/json", **(more or {})})

    def _raw(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, text: str) -> None:
        data = text.encode()
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

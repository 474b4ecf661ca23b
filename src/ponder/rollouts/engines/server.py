"""A server of its own, and HTTP to it: nothing waits for ever, and every failure is one line."""

from __future__ import annotations

import atexit
import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ponder.config.errors import EngineFailed

KEEPER = Path(__file__).with_name("keeper.py")
PAUSES = (1.0, 2.0, 4.0, 8.0)  # seconds before a request is sent again
SAY_TEXT = ("/v1/load_lora_adapter", "/v1/unload_lora_adapter")  # where others answer in JSON
END = 15.0  # seconds in which a server must have ended
NOT_PASSED_ON = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")  # of another environment


class Refused(EngineFailed):
    """The server understood, and said no: asking again is of no use."""


class Client:
    """Requests to a server, from several threads. alive: says why the server is gone, where that is
    known; retries: a request that failed is sent so many times more, unless it took too long.
    """

    def __init__(self, url: str, retries: int, alive: Callable[[], str | None]) -> None:
        self.url, self.retries, self.alive = url, retries, alive
        self.open: set[http.client.HTTPConnection] = set()
        self.lock, self.given_up = threading.Lock(), False

    def ask(self, path: str, body: Any = None, timeout: float = 60.0) -> Any:
        """The answer, as JSON (None: empty), to a GET, or a POST of a body. Raises `EngineFailed`,
        which names the server.
        """
        failure = ""
        for number in range(self.retries + 1):
            try:
                return self._ask(path, body, timeout)
            except TimeoutError:
                raise EngineFailed(f"{self.url}{path}: found no answer in {timeout:g} seconds; "
                                   "legal: a server that is faster, or a longer engine.timeout "
                                   "(engine.start_timeout)") from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                failure = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            gone = self.alive()
            if gone or self.given_up:
                raise EngineFailed(gone or f"{self.url}: given up")
            if number < self.retries:
                time.sleep(PAUSES[min(number, len(PAUSES) - 1)])
        raise EngineFailed(f"{self.url}{path}: failed {self.retries + 1} times ({failure}); legal: "
                           "a server that runs and answers; the run goes on from where it was")

    def _ask(self, path: str, body: Any, timeout: float) -> Any:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=timeout)
        with self.lock:
            if self.given_up:
                raise ConnectionAbortedError("given up")
            self.open.add(connection)
        try:
            connection.connect()
            if self.given_up:
                raise ConnectionAbortedError("given up")
            content = None if body is None else json.dumps(body)
            headers = {"Content-Type": "application/json"}
            connection.request("GET" if body is None else "POST", path, content, headers)
            answer = connection.getresponse()
            said = answer.read()
        finally:
            with self.lock:
                self.open.discard(connection)
            connection.close()
        if 400 <= answer.status < 500:
            raise Refused(f"{self.url}{path}: the server refuses ({answer.status}: "
                          f"{_message(said)}); legal: a vLLM server that Ponder started, or one "
                          "begun as docs/engines.md says")
        if answer.status >= 300:
            raise http.client.HTTPException(f"{answer.status}: {_message(said)}")
        return json.loads(said) if said.strip() and path not in SAY_TEXT else None

    def give_up(self) -> None:
        """End all requests that are under way; the server stops working on them."""
        with self.lock:
            self.given_up = True
            for connection in self.open:
                if connection.sock is not None:
                    with contextlib.suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)


def _message(said: bytes) -> str:
    """What an answer says of an error, in one line."""
    text = said.decode(errors="replace")
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(text)
        inner = found.get("error", found.get("detail", found))
        text = str(inner.get("message", inner)) if isinstance(inner, dict) else str(inner)
    return " ".join(text.split())[:200]


class Server:
    """A server that was started here, and ends with this process whatever happens to it. typed: the
    command as errors name it; command: its words, with what was added.
    """

    def __init__(self, typed: str, command: list[str], environment: dict[str, str],
                 log: Path) -> None:
        self.command, self.log = typed, log
        log.parent.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-S", str(KEEPER), *command],
                stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT,
                env={**kept, **environment}, start_new_session=True)
        atexit.register(self.close)

    def gone(self) -> str | None:
        """Why it is not running; None where it is."""
        code = self.process.poll()
        if code is None:
            return None
        return (f"engine.command={self.command}: the server has ended with code {code} "
                f"({last_line(self.log)}); its output is in {self.log}")

    def wait(self, ready: Callable[[], Any], seconds: float, heard: Callable[[], None]) -> None:
        """Until `ready` raises no `EngineFailed`; `heard` is called in between. Raises
        `EngineFailed` where it ends before that, or takes too long.
        """
        end = time.monotonic() + seconds
        while True:
            try:
                ready()
                return
            except EngineFailed as error:
                if isinstance(error, Refused) or time.monotonic() > end:
                    reason = self.gone() or (
                        f"engine.command={self.command}: the server has not begun in {seconds:g} "
                        f"seconds ({last_line(self.log)}); its output is in {self.log}; legal: a "
                        "longer engine.start_timeout")
                    raise EngineFailed(reason) from None
            if (reason := self.gone()) is not None:
                raise EngineFailed(reason)
            heard()
            time.sleep(0.2)

    def close(self) -> None:
        atexit.unregister(self.close)
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(END)
        except subprocess.TimeoutExpired:
            self.process.kill()


def last_line(log: Path) -> str:
    """The last line of a log that says an error, else the last one."""
    try:
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines()]
    except OSError:
        return "it said nothing"
    told = [line for line in lines if line]
    errors = [line for line in told if "Error" in line]
    return (errors or told or ["it said nothing"])[-1][-200:]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]

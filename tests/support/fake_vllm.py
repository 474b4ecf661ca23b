"""A server that answers as vLLM does, with weights that it reads from the directories it is given;
and that fails as servers do. `python fake_vllm.py <model> --port <port>` starts one, too.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any


class Quiet(ThreadingHTTPServer):
    """Says nothing of clients that have gone."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class Fake:
    """The state of a server. fails: what it does wrong; after: not before so many completions;
    times: and so often.
    """

    def __init__(self, fails: str = "", after: int = 0, times: int = 10**6) -> None:
        self.fails, self.after, self.times = fails, after, times
        self.version, self.path, self.model = "default", "", "served"
        self.nets: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.lock, self.done = threading.Lock(), 0
        self.hung = threading.Event()
        self.server = Quiet(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> Fake:
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.hung.set()
        self.server.shutdown()
        self.server.server_close()

    def _failing(self) -> bool:
        with self.lock:
            self.done += 1
            due = bool(self.fails) and self.done > self.after and self.times > 0
            self.times -= due
            return due

    def answer(self, path: str, body: Any) -> Any:
        self.asked.append((path, body))
        if path == "/v1/models":
            return {"data": [{"id": self.model}]}
        if path == "/collective_rpc":
            self.path = body["kwargs"]["weights_path"]
            return {"results": [None]}
        if path == "/update_weight_version":
            self.version = body["new_version"]
            return {"success": True}
        if path == "/weight_info":
            stale = self.fails == "stale" and self.done >= self.after
            return {"weight_version": "another" if stale else self.version}
        if path == "/v1/completions":
            return self.completions(body)
        return {}

    def completions(self, body: Any) -> Any:
        """Texts by our own decoding, with the weights that were handed over."""
        import torch

        from ponder.core.math import Sampling
        from ponder.core.types import Problems
        from ponder.rollouts.engines import Engine, Order
        from support.questions import WORDS

        with self.lock:
            if self.path not in self.nets:
                from transformers import AutoModelForCausalLM

                from ponder.models.huggingface.model import Model

                net = Model(AutoModelForCausalLM.from_pretrained(self.path), len(WORDS))
                self.nets = {self.path: net.eval()}
            net = self.nets[self.path]
        question = torch.tensor([body["prompt"]])
        order = Order(Problems(question, question[:, :1], None, WORDS.pad), body["n"],
                      body["max_tokens"], Sampling(body["temperature"], body["top_k"],
                                                   body["top_p"]), body["seed"] % 2**31)
        net.barred = tuple(int(token) for token in body["logit_bias"] or ())
        tokens, logprobs = Engine().write(net, WORDS, order)
        choices = []
        for number in range(body["n"]):
            own = tokens[number, :-1]
            ids = own[own != WORDS.pad].tolist()
            choices.append({"index": number, "token_ids": ids, "finish_reason": "length",
                            "logprobs": {"token_logprobs": logprobs[number, :len(ids)].tolist()}})
        return {"model": body["model"], "choices": choices[::-1]}

    def spoil(self, content: dict[str, Any]) -> bytes:
        """The bytes of an answer as a server that fails sends it."""
        for choice in content["choices"]:
            if self.fails == "vocabulary":
                choice["token_ids"][0] = 10**6
            if self.fails == "support":
                choice["logprobs"]["token_logprobs"] = [
                    value - 1 for value in choice["logprobs"]["token_logprobs"]]
            if self.fails == "no ids":
                del choice["token_ids"]
        said = json.dumps(content).encode()
        return said[:len(said) // 2] if self.fails == "truncated" else said

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(None)

            def do_POST(self) -> None:
                self.reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def reply(self, body: Any) -> None:
                failing = self.path == "/v1/completions" and fake._failing()
                if failing and fake.fails == "hang":
                    fake.hung.wait(60)
                    return
                if failing and fake.fails == "dies":
                    fake.server.socket.close()  # no more connections
                    self.connection.close()
                    return
                if failing and fake.fails in ("500", "400"):
                    self.send(int(fake.fails), b'{"error": {"message": "out of\\nmemory"}}')
                    return
                content = fake.answer(self.path, body)
                self.send(200, fake.spoil(content) if failing else json.dumps(content).encode())

            def send(self, status: int, said: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def log_message(self, format: str, *words: object) -> None:
                pass

        return Handler


def main(words: list[str]) -> None:
    """Serve until the end. A model of the name "broken" makes it fail at once."""
    if Path(words[0]).name == "broken" or "--broken" in words:
        print("loading\nRuntimeError: no such architecture\nbye", flush=True)
        sys.exit(3)
    fake = Fake()
    fake.server.server_close()
    port = int(words[words.index("--port") + 1])
    fake.path = words[0]
    fake.server = Quiet(("127.0.0.1", port), fake._handler())
    threading.Thread(target=fake.server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1:])

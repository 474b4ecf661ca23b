"""A vLLM server, played by one that fails as servers do: one line or a retry, nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ponder.config.engine import EngineConfig
from ponder.config.errors import EngineFailed
from ponder.config.players import HfConfig
from ponder.core.math import GREEDY, Sampling
from ponder.models.huggingface.model import Model
from ponder.models.huggingface.pretrained import load_text_model, load_vocabulary
from ponder.rollouts.engines import Engine, Order
from ponder.rollouts.engines import server as http_server
from ponder.rollouts.engines.exchange import save_whole
from ponder.rollouts.engines.server import Client, Server
from ponder.rollouts.engines.vllm import VllmEngine
from support import fake_vllm
from support.fake_vllm import Fake
from support.questions import WORDS, file_of, language_model, save_language_model, task
from support.runs import lines, summary
from support.small import Door, generator

FAKE = f"{sys.executable} {fake_vllm.__file__}"


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "PAUSES", (0.01,))


@pytest.fixture
def run(door: Door) -> Any:
    """Three steps of GRPO, written by a server."""
    save_language_model(Path("model"))
    file_of(Path("questions.csv"), 12)
    words = ["task=qa", "variant=[think]", "rollout=sample", "reward=exact_match", "trainer=text",
             "model=hf", "model.name=model", "strategy=grpo", "task.data=questions.csv",
             "task.test_questions=4", "task.train_questions=8", "task.answer=letter",
             "thinker.tokens=4", "rollout.samples=3", "trainer.lr=1e-2",
             "trainer.train_batch_size=4", "trainer.train_gradient_accumulation_steps=1",
             "trainer.gen_batch_size=8", "trainer.max_steps=3", "trainer.max_epochs=2",
             "hydra.run.dir=run", "rollout.engine=vllm"]
    return lambda *more: door(*words, *more)


def losses(run: str = "run") -> list[float]:
    return [line["loss"] for line in lines(run) if "loss" in line]


UNDISTURBED: list[float] = []  # made once


@pytest.fixture
def undisturbed(run: Any) -> list[float]:
    if not UNDISTURBED:
        with Fake() as fake:
            code, _, err = run(f"engine.url={fake.url}", "hydra.run.dir=undisturbed",
                               "scratch=scratch_of_it")
        assert (code, err) == (0, "") and len(losses("undisturbed")) == 3
        UNDISTURBED.extend(losses("undisturbed"))
    return UNDISTURBED


@pytest.mark.slow
def test_a_server_gets_every_new_set_of_weights(run: Any) -> None:
    """Its texts have our own log-probabilities; weights are read anew, the cache is emptied, and
    old directories are gone.
    """
    with Fake() as fake:
        code, _, err = run(f"engine.url={fake.url}", "trainer.skip_first_validation_loop=false")
    assert (code, err) == (0, "") and summary()["steps"] == 3
    gaps = [line["engine/logprob_gap_max"] for line in lines() if "loss" in line]
    assert len(gaps) == 3 and max(gaps) < 1e-4
    asked = [path for path, _ in fake.asked if path != "/v1/completions"]
    handing = ["/collective_rpc", "/reset_prefix_cache", "/update_weight_version", "/weight_info"]
    assert asked[:6] == ["/v1/models", *handing, "/weight_info"]
    assert asked.count("/collective_rpc") == 3 == len({
        body["kwargs"]["weights_path"] for path, body in fake.asked if path == "/collective_rpc"})
    bodies = [body for path, body in fake.asked if path == "/v1/completions"]
    assert len({body["seed"] for body in bodies if body["temperature"]}) == 8 * 2  # two rounds
    assert [*Path("scratch/engine").iterdir()] == []


@pytest.mark.slow
@pytest.mark.parametrize("fails, said", [
    ("500", "/v1/completions: failed 3 times (HTTPException: 500: out of memory); legal: a server"),
    ("400", "/v1/completions: the server refuses (400: out of memory); legal: a vLLM server"),
    ("hang", "/v1/completions: found no answer in 4 seconds; legal: a server that is faster"),
    ("dies", "/v1/completions: failed 3 times (ConnectionRefusedError: "),
    ("truncated", "/v1/completions: failed 3 times (JSONDecodeError: "),
    ("no ids", "/v1/completions: found an answer without 3 rows of token ids"),
    ("stale", ": found weights of version another, but the thinker's are "),
    ("vocabulary", "rollout.engine: found token 1000000, which the thinker does not have; legal: "),
    ("support", "engine.gap=0.05: found log-probabilities of rollout.engine=vllm that are 1 nats"),
])
def test_a_failure_is_one_line_and_the_run_goes_on_later(
        fails: str, said: str, run: Any, undisturbed: list[float]) -> None:
    """It fails in the second round, amid a batch; a sound server then takes the steps that are
    missing, and the run is the one that nothing has disturbed.
    """
    with Fake(fails, after=8 + 3) as fake:
        code, _, err = run(f"engine.url={fake.url}",
                           f"engine.timeout={4 if fails == 'hang' else 9}")
        assert code == 1 and err.count("\n") == 1
        assert err.removeprefix("error: ").removeprefix(fake.url).startswith(said)
    assert 0 < len(losses()) < 3 and not Path("run/error.txt").exists()
    with Fake() as sound:
        code, _, err = run(f"engine.url={sound.url}")
    assert (code, err) == (0, "")
    assert losses() == pytest.approx(undisturbed, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["500", "truncated"])
def test_what_fails_now_and_then_is_asked_again(fails: str, run: Any,
                                                undisturbed: list[float]) -> None:
    with Fake(fails, after=3, times=2) as fake:
        code, _, err = run(f"engine.url={fake.url}")
    assert (code, err) == (0, "") and losses() == pytest.approx(undisturbed, abs=1e-6)


@pytest.mark.slow
def test_what_an_engine_finds_less_likely_than_we_do_weighs_more(run: Any) -> None:
    """Each token has 1 nat less with the server: e times as much weight, up to the limit of 2; and
    `old` is our own forward pass, so the first ratio is 1.
    """
    with Fake("support") as fake:
        code, _, err = run(f"engine.url={fake.url}", "engine.gap=2", "trainer.max_steps=1",
                           "strategy.engine_correction=truncate")
    assert (code, err) == (0, "")
    first = next(line for line in lines() if "loss" in line)
    assert (first["engine/weight"], first["engine/limited"]) == (2.0, 1.0)
    assert first["engine/logprob_gap"] == pytest.approx(1, abs=1e-4)
    assert first["clip_fraction"] == 0 and abs(first["kl_old"]) < 1e-6


@pytest.mark.slow
def test_a_wrong_server_leaves_no_run(run: Any) -> None:
    code, _, err = run("engine.url=http://127.0.0.1:9", "engine.retries=0")
    assert code == 1 and err.startswith("error: http://127.0.0.1:9/v1/models: failed 1 times (")
    broken = FAKE + " --broken"
    code, _, err = run(f"engine.command='{broken}'")
    assert code == 1 and err.count("\n") == 1
    assert "the server has ended with code 3 (RuntimeError: no such architecture)" in err


# --- requests -----------------------------------------------------------------------------------


def engine_of(fake: Fake, tmp_path: Path, **model: Any) -> VllmEngine:
    return VllmEngine(EngineConfig(url=fake.url), HfConfig(**model), tmp_path / "scratch")


@pytest.mark.slow
def test_barred_tokens_ends_and_greedy_rows_are_asked_for(tmp_path: Path) -> None:
    problems = task(file_of(tmp_path / "questions.csv", 20), WORDS).sample(5, generator())
    net = Model(language_model().float(), len(WORDS), barred=(3, 70))
    with Fake() as fake:
        engine = engine_of(fake, tmp_path)
        engine.hand_over(net, WORDS, "1")
        order = Order(problems, 3, 6, GREEDY, 7)
        assert torch.equal(engine.write(net, WORDS, order)[0],
                           Engine().write(net, WORDS, order)[0])
        engine.write(net, WORDS, Order(problems, 3, 6, Sampling(0.5, 9), 7))
        engine.close()
    bodies = [body for path, body in fake.asked if path == "/v1/completions"]
    assert {body["n"] for body in bodies[:5]} == {1} and {body["n"] for body in bodies[5:]} == {3}
    last = bodies[-1]
    rest = {str(token): -100.0 for token in (3, 70, *range(len(WORDS), len(net.head)))}
    assert last["logit_bias"] == rest and last["stop_token_ids"] == [1]
    assert (last["temperature"], last["top_k"], last["top_p"]) == (0.5, 9, 1.0)
    assert all(WORDS.pad not in body["prompt"] for body in bodies)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [0, 3])
def test_adapters_go_alone_or_merged_with_new_tokens(tokens: int, tmp_path: Path) -> None:
    """LoRA alone is loaded by a name with its version; beside tokens that learn, it is merged."""
    save_language_model(tmp_path / "model")
    config = HfConfig(name=str(tmp_path / "model"), lora_r=4, thought_tokens=tokens)
    words = load_vocabulary(config)
    net = load_text_model(config, len(words))
    with torch.no_grad():
        for weight in net.parameters():
            if weight.requires_grad:
                weight.add_(torch.randn_like(weight) * 0.1)
    before = {name: weight.clone() for name, weight in net.named_parameters()}
    with Fake() as fake:
        engine = engine_of(fake, tmp_path, lora_r=4, thought_tokens=tokens)
        for version in ("a" * 20, "b" * 20):
            engine.hand_over(net, words, version)
        folder = Path(fake.path) if tokens else next((tmp_path / "scratch").rglob("adapter_*"))
        from transformers import AutoModelForCausalLM

        asked = [(path, body) for path, body in fake.asked if "lora" in path]
        assert engine.model == ("served" if tokens else "ponder-bbbbbbbbbbbbbbbb")
        assert len(asked) == (0 if tokens else 3)
        if tokens:
            text = torch.tensor([[5, 9, 60, len(words) - 1, 7]])
            read = AutoModelForCausalLM.from_pretrained(folder)(text).logits
            torch.testing.assert_close(read, net.logits(net.read(text)[0]), atol=1e-4, rtol=1e-4)
        else:
            assert (folder / "adapter_model.safetensors").is_file()
            assert asked[-1] == ("/v1/unload_lora_adapter", {"lora_name": "ponder-" + "a" * 16})
        engine.close()
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())


def test_an_order_that_is_stopped_gives_its_requests_up(tmp_path: Path) -> None:
    """The server hangs; what `heard` raises comes through at once, and the client can go on."""
    problems = task(file_of(tmp_path / "questions.csv", 20), WORDS).sample(5, generator())
    net = Model(language_model().float(), len(WORDS))

    class Stop(Exception):
        pass

    def heard(tokens: int, rows: int) -> None:
        raise Stop

    with Fake("hang", times=5) as fake:
        engine = engine_of(fake, tmp_path)
        engine.hand_over(net, WORDS, "1")
        began = time.monotonic()
        with pytest.raises(Stop):
            engine.write(net, WORDS, Order(problems, 3, 6, Sampling(), 7, heard=heard))
        assert time.monotonic() - began < 30  # of 60 that the server would take
        fake.fails = ""
        assert len(engine.write(net, WORDS, Order(problems, 3, 6, Sampling(), 7))[0]) == 15
        engine.close()


# --- the server's process -----------------------------------------------------------------------


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def gone(pid: int) -> bool:
    for _ in range(400):
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


def started(tmp_path: Path, port: int) -> Server:
    server = Server("fake", [*FAKE.split(), "model", "--port", str(port)], {}, tmp_path / "log")
    client = Client(f"http://127.0.0.1:{port}", 0, server.gone)
    server.wait(lambda: client.ask("/health"), 60, lambda: None)
    return server


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in found.split()]


@pytest.mark.slow
def test_a_server_ends_when_it_is_closed(tmp_path: Path) -> None:
    server = started(tmp_path, http_server.free_port())
    own = children(server.process.pid)
    assert own and all(map(alive, own)) and server.gone() is None
    server.close()
    assert all(map(gone, own)) and "has ended with code" in str(server.gone())


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_server_ends_with_the_process_that_began_it(number: int, tmp_path: Path) -> None:
    """Killed, or by Ctrl-C: nothing is left behind."""
    port = http_server.free_port()
    code = ("import importlib.util as util, sys, time; from pathlib import Path\n"
            "about = util.spec_from_file_location('server', sys.argv[1])\n"  # and not torch
            "found = util.module_from_spec(about); about.loader.exec_module(found)\n"
            "server = found.Server('fake', sys.argv[3:], {}, Path(sys.argv[2]))\n"
            "client = found.Client('http://127.0.0.1:' + sys.argv[-1], 0, server.gone)\n"
            "server.wait(lambda: client.ask('/health'), 60, lambda: None)\n"
            "print(server.process.pid, flush=True); time.sleep(60)")
    words = [str(http_server.__file__), str(tmp_path / "log"), *FAKE.split(), "model", "--port"]
    parent = subprocess.Popen([sys.executable, "-c", code, *words, str(port)],
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert parent.stdout is not None
    keeper = int(parent.stdout.readline())
    own, = children(keeper)
    assert alive(keeper) and alive(own)
    os.kill(parent.pid, number)
    parent.wait()
    assert gone(own) and gone(keeper)
    parent.stdout.close()


@pytest.mark.slow
def test_a_server_that_does_not_begin_is_not_waited_for(tmp_path: Path) -> None:
    code = "import time; print('still loading', flush=True); time.sleep(60)"
    server = Server("slow", [sys.executable, "-c", code], {}, tmp_path / "log")
    client = Client("http://127.0.0.1:9", 0, server.gone)
    with pytest.raises(EngineFailed, match=r"has not begun in 2 seconds \(still loading\)"):
        server.wait(lambda: client.ask("/health"), 2.0, lambda: None)
    server.close()


def test_a_whole_model_is_written_as_it_is(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    net = Model(language_model().float(), len(WORDS))
    save_whole(net, WORDS, tmp_path / "weights")
    read = AutoModelForCausalLM.from_pretrained(tmp_path / "weights").state_dict()
    assert all(torch.equal(weight, read[name]) for name, weight in net.model.state_dict().items())

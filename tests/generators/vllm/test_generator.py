from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import batchroute
from batchroute.errors import InputError, StoppedError
from batchroute.generators.base import Response
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm import process
from batchroute.generators.vllm.generator import VllmGenerator, shares_of
from batchroute.generators.vllm.messages import Row
from batchroute.prompt import Prompt

STAND_IN = Path(__file__).parent / "stand_in"
SCHEMA = {"type": "object"}
SAMPLED = {"temperature": 0.7, "top_p": 0.9, "top_k": 40}


@pytest.fixture(autouse=True)
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """vLLM is the stand-in, which records here what it is given."""
    monkeypatch.syspath_prepend(str(STAND_IN))
    monkeypatch.setenv("PYTHONPATH", str(STAND_IN), prepend=os.pathsep)
    for name in ("CUDA_VISIBLE_DEVICES", "VLLM_LOGGING_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "record"
    folder.mkdir()
    monkeypatch.setenv("STAND_IN_RECORD", str(folder))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


@pytest.fixture
def load(model: Path) -> Iterator[Callable[..., VllmGenerator]]:
    loaded = []

    def load(**settings: Any) -> VllmGenerator:
        loaded.append(VllmGenerator(spec(model, **settings), patience=(2.0, 0.5, 5.0)))
        return loaded[-1]

    yield load
    for generator in loaded:
        generator.close()


def spec(model: Path, **settings: Any) -> ModelSpec:
    generation = {"max_new_tokens": 20, **settings.pop("generation", {})}
    return ModelSpec(backend="vllm", model=str(model), generation=generation, **settings)


def ask(generator: VllmGenerator, prompts: Sequence[Prompt]) -> list[Response]:
    return generator.generate(prompts, list(range(100, 100 + len(prompts))))


def recorded(folder: Path, what: str) -> list[dict[str, Any]]:
    """What the stand-in was given, in the order of time."""
    lines = [json.loads(line) for file in folder.iterdir() for line in file.read_text().splitlines()]
    return sorted((line for line in lines if line["what"] == what), key=lambda line: float(line["time"]))


def running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kinds(responses: Sequence[Response]) -> list[str | None]:
    return [response.error_type for response in responses]


def test_answers_are_in_the_order_of_the_prompts_with_their_tokens(load: Callable[..., VllmGenerator]) -> None:
    generator = load()
    assert generator.load_seconds > 0
    assert generator.rows_at_a_time == 4096
    assert ask(generator, []) == []
    first, second = ask(generator, ["three short words", "one"])
    assert first == Response("<user> three short words <assistant> seed=None", "stop", 5, 6)
    assert second == Response("<user> one <assistant> seed=None", "stop", 3, 4)
    assert ask(generator, ["again"])[0].text == "<user> again <assistant> seed=None"


def test_what_a_chat_model_and_a_plain_one_are_asked(
    load: Callable[..., VllmGenerator], model: Path, record: Path
) -> None:
    settings = {"system": "Be brief.", "template": "Q: {prompt}", "generation": {"max_new_tokens": 4}}
    messages: Prompt = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "a longer one"}]
    ask(load(**settings), ["hello", messages])
    (call,) = recorded(record, "chat")
    chat = [
        "<system> Be brief. <user> Q: hello <assistant>",
        "<system> Be brief. <user> Q: a <assistant> a longer one <assistant>",
    ]
    assert call["texts"] == chat
    (model / "plain").touch()
    cut, _ = ask(load(**settings), ["hello", messages])
    (call,) = recorded(record, "generate")
    assert call["texts"] == ["Be brief.\n\nQ: hello", "Be brief.\n\nQ: a\n\na longer one"]
    assert cut == Response("Be brief. Q: hello", "length", 5, 4, cached_tokens=2)


def test_sampling_parameters_and_the_rows_own_seeds(load: Callable[..., VllmGenerator], record: Path) -> None:
    big = 2**63 - 1
    generation = {**SAMPLED, "max_new_tokens": 9, "stop": ["\n", "<end>"]}
    responses = load(generation=generation).generate(["a", "bb", "ccc"], [7, big, 0])
    assert [(response.text or "").split()[-1] for response in responses] == ["seed=7", f"seed={big}", "seed=0"]
    load().generate(["a"], [7])
    sampled, greedy = (call["params"][0] for call in recorded(record, "chat"))
    assert {name: sampled[name] for name in SAMPLED} == SAMPLED
    assert (sampled["max_tokens"], sampled["stop"], sampled["stop_token_ids"]) == (9, ["\n", "<end>"], [7])
    assert (greedy["temperature"], greedy["seed"], greedy["top_k"], greedy["stop"]) == (0, None, 0, [])


@pytest.mark.parametrize(
    ("response_format", "field", "value"),
    [
        ({"type": "json_object"}, "json_object", True),
        (
            {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}},
            "json",
            {"type": "object"},
        ),
    ],
)
def test_structured_output(
    load: Callable[..., VllmGenerator], record: Path, response_format: Any, field: str, value: Any
) -> None:
    ask(load(response_format=response_format), ["hello"])
    structured = recorded(record, "chat")[0]["params"][0]["structured_outputs"]
    assert {name: given for name, given in structured.items() if given} == {field: value}


def test_engine_arguments(load: Callable[..., VllmGenerator], record: Path) -> None:
    load()
    load(
        dtype="bfloat16",
        quantization="fp8",
        trust_remote_code=True,
        tensor_parallel=2,
        engine={"max_model_len": 32, "gpu_memory_utilization": 0.5, "load_format": "mistral"},
    )
    default, other = recorded(record, "load")
    assert default["arguments"] == {
        "dtype": "auto",
        "quantization": None,
        "tensor_parallel_size": 1,
        "trust_remote_code": False,
        "gpu_memory_utilization": 0.92,
        "load_format": "safetensors",
        "enable_prefix_caching": True,
    }
    assert (default["gpus"], default["logging"], default["heavy"]) == (None, "ERROR", [])
    assert other["arguments"] == default["arguments"] | {
        "dtype": "bfloat16",
        "quantization": "fp8",
        "tensor_parallel_size": 2,
        "trust_remote_code": True,
        "gpu_memory_utilization": 0.5,
        "load_format": "mistral",
        "max_model_len": 32,
    }


def test_an_adapter(load: Callable[..., VllmGenerator], record: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    with pytest.raises(InputError, match="is no LoRA adapter: it has no adapter_model"):
        load(adapter=str(adapter))
    (adapter / "adapter_model.safetensors").touch()
    (adapter / "adapter_config.json").write_text('{"r": 24, "rank_pattern": {"q_proj": 40}}')
    ask(load(adapter=str(adapter)), ["hello"])
    arguments = recorded(record, "load")[0]["arguments"]
    assert (arguments["enable_lora"], arguments["max_lora_rank"]) == (True, 64)
    lora = recorded(record, "chat")[0]["lora"]
    assert (lora["lora_int_id"], lora["lora_path"]) == (1, str(adapter))
    with pytest.raises(InputError, match=r"the adapter directory '\./none' does not exist"):
        load(adapter="./none")
    with pytest.raises(InputError, match="cannot load the adapter 'me/broken': Call to add_lora method failed"):
        load(adapter="me/broken")


def test_seeds_on_a_cpu_need_whole_prompts(
    load: Callable[..., VllmGenerator], record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_CPU", "1")
    load()
    load(generation=SAMPLED)
    greedy, seeded = (loaded["arguments"].get("enable_chunked_prefill") for loaded in recorded(record, "load"))
    assert (greedy, seeded) == (None, False)
    with pytest.raises(InputError, match=r"^engine\.enable_chunked_prefill: on a CPU, vLLM cannot sample by seeds"):
        load(generation=SAMPLED, engine={"enable_chunked_prefill": True})


def test_bad_rows_do_not_take_the_others_along(load: Callable[..., VllmGenerator], record: Path) -> None:
    odd: Prompt = [{"role": "tool", "content": "hello"}]
    words = " ".join(["word"] * 43)
    prompts: list[Prompt] = ["a", odd, words, "please RAISE", "b", "ABORT", "c", words[5:], "d RAISE", "e \ud83d"]
    responses = ask(load(), prompts)
    bad = ["bad_chat", "too_long", *["model_error"] * 4]
    assert [kind for kind in kinds(responses) if kind] == bad
    texts = [(response.text or "").split()[1:2] for response in responses]
    assert texts == [["a"], [], [], [], ["b"], [], ["c"], ["word"], [], []]
    assert responses[-1].error == "the tokenizer cannot read the prompt: it holds half of a surrogate pair"
    assert responses[1].error == "the chat template refused it: unknown role: tool"
    assert responses[2].error == "45 prompt tokens + 20 new ones do not fit the model's context of 64"
    assert responses[2].input_tokens == 45
    assert responses[3].error == "ValueError: this prompt is not to vLLM's taste"
    assert responses[5].error == "vLLM ended the response with the reason 'abort'"
    assert len(recorded(record, "load")) == 1


def test_an_empty_prompt_of_a_plain_model(load: Callable[..., VllmGenerator], model: Path) -> None:
    (model / "plain").touch()
    # The stand-in's tokenizer puts a token in front, as many do.
    assert kinds(ask(load(), ["", "a"])) == [None, None]


@pytest.mark.parametrize("deadly", ["DIE now", "KILL now"])
@pytest.mark.parametrize("position", [0, 3, 5])
def test_a_row_that_kills_vllm_ends_alone(
    load: Callable[..., VllmGenerator], record: Path, deadly: str, position: int
) -> None:
    prompts = ["a", "b", "c", "d", "e"]
    prompts.insert(position, deadly)
    generator = load()
    responses = ask(generator, prompts)
    assert [(response.text or "").split()[1:2] for response in responses] == [
        [] if prompt == deadly else [prompt] for prompt in prompts
    ]
    what = "RuntimeError: CUDA error: device-side assert triggered" if "DIE" in deadly else "signal 9 ended it"
    assert (responses[position].error_type, responses[position].error) == ("model_error", f"vLLM died of it: {what}")
    assert ask(generator, ["again"])[0].error_type is None
    # Every process is gone but those of the last.
    *before, last = recorded(record, "load")
    assert not any(running(load[process]) for load in before for process in ("pid", "core"))
    assert running(last["pid"])


def test_two_rows_that_kill_vllm(load: Callable[..., VllmGenerator]) -> None:
    responses = ask(load(), ["DIE", "a", "b", "DIE"])
    assert kinds(responses) == ["model_error", None, None, "model_error"]


def test_a_death_that_no_row_is_to_blame_for(load: Callable[..., VllmGenerator], record: Path) -> None:
    generator = load()
    os.kill(recorded(record, "load")[0]["pid"], signal.SIGKILL)
    assert kinds(ask(generator, ["a", "b"])) == [None, None]
    assert len(recorded(record, "load")) == 2


def test_an_engine_that_is_killed_while_its_worker_waits_for_it(
    load: Callable[..., VllmGenerator], record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_LAST_WORDS", 0.1)
    generator = load()
    loading = generator.load_seconds
    (response,) = ask(generator, ["HANG"])
    assert response.error == "vLLM died of it: its process VLLM::EngineCore ended"
    *before, _ = recorded(record, "load")
    assert not any(running(load[process]) for load in before for process in ("pid", "core"))
    about, again, _ = generator.notes
    assert about.startswith("vLLM 0.33.0 with torch ")
    assert about.endswith(f", in {sys.executable}")
    assert again.startswith("vLLM died: its process VLLM::EngineCore ended; it was started again in ")
    assert generator.load_seconds > loading


def test_vllm_that_dies_and_cannot_be_loaded_again(load: Callable[..., VllmGenerator], model: Path) -> None:
    generator = load()
    (model / "config.json").unlink()
    with pytest.raises(StoppedError, match=r"vLLM died, and then: cannot load the model .*; fix it and run again"):
        ask(generator, ["a", "DIE"])


def test_vllm_that_dies_of_everything_stops_the_run(
    load: Callable[..., VllmGenerator], record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_DIES", "1")
    generator = load()
    with pytest.raises(StoppedError) as stopped:
        ask(generator, ["the secret prompt", "another"])
    assert "died three times in a row" in str(stopped.value)
    assert "device-side assert triggered; fix it and run again" in str(stopped.value)
    assert "secret" not in str(stopped.value)
    assert len(recorded(record, "chat")) == len(recorded(record, "load")) == 3
    assert not any(running(load["core"]) for load in recorded(record, "load"))


def test_copies_have_gpus_of_their_own_and_share_the_work(
    load: Callable[..., VllmGenerator], record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    generator = load(data_parallel=2, tensor_parallel=2)
    assert generator.rows_at_a_time == 2 * 4096
    loads = recorded(record, "load")
    assert sorted(load["gpus"] for load in loads) == ["0,1", "2,3"]
    assert {load["arguments"]["tensor_parallel_size"] for load in loads} == {2}
    prompts = ["x" * length for length in (1, 9, 2, 8, 3, 7, 4, 6, 5)]
    responses = ask(generator, [*prompts, "DIE"])
    assert [response.text and response.text.split()[1] for response in responses] == [*prompts, None]
    calls = recorded(record, "chat")
    assert [len(call["texts"]) for call in calls[:2]] == [5, 5]
    lengths = [sum(len(text) for text in call["texts"]) for call in calls[:2]]
    assert abs(lengths[0] - lengths[1]) <= 9
    assert ask(generator, ["one"])[0].error_type is None


def test_rows_that_begin_alike_are_answered_by_one_copy_one_after_another() -> None:
    documents = ["a river " * 50, "the stone " * 40]
    prompts: list[Prompt] = [documents[number % 2] + str(number) for number in range(6)]
    chat: list[Prompt] = [[{"role": "user", "content": prompt}] for prompt in prompts]
    for asked in (prompts, chat):
        rows = [Row(number, prompt, 0) for number, prompt in enumerate([*asked, "a", "bc", "def"])]
        one, other = ([row.index for row in share] for share in shares_of(rows, 2))
        assert sorted([*one, *other]) == [*range(9)]
        assert [number for number in one if number < 6] == [1, 3, 5]
        assert [number for number in other if number < 6] == [0, 2, 4]
    # One document for all is what all share: the work is dealt out as it is without.
    same = [Row(number, documents[0] + str(number), 0) for number in range(7)]
    assert [len(share) for share in shares_of(same, 2)] == [4, 3]


def test_too_few_gpus(load: Callable[..., VllmGenerator], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(InputError, match="data_parallel 2 with 2 GPUs a copy needs 4 GPUs, and 3 are visible"):
        load(data_parallel=2, tensor_parallel=2)


def test_close_ends_all_processes(load: Callable[..., VllmGenerator], record: Path) -> None:
    generator = load()
    (loaded,) = recorded(record, "load")
    assert running(loaded["pid"])
    assert running(loaded["core"])
    generator.close()
    assert not running(loaded["pid"])
    assert not running(loaded["core"])
    generator.close()


def test_close_while_it_answers(load: Callable[..., VllmGenerator], record: Path) -> None:
    generator = load()
    (loaded,) = recorded(record, "load")
    ended: list[BaseException] = []

    def answer() -> None:
        try:
            ask(generator, ["SLEEP"])
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=answer)
    thread.start()
    wait_until(lambda: bool(recorded(record, "chat")))
    generator.close()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(ended[0], StoppedError)
    assert not running(loaded["pid"])
    assert not running(loaded["core"])
    assert len(recorded(record, "load")) == 1


PARENT = """
import sys
from batchroute.generators.settings import ModelSpec
from batchroute.generators.vllm.generator import VllmGenerator
generator = VllmGenerator(ModelSpec(backend="vllm", model=sys.argv[1], generation={"max_new_tokens": 8}))
generator.generate([sys.argv[2]], [0])
print("answered", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("prompt", ["idle", "SLEEP"])
def test_no_process_outlives_a_parent_that_was_killed(model: Path, record: Path, prompt: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(model), prompt], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        wait_until(lambda: bool(recorded(record, "chat")))
        if prompt == "idle":
            assert parent.stdout is not None
            assert parent.stdout.readline() == b"answered\n"
        parent.kill()
    (loaded,) = recorded(record, "load")
    wait_until(lambda: not running(loaded["pid"]) and not running(loaded["core"]))


def test_signals_to_the_group_of_the_parent_do_not_reach_the_worker(
    load: Callable[..., VllmGenerator], record: Path
) -> None:
    generator = load()
    (loaded,) = recorded(record, "load")
    assert os.getpgid(loaded["pid"]) == loaded["pid"] != os.getpgrp()
    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(loaded["pid"], signum)
    assert ask(generator, ["a"])[0].error_type is None


def test_a_missing_package(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(STAND_IN)])
    monkeypatch.setattr(subprocess, "Popen", None)
    with pytest.raises(InputError, match=r"the backend vllm needs a package: pip install 'batchroute\[vllm\]'"):
        VllmGenerator(spec(model))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"engine": {"max_modle_len": 8}}, "with vLLM: engine.max_modle_len is no argument of vLLM's LLM$"),
        ({"quantization": "too-large"}, "with vLLM: torch.OutOfMemoryError: CUDA out of memory.$"),
        ({"engine": {"max_model_len": 20}}, "^generation.max_new_tokens is 20, but the model .* has a context of 20"),
        (
            {"engine": {"max_num_seqs": 2, "runner": "x", "hf_token": 1, "model": "y", "z": 0}},
            "engine.z is no argument",
        ),
    ],
)
def test_what_vllm_cannot_load_is_one_sentence(
    load: Callable[..., VllmGenerator], record: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        load(**settings)
    assert "\n" not in str(error.value)
    assert not any(running(load["pid"]) for load in recorded(record, "load"))


def test_a_worker_that_ends_while_it_loads(
    load: Callable[..., VllmGenerator], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    broken = tmp_path / "broken" / "vllm"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("import os\nos._exit(3)\n")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with pytest.raises(InputError, match="with vLLM: it ended with exit status 3"):
        load()


def test_vllm_that_is_killed_while_it_loads_stops_the_run(load: Callable[..., VllmGenerator]) -> None:
    with pytest.raises(StoppedError, match=r"vLLM was killed while it loaded the model '.*': signal 9 ended it; see"):
        load(quantization="killed")


def test_a_source_of_batchroute_that_was_changed_meanwhile(
    load: Callable[..., VllmGenerator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batchroute, "__version__", "0.0.9")
    with pytest.raises(InputError, match=r"batchroute was 0\.0\.9 when the run started, and is .* now: run again"):
        load()


def test_nothing_is_printed(load: Callable[..., VllmGenerator], capfd: pytest.CaptureFixture[str]) -> None:
    with closing(load()) as generator:
        ask(generator, ["a", "DIE"])
    assert capfd.readouterr() == ("", "")


def test_vllm_is_heard_where_its_logging_is_asked_for(
    load: Callable[..., VllmGenerator], capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "INFO")
    load().close()
    assert "a chatty line" in capfd.readouterr().err


def test_log_probabilities_are_the_models_own_and_those_of_the_text(
    load: Callable[..., VllmGenerator], record: Path
) -> None:
    generator = load(confidence={}, generation={"stop": ["STOP"]})
    whole, cut = ask(generator, ["b c", "one STOP two"])
    (started,) = recorded(record, "load")
    assert started["arguments"]["logprobs_mode"] == "raw_logprobs"
    assert [params["logprobs"] for call in recorded(record, "chat") for params in call["params"]] == [0, 0]
    # <user> b c <assistant> seed=None: the log-probability of a token is minus a tenth of its place.
    assert whole.logprob == pytest.approx(-0.2)
    assert whole.logprob_low == pytest.approx(-0.36)
    assert cut.text == "<user> one "
    # The text ends in a space, which belongs to the token of the stop string here.
    assert cut.logprob == pytest.approx(-0.1)


def test_without_confidence_vllm_is_not_asked_for_log_probabilities(
    load: Callable[..., VllmGenerator], record: Path
) -> None:
    (response,) = ask(load(), ["b"])
    assert response.logprob is None
    assert "logprobs_mode" not in recorded(record, "load")[0]["arguments"]
    assert recorded(record, "chat")[0]["params"][0]["logprobs"] is None


def test_extra_samples_have_seeds_and_a_temperature_of_their_own(
    load: Callable[..., VllmGenerator], record: Path
) -> None:
    generator = load(confidence={"samples": 2})
    (first, second), (third,) = generator.sample(["b", "c"], [[7, 8], [9]])
    assert [one.text for one in (first, second, third)] == [
        "<user> b <assistant> seed=7",
        "<user> b <assistant> seed=8",
        "<user> c <assistant> seed=9",
    ]
    assert (first.input_tokens, second.input_tokens, third.input_tokens) == (3, 0, 3)
    (params, *others) = recorded(record, "chat")[0]["params"]
    assert (params["temperature"], params["logprobs"], params["n"]) == (0.7, None, 1)
    assert len(others) == 2

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from batchroute.config import job as spec
from batchroute.config import loading
from batchroute.errors import InputError

GOOD = """\
name: nightly
input: {uri: prompts, prompt: prompt}
output: {uri: answers}
router: {model: models/router}
policy: {small_share: 60%}
models:
  small: {backend: echo, price: {gpu_hour: 2.10}}
  large: {backend: echo, price: {input: 0.15, output: 1.5}}
"""


def load(folder: Path, text: str = GOOD, *overrides: str) -> spec.Job:
    path = folder / "job.yaml"
    path.write_text(text, encoding="utf-8")
    return loading.load(str(path), overrides)


def problems(folder: Path, text: str = GOOD, *overrides: str) -> list[str]:
    """The lines of the error, without the path of the job file in front."""
    with pytest.raises(InputError) as caught:
        load(folder, text, *overrides)
    assert caught.value.exit_code == 2
    return [line.removeprefix(f"{folder}/job.yaml").removeprefix(": ") for line in str(caught.value).splitlines()]


def test_a_good_job_file_is_read(tmp_path: Path) -> None:
    job = load(tmp_path)
    assert job.name == "nightly"
    assert job.models.of("small").price is not None
    assert job.models.of("large").price is not None
    assert job.models.large.price.input == Decimal("0.15")
    assert job.max_failed == Decimal("0.01")


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("policy:", "polcy:", "polcy: unknown key; did you mean 'policy'?"),
        ("prompt: prompt", "promt: prompt", "input.promt: unknown key; did you mean 'prompt'?"),
        ("small_share", "smal_share", "policy.smal_share: unknown key; did you mean 'small_share'?"),
        ("gpu_hour", "gpu_hours", "models.small.price.gpu_hours: unknown key; did you mean 'gpu_hour'?"),
        (
            "large: {backend: echo,",
            "large: {backend: echo, generation: {max_tokens: 5},",
            "models.large.generation.max_tokens: unknown key; did you mean 'max_new_tokens'?",
        ),
        (
            "output: {uri: answers}",
            "output: {uri: answers, zzzzz: 1}",
            "output.zzzzz: unknown key; known here: uri, storage_options, single_writer, keep_work, prefix, columns, "
            "table",
        ),
    ],
)
def test_an_unknown_key_is_named_with_its_place_and_its_neighbour(
    tmp_path: Path, old: str, new: str, sentence: str
) -> None:
    assert sentence in problems(tmp_path, GOOD.replace(old, new, 1))


@pytest.mark.parametrize("old", ["router: {model: models/router}\n", "policy: {small_share: 60%}\n"])
def test_a_missing_section_is_named(tmp_path: Path, old: str) -> None:
    (problem,) = problems(tmp_path, GOOD.replace(old, ""))
    # Whether a router is needed depends on the policy, which the sentence says.
    assert problem.startswith(("policy: missing", "router is missing: a policy that decides before"))
    assert problem.split(":")[0].split()[0] == old.split(":")[0]


def test_a_missing_key_is_named_with_its_section(tmp_path: Path) -> None:
    assert problems(tmp_path, GOOD.replace("{uri: answers}", "{prefix: br_}")) == ["output.uri: missing"]


def test_every_problem_has_a_line_of_its_own(tmp_path: Path) -> None:
    text = GOOD.replace("{uri: answers}", "{}").replace("model: models/router", "model: r, max_length: 2")
    sentences = problems(tmp_path, text)
    assert sentences[0] == "output.uri: missing"
    assert sentences[1].startswith("router.max_length: ")
    assert sentences[1].endswith("(it is 2)")
    assert len(sentences) == 2


def test_a_backend_that_loads_a_model_needs_its_name(tmp_path: Path) -> None:
    sentences = problems(tmp_path, GOOD.replace("small: {backend: echo", "small: {backend: transformers"))
    assert sentences == [
        "models.small: model is missing: name a directory, a hub id, embedded:NAME, or the endpoint's model"
    ]


@pytest.mark.parametrize(
    ("environment", "written", "read"),
    [
        ({"DAY": "monday"}, "a/${DAY}/b", "a/monday/b"),
        ({"DAY": "monday"}, "${DAY}${DAY}", "mondaymonday"),
        ({}, "${DAY:-sunday}", "sunday"),
        ({"DAY": "monday"}, "${DAY:-sunday}", "monday"),
        ({"DAY": ""}, "${DAY:-sunday}", "sunday"),
        ({"DAY": ""}, "a${DAY}b", "ab"),
        ({}, "a${DAY:-}b", "ab"),
        ({"OTHER": "friday"}, "${DAY:-${OTHER}}", "friday"),
        ({"OTHER": "friday"}, "${DAY:-x/${OTHER}/y}", "x/friday/y"),
        ({}, "${DAY:-${OTHER:-friday}}", "friday"),
        ({}, "${DAY:-costs $5}", "costs $5"),
        ({"DAY": "monday"}, "$${DAY}", "${DAY}"),
        ({"DAY": "monday"}, "$DAY {prompt} $5", "$DAY {prompt} $5"),
        ({"DAY": "${OTHER}"}, "${DAY}", "${OTHER}"),
    ],
)
def test_variables_are_replaced_as_in_a_shell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], written: str, read: str
) -> None:
    for name in ("DAY", "OTHER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    tree = yaml.safe_load(GOOD)
    tree["output"]["uri"] = written
    assert load(tmp_path, yaml.safe_dump(tree)).output.uri == read


@pytest.mark.parametrize("written", ["${UNSET_DAY}", "${UNSET_DAY}/x", "${UNSET_OTHER:-${UNSET_DAY}}"])
def test_an_unset_variable_is_named_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str) -> None:
    monkeypatch.delenv("UNSET_DAY", raising=False)
    sentences = problems(tmp_path, GOOD.replace("{uri: answers}", f'{{uri: "{written}"}}'))
    assert sentences == [
        "output.uri: the environment variable UNSET_DAY is not set; set it, or write ${UNSET_DAY:-default}"
    ]


def test_variables_in_lists_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEAM", "support")
    job = load(tmp_path, GOOD + 'report: {group_by: ["${TEAM}", day]}\n')
    assert job.report.group_by == ["support", "day"]


def test_set_overrides_a_value_with_its_yaml_type(tmp_path: Path) -> None:
    job = load(
        tmp_path,
        GOOD,
        "name=other",
        "models.small.generation.max_new_tokens=7",
        "models.small.generation.stop=[a, b]",
        "models.large.price={gpu_hour: 3}",
        "input.id=null",
        "output.uri=a=b",
    )
    assert job.name == "other"
    assert job.models.small.generation.max_new_tokens == 7
    assert job.models.small.generation.stop == ["a", "b"]
    assert job.models.large.price is not None
    assert job.models.large.price.gpu_hour == 3
    assert job.input.id is None
    assert job.output.uri == "a=b"


def test_set_expands_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAY", "monday")
    assert load(tmp_path, GOOD, "output.uri=a/${DAY}").output.uri == "a/monday"


def test_set_of_a_policy_replaces_the_other_one(tmp_path: Path) -> None:
    policy = load(tmp_path, GOOD, "policy.threshold=0.4").policy
    assert policy.threshold == 0.4
    assert policy.small_share is None


def test_the_last_set_of_a_policy_wins(tmp_path: Path) -> None:
    policy = load(tmp_path, GOOD, "policy.threshold=0.4", "policy.small_share=10%").policy
    assert policy.threshold is None
    assert policy.small_share == Decimal("0.1")


@pytest.mark.parametrize(
    ("override", "part"),
    [
        ("threshold", "write it as key=value"),
        ("=3", "write it as key=value"),
        ("name.x=3", "'name' is not a section"),
        ("name=[", "the value is not valid YAML"),
        ("name=2026-13-01", "the value is not valid YAML"),
        ("units={score: 1, score: 2}", "the value is not valid YAML, or has a key twice"),
        ("models.smal.price=3", "models.smal: unknown key; did you mean 'small'?"),
    ],
)
def test_a_bad_override_is_explained(tmp_path: Path, override: str, part: str) -> None:
    assert any(part in line for line in problems(tmp_path, GOOD, override))


@pytest.mark.parametrize("policy", ["{}", "{threshold: 0.5, small_share: 50%}", "{threshold: null}"])
def test_exactly_one_policy_is_wanted(tmp_path: Path, policy: str) -> None:
    sentences = problems(tmp_path, GOOD.replace("{small_share: 60%}", policy))
    assert len(sentences) == 1
    assert sentences[0].startswith("policy: give exactly one of threshold, small_share")


@pytest.mark.parametrize(
    ("written", "share"),
    [
        ("60%", "0.6"),
        ("0.6", "0.6"),
        ('"0.6"', "0.6"),
        ("0.1", "0.1"),
        ("12.5%", "0.125"),
        ('" 60 % "', "0.6"),
        ("0", "0"),
        ("0%", "0"),
        ("1", "1"),
        ("100%", "1"),
    ],
)
def test_a_share_is_exact_however_it_is_written(tmp_path: Path, written: str, share: str) -> None:
    job = load(tmp_path, GOOD.replace("60%", written))
    assert job.policy.small_share == Decimal(share)


@pytest.mark.parametrize(
    "written", ["60", "101%", "-1%", "sixty", "60 percent", "'%'", ".nan", ".inf", '"nan%"', "[1]"]
)
@pytest.mark.parametrize("key", ["policy.small_share", "max_failed"])
def test_a_bad_share_is_refused_by_its_key(tmp_path: Path, key: str, written: str) -> None:
    sentences = problems(tmp_path, GOOD, f"{key}={written}")
    assert len(sentences) == 1
    assert sentences[0].startswith(f"{key}: ")


@pytest.mark.parametrize("written", ["-0.1", ".nan", "high"])
def test_a_bad_threshold_is_refused(tmp_path: Path, written: str) -> None:
    sentences = problems(tmp_path, GOOD, f"policy.threshold={written}")
    assert len(sentences) == 1
    assert sentences[0].startswith("policy.threshold: ")


@pytest.mark.parametrize(
    ("price", "part"),
    [
        ("{}", "price: empty"),
        ("{input: 1}", "price: a price by token needs both input and output"),
        ("{output: 1}", "price: a price by token needs both input and output"),
        ("{input: 1, output: 2, gpu_hour: 3}", "price: give input and output, or gpu_hour, not both"),
        ("{gpu_hour: -1}", "price.gpu_hour: "),
        ("{gpu_hour: 0.0000001}", "price.gpu_hour: "),
        ("{gpu_hour: .inf}", "price.gpu_hour: "),
        ("{gpu_hour: cheap}", "price.gpu_hour: "),
    ],
)
def test_a_bad_price_is_refused(tmp_path: Path, price: str, part: str) -> None:
    sentences = problems(tmp_path, GOOD, f"models.small.price={price}")
    assert len(sentences) == 1
    assert sentences[0].startswith(f"models.small.{part}")


def test_a_price_of_zero_is_a_price(tmp_path: Path) -> None:
    price = load(tmp_path, GOOD, "models.small.price={input: 0, output: 0}").models.small.price
    assert price is not None
    assert price.by_token


@pytest.mark.parametrize("template", ["no place", "{prompt} and {prompt}", "{ prompt }"])
def test_a_template_has_one_place_for_the_prompt(tmp_path: Path, template: str) -> None:
    sentences = problems(tmp_path, GOOD, f"models.small.template='{template}'")
    assert sentences == ["models.small.template: must contain {prompt} exactly once, where the prompt goes"]


def test_one_stop_string_is_a_list_of_one_and_an_empty_one_is_refused(tmp_path: Path) -> None:
    assert load(tmp_path, GOOD, "models.small.generation.stop=END").models.small.generation.stop == ["END"]
    sentences = problems(tmp_path, GOOD, "models.small.generation.stop=['']")
    assert sentences == ["models.small.generation.stop: an empty stop string would end every response at once"]


def test_a_yaml_error_names_its_line(tmp_path: Path) -> None:
    sentences = problems(tmp_path, "name: a\ninput: {uri: [}\n")
    assert len(sentences) == 1
    assert sentences[0].startswith(" line 2: not valid YAML: ")


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words\n", "null\n"])
def test_a_job_file_is_a_mapping(tmp_path: Path, text: str) -> None:
    sentences = problems(tmp_path, text)
    assert len(sentences) == 1
    assert sentences[0].startswith("a job file is a mapping with the keys name, input, output")


@pytest.mark.parametrize("section", ["input", "policy", "models", "report"])
@pytest.mark.parametrize("value", ["3", "[a]", "text"])
def test_a_section_is_a_mapping(tmp_path: Path, section: str, value: str) -> None:
    sentences = problems(tmp_path, GOOD, f"{section}={value}")
    assert len(sentences) == 1
    assert sentences[0].startswith(f"{section}: ")


def test_an_empty_section_has_its_defaults(tmp_path: Path) -> None:
    text = GOOD.replace("prompt: prompt", "prompt: prompt, storage_options:")
    empty = "report:\nunits:\nray:\nprices:\nnotify:\n"
    assert load(tmp_path, text + empty) == load(tmp_path)
    assert load(tmp_path, GOOD + "ray: {small:}\n").ray == load(tmp_path).ray
    assert load(tmp_path, GOOD + empty, "report.group_by=[team]").report.group_by == ["team"]


@pytest.mark.parametrize(
    ("section", "sentence"),
    [
        ("output", "output: the section is empty; it needs uri"),
        ("models", "models: the section is empty; it needs small and large"),
        ("models.large", "models.large: the section is empty; it needs backend"),
        ("policy", "policy: the section is empty; its keys are threshold, small_share"),
    ],
)
def test_an_empty_section_that_the_job_needs_is_one_sentence(tmp_path: Path, section: str, sentence: str) -> None:
    (problem,) = problems(tmp_path, GOOD, f"{section}=null")
    assert problem.startswith(sentence)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("policy.calibrate=true", "policy.calibrate: should be a section, not True; it needs metric"),
        (
            "report.audit={share: 1%, metric: [rouge]}",
            "report.audit.metric: should be a section, not ['rouge']; it needs",
        ),
        ("report.audit={share: 1%, metric: {nmae: x}}", "report.audit.metric.nmae: unknown key; did you mean 'name'?"),
        ("policy={threshold: 1, decide: after, signals: []}", "policy.signals: is empty: name at least 1, or leave it"),
    ],
)
def test_a_setting_of_another_kind_is_one_sentence(tmp_path: Path, override: str, sentence: str) -> None:
    assert any(problem.startswith(sentence) for problem in problems(tmp_path, GOOD, override))


def test_a_metric_without_settings_may_be_its_name_alone(tmp_path: Path) -> None:
    audit = load(tmp_path, GOOD, "report.audit={share: 1%, metric: rouge}").report.audit
    assert audit is not None
    assert audit.metric is not None
    assert audit.metric.name == "rouge"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (GOOD + "policy: {threshold: 0.5}\n", " line 9: the key 'policy' is there already, on line 5"),
        (GOOD.replace("{small_share", "{small_share: 50%, small_share"), " line 5: the key 'small_share' is there"),
    ],
)
def test_a_key_that_is_there_twice_is_refused_with_its_line(tmp_path: Path, text: str, sentence: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(sentence)
    assert problem.endswith(": keep one of the two")


def test_an_unreadable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read the job file .*absent\.yaml: No such file or directory"):
        loading.load(str(tmp_path / "absent.yaml"))
    with pytest.raises(InputError, match=r"cannot read the job file .*: Is a directory"):
        loading.load(str(tmp_path))
    (tmp_path / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InputError, match="not UTF-8 text"):
        loading.load(str(tmp_path / "latin.yaml"))


@pytest.mark.parametrize("groups", ["[rows]", "[failed]", "[route]", "[cost]", "[name]", "[model]", "[team, team]"])
def test_a_group_that_the_table_of_costs_has_as_a_column_is_refused(tmp_path: Path, groups: str) -> None:
    sentences = problems(tmp_path, GOOD, f"report.group_by={groups}")
    assert len(sentences) == 1
    assert sentences[0].startswith("report.group_by: ")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{n: 3}", "n is 3, but one answer of each row is kept: leave it out, or ask for extra samples by"),
        ("{best_of: 2}", "best_of is 2, but one answer of each row is kept"),
        ("{stream: true}", "stream is true, but answers are read whole: leave it out"),
        ("{messages: []}", "messages would replace the prompt of every row: use template and system"),
    ],
)
def test_fields_of_requests_that_would_make_other_answers_are_refused(tmp_path: Path, body: str, words: str) -> None:
    (problem,) = problems(tmp_path, GOOD.replace("large: {", f"large: {{extra_body: {body}, "))
    assert problem.startswith(f"models.large.extra_body: {words}")


def test_one_answer_to_a_row_may_be_asked_for_in_so_many_words(tmp_path: Path) -> None:
    job = load(tmp_path, GOOD.replace("large: {", "large: {extra_body: {n: 1, stream: false}, "))
    assert not job.models.large.gives_tools

"""The pages: what they link to is there, and what they tell a reader to type, batchroute takes.

No command of a page is executed: it is parsed by the command line that it is for, a job file is loaded, and a script is
looked at for the options that a page gives it. One small job shows whether a work folder is as the page shows it.
"""

from __future__ import annotations

import functools
import itertools
import re
import shlex
import tomllib
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest
import typer
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from batchroute import cli, errors
from batchroute.config import loading
from batchroute.config.job import Job
from batchroute.costs.price_lists import PriceList
from batchroute.pipeline.run import run
from batchroute.progress import PlainProgress
from tests.cli.test_surface import COMMANDS, JOB_KEYS, RESULT_COLUMNS
from tests.support.tiny_models import tiny_router

ROOT = Path(__file__).parents[2]
MOST_LINES = 250
MOST_FILES = 24
TOP = ("batchroute", "jobs", "tests", "sample_data")
# Of what a page may name without its being there: made by commands, or by whoever follows the page.
MADE = ("jobs/demo-output",)

BASE = """
input: {uri: /data/prompts/*.parquet, id: id, prompt: prompt}
output: {uri: /data/answers}
router: {model: models/router}
policy: {threshold: 0.5}
models: {small: {backend: echo}, large: {backend: echo}}
"""


def pages() -> list[Path]:
    folders = [ROOT, *(path for top in TOP for path in (ROOT / top).rglob("*") if path.is_dir())]
    folders += [ROOT / top for top in TOP]
    return sorted(page for folder in folders for page in folder.glob("*.md") if page.stem.isupper())


def shown(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


PAGES = pages()
NAMES = [shown(page) for page in PAGES]


def tokens(text: str) -> list[Token]:
    """All tokens of a page, those inside of paragraphs and tables among them."""
    flat: list[Token] = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        flat += [token, *(token.children or [])]
    return flat


class Block(NamedTuple):
    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{shown(self.page)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all pages in these languages; without a language those of none, indented ones among them."""
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for page in PAGES
        for token in tokens(page.read_text())
        if token.type in ("fence", "code_block") and token.map is not None
        if token.info.strip() in (languages or ("",))
    ]


def inline(page: Path) -> list[str]:
    return [token.content for token in tokens(page.read_text()) if token.type == "code_inline"]


# Links


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: set[str] = set()
    flat = tokens(text)
    for heading, content in itertools.pairwise(flat):
        if heading.type == "heading_open":
            words = "".join(child.content for child in content.children or [])
            slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
            numbered = itertools.chain([slug], (f"{slug}-{number}" for number in itertools.count(1)))
            found.add(next(anchor for anchor in numbered if anchor not in found))
    return found


def broken_links(page: Path, text: str) -> list[str]:
    found = []
    links = [str(token.attrs["href"]) for token in tokens(text) if token.type == "link_open"]
    links += [str(token.attrs["src"]) for token in tokens(text) if token.type == "image"]
    for link in links:
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.is_relative_to(ROOT) or not target.exists():
            found.append(f"{link}: nothing is there")
        elif anchor and anchor not in anchors(text if target == page else target.read_text()):
            found.append(f"{link}: the page has no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_link_leads_somewhere(page: Path) -> None:
    assert broken_links(page, page.read_text()) == []


def test_a_broken_link_and_a_broken_anchor_are_noticed() -> None:
    text = "# A page\n\n[a](jobs/NONE.md) [b](#another) [c](#a-page) [d](jobs/README.md#nothing) [e](https://x.org)\n"
    assert broken_links(ROOT / "README.md", text) == [
        "jobs/NONE.md: nothing is there",
        "#another: the page has no such heading",
        "jobs/README.md#nothing: the page has no such heading",
    ]


def test_every_page_can_be_reached_from_the_first_one() -> None:
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in reached:
            continue
        reached.add(page)
        links = [str(t.attrs["href"]) for t in tokens(page.read_text()) if t.type == "link_open"]
        targets = [(page.parent / link.partition("#")[0]).resolve() for link in links if "://" not in link]
        waiting += [target for target in targets if target.suffix == ".md"]
    assert {shown(page) for page in PAGES if page.name == "README.md"} - {shown(page) for page in reached} == set()


# What is on the pages


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent != ROOT], ids=str)
def test_a_page_opens_with_what_it_answers(page: Path) -> None:
    title, after, opening = page.read_text().split("\n", 2)
    assert title.startswith("# ")
    assert after == ""
    assert opening.startswith("This page answers: ")


def test_the_first_page_has_every_command_exit_code_and_result_column() -> None:
    text, code = (ROOT / "README.md").read_text(), inline(ROOT / "README.md")
    commands = [name for name in COMMANDS if name not in ("batchroute", "batchroute models", "batchroute tables")]
    assert [name for name in commands if not any(f"{words} ".startswith(f"{name} ") for words in code)] == []
    assert [column for column in RESULT_COLUMNS if column not in code] == []
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    rows = re.findall(r"^\| ([\d, ]+) \|", text, re.MULTILINE)
    assert {int(number) for row in rows for number in row.split(",")} == codes


def test_the_page_of_jobs_has_every_key() -> None:
    page = ROOT / "jobs" / "README.md"
    words = set(re.findall(r"\w+", " ".join([*inline(page), *(b.text for b in blocks("yaml") if b.page == page)])))
    assert [key for key in JOB_KEYS if not set(key.split(".")) <= words] == []


def test_the_way_of_a_row_is_short() -> None:
    way = (
        (ROOT / "batchroute" / "README.md").read_text().partition("## The way of a row")[2].partition("\nRows take")[0]
    )
    files = re.findall(r"^\|[^|]*\| `(batchroute/\S+\.py)`|^\| `(batchroute/\S+\.py)`", way, re.MULTILINE)
    assert 10 < len({one or other for one, other in files}) <= MOST_FILES


def imported(source: str) -> list[str]:
    """The folders and files directly in the package that a module imports from."""
    modules = re.findall(r"^\s*(?:from|import) batchroute\.(\w+)", source, re.MULTILINE)
    return modules + re.findall(
        r"\w+", " ".join(re.findall(r"^\s*from batchroute import ([^#\n]+)", source, re.MULTILINE))
    )


def test_imports_point_downward_as_the_page_says() -> None:
    order = re.findall(r"^\| `batchroute/(\w+)` \|", (ROOT / "batchroute" / "README.md").read_text(), re.MULTILINE)
    package = ROOT / "batchroute"
    assert sorted(order) == sorted(path.parent.name for path in package.glob("*/__init__.py"))
    upward = [
        f"{path.relative_to(ROOT)} imports {target}"
        for path in package.glob("*/**/*.py")
        for target in imported(path.read_text())
        if target in order and order.index(target) < order.index(path.relative_to(package).parts[0])
    ]
    assert upward == []


def test_a_work_folder_is_as_the_page_shows_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run of the page: stopped by a limit in the first piece of the large model."""
    (block,) = (b for b in blocks("text") if b.page.parent == ROOT / "batchroute" and "run.json" in b.text)
    monkeypatch.chdir(tmp_path)
    job = {
        "input": {"uri": str(ROOT / "sample_data" / "backlog.parquet"), "id": "id"},
        "output": {"uri": "answers"},
        "router": {"model": str(tiny_router(tmp_path / "router"))},
        "policy": {"small_share": "50%"},
        "models": {"small": {"backend": "echo"}, "large": {"backend": "echo", "generation": {"max_new_tokens": 5}}},
        "units": {"score": 32, "generate": 32},
        "max_tokens": 1000,
    }
    with pytest.raises(errors.StoppedError, match=r"^max_tokens 1,000: "):
        run(Job.model_validate(job), PlainProgress(StringIO()))
    assert not Path("answers").exists()
    there = [path.as_posix() for path in Path("answers.work").rglob("*") if path.is_file()]
    shown_there = [line.split()[0] for line in block.text.splitlines()]
    a_run = re.compile(r"/[0-9a-f]{16}/")
    assert sorted(a_run.sub("/RUN/", path) for path in shown_there) == sorted(
        a_run.sub("/RUN/", path) for path in there
    )


def test_a_package_index_gets_no_relative_link() -> None:
    """The build replaces them: on the page of an index they would lead nowhere."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]["hooks"]
    readme = settings["fancy-pypi-readme"]
    assert readme["fragments"] == [{"path": "README.md"}]
    text = (ROOT / "README.md").read_text()
    assert text.count("](jobs/README.md") > 1
    for each in readme["substitutions"]:
        text = re.sub(each["pattern"], each["replacement"], text)
    links = [str(token.attrs["href"]) for token in tokens(text) if token.type == "link_open"]
    assert links
    assert [link for link in links if not link.startswith("https://")] == []
    assert "The job file and how to run it (`jobs/README.md`)" in text


# Commands


def words_of(line: str) -> list[str]:
    """The words of a line, operators of the shell by themselves; none of what no shell would take."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return []


def simple_commands(text: str) -> Iterator[list[str]]:
    """The commands of a block of shell, without variables in front; what follows a redirection is left out."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        command: list[str] = []
        for word in [*words_of(line), ";"]:
            if set(word) <= set("();|&") and word:
                if command:
                    yield command
                command = []
            else:
                command.append(word)


@functools.cache
def command_line() -> Any:
    # Not a class of click: typer may hold a click of its own.
    return typer.main.get_command(cli.app)


def refusal(words: list[str]) -> str | None:
    """What batchroute's command line says of `words`, those after `batchroute`; None: it takes them."""
    command = command_line()
    name, rest = "batchroute", list(words)
    if {"--help", "--version"} & set(rest):
        return None
    while hasattr(command, "commands"):
        if not rest:
            return "it is no whole command"
        name, *rest = rest
        if name not in command.commands:
            return f"there is no command '{name}'"
        command = command.commands[name]
    try:
        command.make_context(name, rest)
    except Exception as error:
        return str(error.format_message()) if hasattr(error, "format_message") else repr(error)
    return None


def calls(words: list[str]) -> Iterator[list[str]]:
    """What is said to batchroute in a command: by itself, or as the end of another program's arguments."""
    command = command_line()
    for at, word in enumerate(words[:-1]):
        if word == "batchroute" and (words[at + 1] in command.commands or at == 0):
            # An output that others of the same shape follow.
            yield [word for word in words[at + 1 :] if word != "…"]
            return


def script_of(words: list[str]) -> tuple[Path, list[str]] | None:
    """A script or module of the repository that a command starts, and its arguments."""
    program = words[0].rpartition("/")[2]
    if program.startswith("python") and words[1:2] == ["-m"] and words[2:3] and words[2].partition(".")[0] in TOP[1:]:
        return ROOT / (words[2].replace(".", "/") + ".py"), words[3:]
    if program.startswith("python") and words[1:2] and words[1].partition("/")[0] in TOP:
        return ROOT / words[1], words[2:]
    if words[0].partition("/")[0] in TOP and words[0].endswith((".sh", ".py")):
        return ROOT / words[0], words[1:]
    return None


def problems(words: list[str]) -> list[str]:
    found = [f"{shlex.join(words)}: {said}" for call in calls(words) if (said := refusal(call)) is not None]
    script = script_of(words)
    if script is not None:
        path, arguments = script
        if not path.is_file():
            return [*found, f"{shlex.join(words)}: there is no {path.relative_to(ROOT)}"]
        text = path.read_text()
        if path.suffix == ".sh" and path.with_suffix(".py").is_file():
            text += path.with_suffix(".py").read_text()
        options = [word.partition("=")[0] for word in arguments if word.startswith("--")]
        found += [f"{shlex.join(words)}: {path.name} has no {option}" for option in options if option not in text]
    return found


SHELL = blocks("sh", "bash")


@pytest.mark.parametrize("block", SHELL, ids=[block.place for block in SHELL])
def test_every_command_is_one_that_can_be_given(block: Block) -> None:
    commands = list(simple_commands(block.text))
    assert commands, "the block has no command"
    assert [problem for words in commands for problem in problems(words)] == []


def test_commands_that_cannot_be_given_are_noticed() -> None:
    text = (
        "batchroute run nightly.yaml --fersh && batchroute plan\n"
        "torchrun --nproc-per-node 8 -m batchroute walk nightly.yaml\n"
        "batchroute walk nightly.yaml    # not one\n"
        "python -m tests.benchmarks.none --rows 1; tests/run.sh --none\n"
        "batchroute report one two > /dev/null\n"
    )
    said = [problem.partition(": ")[2] for words in simple_commands(text) for problem in problems(words)]
    assert [words.partition(" (")[0] for words in said] == [
        "No such option: --fersh",
        "Missing argument 'JOB.yaml'.",
        "there is no command 'walk'",
        "there is no tests/benchmarks/none.py",
        "run.sh has no --none",
    ]


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_every_command_within_a_line_is_known(page: Path) -> None:
    """Such commands leave arguments out, so that only their names and their options can be looked at."""
    assert [problem for code in inline(page) for problem in unknown(code)] == []


def unknown(code: str) -> list[str]:
    words = re.sub(r"[\[\]|]", " ", code).split()
    if words and re.fullmatch(r"tests\.[\w.]+", words[0]):
        words = ["python", "-m", *words]
    if words[:1] != ["batchroute"]:
        return problems(words) if words and "…" not in words else []
    command = command_line()
    for word in words[1:]:
        if hasattr(command, "commands"):
            if word.isupper() or word.startswith("-"):
                continue
            if word not in command.commands:
                return [f"{code}: there is no command '{word}'"]
            command = command.commands[word]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "--version"}
    return [f"{code}: no option {w}" for w in words if w.startswith("--") and w.partition("=")[0] not in options]


def test_an_unknown_command_within_a_line_is_noticed() -> None:
    assert unknown("batchroute run JOB.yaml [--set K=V]") == []
    assert unknown("batchroute walk OUTPUT") == ["batchroute walk OUTPUT: there is no command 'walk'"]
    assert unknown("batchroute gc OUTPUT [--fresh]") == ["batchroute gc OUTPUT [--fresh]: no option --fresh"]
    assert unknown("tests.benchmarks.none --rows 1") == [
        "python -m tests.benchmarks.none --rows 1: there is no tests/benchmarks/none.py"
    ]


def test_commands_of_a_crontab_can_be_given() -> None:
    lines = [
        line for block in blocks() for line in block.text.splitlines() if re.match(r"[*\d][\S]* \S+ \* \* \*", line)
    ]
    assert lines
    assert [problem for line in lines for problem in problems(line.split("#")[0].split()[5:])] == []


# Files of settings


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_every_yaml_block_is_taken(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_yaml(block.text, tmp_path, monkeypatch)


def check_yaml(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job file, or sections of one, or a list of prices, or steps of a workflow with batchroute's command."""
    for name in re.findall(r"(?<!\$)\$\{(\w+)\}", text):
        monkeypatch.setenv(name, "2026-11-24" if name == "RUN_DATE" else "https://example.com/2026-11-24")
    tree = yaml.safe_load(text)
    if isinstance(tree, list):
        for step in tree:
            container = step["container"]
            assert problems([*container["command"][2:], *container["args"]]) == []
        return
    if "as_of" in tree:
        PriceList.model_validate(tree)
        return
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(BASE), **tree}))
    loading.load(str(path))
    if Job.model_fields.keys() >= {"name", *yaml.safe_load(BASE)} == tree.keys():
        path.write_text(text)
        loading.load(str(path))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("policy: {small_shar: 60%}", "policy.small_shar: unknown key"),
        ("max_cots: 25", "max_cots: unknown key"),
        ("models: {small: {backend: vllm, model: m, concurrency: 3}, large: {backend: echo}}", "concurrency"),
    ],
)
def test_a_wrong_yaml_block_is_noticed(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.InputError, match=said):
        check_yaml(text, tmp_path, monkeypatch)


@pytest.mark.parametrize("block", blocks("python"), ids=lambda block: block.place)
def test_every_python_block_is_python(block: Block) -> None:
    compile(block.text, block.place, "exec")


def test_no_block_has_another_language() -> None:
    known = {"sh", "bash", "yaml", "python", "", "text"}
    fences = [token.info.strip() for page in PAGES for token in tokens(page.read_text()) if token.type == "fence"]
    assert set(fences) <= known


# Files of the repository


def missing(page: Path, code: str) -> bool:
    """Whether code within a line is a path of the repository, and nothing is there. Globs must match something."""
    path = re.sub(r":\d+$", "", code.strip())
    if not re.fullmatch(r"[\w./*-]+", path) or path.startswith(MADE):
        return False
    if path.split("/")[0] in TOP and "/" in path:
        return not any(ROOT.glob(path.rstrip("/")))
    if path.endswith((".py", ".sh")):
        return not any((folder / path).is_file() for folder in (page.parent, ROOT))
    return False


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CHANGELOG.md"], ids=shown)
def test_every_path_is_there(page: Path) -> None:
    assert [code for code in inline(page) if missing(page, code)] == []


def test_a_path_that_is_not_there_is_noticed() -> None:
    codes = ["batchroute/none/run.py", "batchroute/pipeline", "none.py", "tests/*.sh", "tests/*.none", "report.json"]
    assert [code for code in codes if missing(ROOT / "README.md", code)] == [
        "batchroute/none/run.py",
        "none.py",
        "tests/*.none",
    ]

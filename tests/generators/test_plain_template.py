"""A chat template without transformers: its texts are those of transformers, and it may do no more there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jinja2.exceptions import SecurityError, TemplateError
from transformers import AutoTokenizer

from batchroute.errors import InputError
from batchroute.generators import plain_template
from batchroute.generators.plain_template import PlainTemplate
from batchroute.generators.prompting import Renderer
from batchroute.generators.settings import ModelSpec
from batchroute.generators.transformers import BACKENDS
from tests.support.tiny_models import tiny_tokenizer

CHAT = [{"role": "system", "content": "Be <brief>."}, {"role": "user", "content": "Ünï?", "name": None}]
TEMPLATES = [
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] | trim }}\n{% endfor %}{{ eos_token }}{{ bos_token }}",
    "{% for m in messages %}\n    {%- if loop.index > 1 %}{% break %}{% endif %}\n  {{ m | tojson }}\n{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}{{ tools }}",
    "{% for m in messages %}{% generation %}{% set w = m['content'] %}{{ w }}{% endgeneration %}{{ w }}{% endfor %}",
    "{% if add_generation_prompt and shout %}{{ messages[1]['content'] | upper }}{{ dict(a=1)['a'] }}{% endif %}",
    "{{ strftime_now('%Y') }}{{ messages[0]['content'] | tojson(indent=2) }}{% if documents is none %}x{% endif %}",
    "{% if 'name' in messages[1] %}{{ raise_exception('a name') }}{% endif %}{{ pad_token }}{{ unk_token }}",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny_tokenizer(tmp_path)
    return tmp_path


def render(template: PlainTemplate, **arguments: Any) -> str:
    return template.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, **arguments)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_texts_are_those_of_transformers(folder: Path, template: str, place: str) -> None:
    if place.endswith(".jinja"):
        (folder / place).write_text(template)
    else:
        change(folder, chat_template=template)
    found, tokenizer = plain_template.read(folder), AutoTokenizer.from_pretrained(folder)
    assert found is not None
    assert found.chat_template == tokenizer.chat_template
    expected = tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True, shout=True)
    assert expected
    assert render(found, shout=True) == expected


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ messages.append(1) }}", SecurityError),
        ("{{ ''.__class__.__mro__ }}", SecurityError),
        ("{{ dict.__class__.__name__ }}", SecurityError),
        ("{{ namespace(_a=1) }}", SecurityError),
        ("{% set n = namespace() %}{% set n._a = 1 %}", SecurityError),
        ("{{ raise_exception('System role not supported') }}", TemplateError),
    ],
)
def test_a_template_reaches_no_internals(template: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        render(PlainTemplate(template, {}))


def change(folder: Path, **settings: Any) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))


UNUSUAL = {
    "code": lambda folder: change(folder, auto_map={"AutoTokenizer": ["own.Own", None]}),
    "class": lambda folder: change(folder, tokenizer_class="OwnTokenizer"),
    "no class": lambda folder: change(folder, tokenizer_class=None),
    "several templates": lambda folder: change(folder, chat_template=[{"name": "default", "template": "x"}]),
    "several files": lambda folder: (folder / "additional_chat_templates").mkdir(),
    "cut file": lambda folder: (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text()[:-9]),
    "pointer": lambda folder: (folder / "tokenizer.json").write_text("version https://git-lfs.github.com/spec/v1\n"),
    "empty file": lambda folder: (folder / "tokenizer.json").write_text(""),
    "no file": lambda folder: (folder / "tokenizer.json").unlink(),
    "no settings": lambda folder: (folder / "tokenizer_config.json").unlink(),
}


@pytest.mark.parametrize("what", UNUSUAL)
def test_whatever_is_unusual_is_left_to_transformers(folder: Path, what: str) -> None:
    assert plain_template.read(folder) is not None
    UNUSUAL[what](folder)
    assert plain_template.read(folder) is None


def test_a_model_without_a_template_has_none(folder: Path) -> None:
    found = plain_template.read(folder)
    assert found is not None
    assert not Renderer(ModelSpec(backend="echo"), found).chat


def test_transformers_has_the_last_word_on_a_refusal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('not today') }}")
    monkeypatch.setattr("batchroute.generators.transformers.check_weights", lambda spec: spec.model)
    (folder / "config.json").write_text('{"model_type": "llama"}')
    spec = ModelSpec(backend="transformers", model=str(folder))
    with pytest.raises(InputError, match="refuses every prompt: not today; mend it"):
        BACKENDS[0].check(spec)
    (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    assert BACKENDS[0].check(spec) == str(folder)

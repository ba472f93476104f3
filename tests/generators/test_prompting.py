from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from batchroute.errors import InputError
from batchroute.generators.base import as_messages
from batchroute.generators.prompting import ChatError, Renderer, chat, check_template
from batchroute.generators.settings import ModelSpec
from batchroute.prompt import as_text
from tests.generators.transformers.tiny_generators import CHAT_TEMPLATE
from tests.support.tiny_models import tiny_tokenizer

CHAT = [
    {"role": "user", "content": "first"},
    {"role": "assistant", "content": "answer"},
    {"role": "user", "content": "second"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tiny_tokenizer(path)
    return path


def renderer(folder: Path, chat: bool, chat_template: str = CHAT_TEMPLATE, **spec: Any) -> Renderer:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if chat:
        tokenizer.chat_template = chat_template
    return Renderer(ModelSpec(backend="transformers", model="m", **spec), tokenizer)


def test_without_a_chat_template_a_text_stays_as_it_is(folder: Path) -> None:
    found = renderer(folder, chat=False)
    assert not found.chat
    assert found.render("a {b}\n") == "a {b}\n"
    assert found.render(CHAT) == "first\n\nanswer\n\nsecond"


def test_without_a_chat_template_template_and_system_go_around_the_text(folder: Path) -> None:
    found = renderer(folder, chat=False, template="Q: {prompt} {x}\nA:", system="Be brief.")
    assert found.render("{prompt}?") == "Be brief.\n\nQ: {prompt}? {x}\nA:"
    assert found.render(CHAT) == "Be brief.\n\nQ: first\n\nanswer\n\nsecond {x}\nA:"


def test_with_a_chat_template_a_text_is_a_user_message(folder: Path) -> None:
    found = renderer(folder, chat=True)
    assert found.chat
    assert found.render("hello") == "[CLS]user: hello[SEP][CLS]assistant: "


def test_with_a_chat_template_the_template_wraps_the_last_user_message_alone(folder: Path) -> None:
    found = renderer(folder, chat=True, template="<{prompt}>", system="S")
    assert found.render("hello") == "[CLS]system: S[SEP][CLS]user: <hello>[SEP][CLS]assistant: "
    assert found.render(CHAT) == (
        "[CLS]system: S[SEP][CLS]user: first[SEP][CLS]assistant: answer[SEP][CLS]user: <second>[SEP][CLS]assistant: "
    )


def test_messages_without_a_user_are_not_wrapped(folder: Path) -> None:
    found = renderer(folder, chat=True, template="<{prompt}>")
    assert found.render([{"role": "system", "content": "S"}]) == "[CLS]system: S[SEP][CLS]assistant: "


def test_rendering_leaves_the_prompt_as_it_was(folder: Path) -> None:
    chat = [dict(message) for message in CHAT]
    renderer(folder, chat=True, template="<{prompt}>", system="S").render(chat)
    assert chat == CHAT


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (CHAT_TEMPLATE, "unknown role: tool"),
        ("{{ messages[0]['content'] + 1 }}", "can only concatenate str"),
        ("{{ messages[0].absent.more }}", "has no attribute"),
        ("{% for message in messages %}", "nexpected end of template"),
    ],
)
def test_what_the_chat_template_refuses_is_a_chat_error(folder: Path, template: str, reason: str) -> None:
    with pytest.raises(ChatError, match=reason):
        renderer(folder, chat=True, chat_template=template).render([{"role": "tool", "content": "x"}])


def test_a_system_message_is_put_in_front_only_where_one_is_set() -> None:
    assert as_messages("a", None) == [{"role": "user", "content": "a"}]
    assert as_messages(CHAT, "S") == [{"role": "system", "content": "S"}, *CHAT]
    assert as_messages("a", "") == [{"role": "system", "content": ""}, {"role": "user", "content": "a"}]


def test_messages_as_text_are_their_contents() -> None:
    assert as_text("a") == "a"
    assert as_text(CHAT) == "first\n\nanswer\n\nsecond"


IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def test_a_template_wraps_the_text_of_a_message_with_an_image() -> None:
    spec = ModelSpec(backend="openai", model="m", template="<{prompt}>")
    text = {"type": "text", "text": "what is it?"}
    assert chat(spec, [{"role": "user", "content": [IMAGE, text]}]) == [
        {"role": "user", "content": [{"type": "text", "text": "<what is it?>"}, IMAGE]}
    ]


@pytest.mark.parametrize("with_template", [True, False])
def test_a_model_that_reads_text_alone_refuses_an_image(folder: Path, with_template: bool) -> None:
    with pytest.raises(ChatError, match="message 0 holds image_url, which is no text"):
        renderer(folder, chat=with_template).render([{"role": "user", "content": [IMAGE]}])


def test_calls_of_tools_reach_the_chat_template(folder: Path) -> None:
    template = "{% for message in messages %}{{ message.role }}: {{ message.tool_calls[0].function.name }}{% endfor %}"
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    found = renderer(folder, chat=True, chat_template=template)
    assert found.render([{"role": "assistant", "content": "", "tool_calls": [call]}]) == "assistant: weather"


class TestCheckOfATemplate:
    NO_SYSTEM = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
        "{% endif %}{{ m['content'] }}{% endfor %}"
    )

    def check(self, folder: Path, template: str | None, **spec: Any) -> list[str]:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokenizer.chat_template = template
        return check_template(ModelSpec(backend="transformers", model="m", **spec), tokenizer)

    def test_a_template_without_a_system_role_is_refused_where_the_job_has_one(self, folder: Path) -> None:
        assert self.check(folder, self.NO_SYSTEM) == []
        with pytest.raises(InputError) as caught:
            self.check(folder, self.NO_SYSTEM, system="Be brief.")
        assert str(caught.value) == (
            "the chat template of the model 'm' refuses every prompt with a system message: System role not supported; "
            "leave out system, or put its text into template"
        )

    @pytest.mark.parametrize(
        "template",
        ["{% for m in messages %}{{ m['content'] }}", "{{ messages[0]['content'].nothing() }}", "{{ 1 // 0 }}"],
    )
    def test_a_template_that_does_not_work_is_refused(self, folder: Path, template: str) -> None:
        with pytest.raises(InputError, match=r"refuses every prompt: .*; mend it, or name another model"):
            self.check(folder, template)

    def test_a_template_for_chats_of_one_shape_is_kept(self, folder: Path) -> None:
        template = (
            "{% if messages[0]['role'] != 'system' %}{{ raise_exception('no system') }}{% endif %}"
            "{% for m in messages %}{{ m['content'] }}{% endfor %}"
        )
        assert self.check(folder, template) == []

    def test_a_template_that_leaves_the_prompt_out_is_refused(self, folder: Path) -> None:
        with pytest.raises(InputError, match="leaves the prompt out"):
            self.check(folder, "{% for m in messages %}{{ m['role'] }}{% endfor %}")

    def test_a_template_that_leaves_the_system_message_out_is_said(self, folder: Path) -> None:
        template = "{% for m in messages if m['role'] != 'system' %}{{ m['content'] }}{% endfor %}"
        (said,) = self.check(folder, template, system="Be brief.")
        assert said == "the chat template of the model 'm' leaves out the system message of the job file"
        assert self.check(folder, None, system="Be brief.") == []

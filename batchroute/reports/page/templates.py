"""The reports' jinja2 templates, and the filters that put figures into words."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from batchroute import words
from batchroute.reports import drops

if TYPE_CHECKING:
    from jinja2 import Environment

_NO_BREAK = "\u00a0"
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")


def html(template: str, **values: Any) -> str:
    """A page. Every value that is not `Markup` is escaped."""
    return _environment(autoescape=True, finalize=_printable).get_template(template).render(values)


def markdown(template: str, **values: Any) -> str:
    """Text for chat and e-mail. Every value becomes one line without markup."""
    text = _environment(finalize=plain_text).get_template(template).render(values)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def plain_text(value: Any) -> str:
    """One line that Markdown shows literally, in a table cell, too.

    `<`, `>` and `&` become entities, which CommonMark and Slack decode; a bare `<!channel>` would alert all of a
    Slack channel.
    """
    text = " ".join(_CONTROLS.sub(" ", str(value)).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*\[\]|~#])", r"\\\1", text)
    # Within a word an underscore is no markup, and model names are full of them.
    return re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)


def _printable(value: Any) -> Any:
    """The value without control characters; some of them reverse the direction of the text after them."""
    return _CONTROLS.sub(" ", value) if isinstance(value, str) and not isinstance(value, Markup) else value


# Compiling the templates takes longer than filling them in.
@functools.cache
def _environment(**options: Any) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("batchroute.reports", ""),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **options,
    )
    environment.filters.update(FILTERS)
    return environment


def tied(text: str) -> str:
    """The text with no line break between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|h|min|s|d|million|billion|trillion)(?:\W|$))", _NO_BREAK, text)


def lines(text: str) -> Markup:
    """`0.8 % (0.2 to 1.4 %)` on two lines: the text in brackets goes below the rest."""
    first, _, rest = text.partition(" (")
    below = Markup('<span class="sub">{}</span>').format(tied(rest.rstrip(")"))) if rest else Markup("")
    return Markup("{}{}").format(tied(first), below)


def decimals(value: float | None, most: int) -> str:
    return words.NOT_KNOWN if value is None else f"{value:,.{most}f}"


def p_value(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"


def score(value: float | None) -> str:
    """A threshold; `none` if no score can reach it."""
    return words.NOT_KNOWN if value is None else "none" if value > 1 else f"{value:.4g}"


FILTERS: dict[str, Callable[..., str]] = {
    "cut": words.cut,
    "decimals": decimals,
    "digits": words.digits,
    "duration": words.duration,
    "interval": drops.interval,
    "lines": lines,
    "model": words.model,
    "moment": words.moment,
    "money": words.money,
    "of": words.of,
    "p_value": p_value,
    "percent": words.percent,
    "plural": words.plural,
    "rate": rate,
    "score": score,
    "share": words.share,
    "tied": tied,
    "with_interval": drops.with_interval,
}

"""HTML and SVG as text that is escaped by construction.

Owns the difference between text and markup: `element` escapes every child and attribute that is not
`Markup` already, so that a file's hostile name can never become a tag.
"""

from collections.abc import Iterable
from html import escape

_VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


class Markup(str):
    """Text that is HTML or SVG already and is not escaped again."""

    __slots__ = ()


Child = str | int | Iterable["Markup"] | None


def element(name: str, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Returns one element.

    Args:
        name: Its tag.
        children: Text (escaped), `Markup`, several of these in an iterable, or None for nothing.
        attributes: Their values are escaped. A trailing underscore is dropped (`class_`), the others become
            hyphens; True gives a bare attribute, False and None give none.

    Example:
        >>> element("p", "1 < 2", class_="sum")
        '<p class="sum">1 &lt; 2</p>'
    """
    given = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID:
        return Markup(f"<{name}{given}>")
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: Child) -> Markup:
    """Returns children one after the other, those that are mere text escaped."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Markup):
            parts.append(child)
        elif isinstance(child, (str, int)):
            parts.append(escape(str(child)))
        else:
            parts.append(joined(*child))
    return Markup("".join(parts))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-") if key not in _CAMEL else key
    if value is True:
        return f" {name}"
    text = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return f' {name}="{escape(text, quote=True)}"'


_CAMEL = {"viewBox", "preserveAspectRatio"}

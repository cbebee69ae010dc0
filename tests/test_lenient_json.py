"""The JSON of response bodies: any charset, other text around it, absurd values."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api import lenient_json
from flux_cli.api.redaction import MIN_SECRET_CHARACTERS, REDACTED, Redactor
from flux_cli.api.transport import Response

SECRET = "secret-0123456789"

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()), st.text(max_size=30))
def test_any_body_is_json_or_a_value_error(content: bytes, content_type: str) -> None:
    redactor = Redactor()
    redactor.add(SECRET)
    try:
        value = Response(200, {"Content-Type": content_type}, content, redactor).json()
    except ValueError:
        return
    json.dumps(value, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"a": NaN, "b": Infinity, "c": -Infinity}', {"a": None, "b": None, "c": None}),
        ('{"a": 1e999, "b": -1e999, "c": 1e-999}', {"a": None, "b": None, "c": 0.0}),
        ('{"a": %s}' % ("1" * 5000), {"a": None}),
        (f'{{"a": {"1" * 300}, "b": {"1" * 301}}}', {"a": int("1" * 300), "b": None}),
        ('{"a": 1, "a": 2}', {"a": 2}),
        ("\ufeff{}", {}),
        ('"\\ud800"', "\ud800"),
        ("[1]", [1]),
        *((text, {"a": 1}) for text in (' {"a": 1}\r\n\0', ')]}\',\n{"a": 1}', 'callback({"a": 1});')),
        ('<br />\n<b>Notice</b>: {closure}() in x.php\n{"a": {"b": 1}}', {"a": {"b": 1}}),
        *((text, {"a": 1}) for text in ('{"a": 1}{"b": 2}', 'data: {"a": 1}\n\n')),
    ],
)
def test_readable_bodies(text: str, value: object) -> None:
    """Absurd numbers become None; text before and after an object is ignored."""
    assert lenient_json.parse(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<html>busy</html>",
        '\n<!DOCTYPE html><script>{"error": "of the page"}</script>',
        "[" * 100_000,
        "x" + '{"a":' * 100_000,
        "[" * 100_000 + "]" * 100_000,
        '{"a": {"b": 1}, "c": ',
        '{"a": {"b": 1}, "c": "it ends her',
        '{"a": "an object {} in a truncated str',
        '{"a": {"b": 1}, c}',
        "{" * 1000,
    ],
    ids=range(11),
)
def test_unreadable_bodies(text: str) -> None:
    """An object inside a broken or truncated one, or in a page, is not the response."""
    with pytest.raises(ValueError, match=r"\w"):
        lenient_json.parse(text)


@pytest.mark.parametrize(
    ("content_type", "charset"),
    [
        *(("application/json", charset) for charset in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le")),
        ("application/json; charset=utf-8", "utf-32"),
        ("application/json; charset=utf-16", "utf-8"),
        ("application/json; charset=iso-8859-1", "latin-1"),
        ('application/json; charset="Windows-1252"', "cp1252"),
        ("application/json;charset=Shift_JIS", "shift_jis"),
        *((f"application/json; charset={no}", "utf-8") for no in ("no-such-charset", "punycode", "iso-8859-99")),
        ("application/json\r\n; charset", "utf-8"),
    ],
)
def test_charsets(content_type: str, charset: str) -> None:
    value = {"error": "é" if charset != "shift_jis" else "画像"}
    content = json.dumps(value, ensure_ascii=False).encode(charset)
    assert lenient_json.parse(lenient_json.decode(content, content_type)) == value


def test_invalid_bytes_do_not_hide_the_rest() -> None:
    text = lenient_json.decode(b'{"task_id": "a", "note": "\xff"}')
    assert lenient_json.parse(text) == {"task_id": "a", "note": "\ufffd"}


@pytest.mark.parametrize("charset", ["utf-8", "utf-16"])
@given(st.text(st.characters(exclude_categories=["C"]), min_size=MIN_SECRET_CHARACTERS), VALUES)
def test_secrets_are_redacted(charset: str, secret: str, value: object) -> None:
    """In every spelling and charset, and the rest stays JSON."""
    redactor = Redactor()
    redactor.add(secret)
    units = memoryview(secret.encode("utf-16-le")).cast("H")
    lower, upper = ("".join(f"\\u{unit:04{case}}" for unit in units) for case in "xX")
    body = f'{{"a": ["{lower}", "{upper}", {json.dumps(secret)}, {json.dumps(value)}]}}'
    response = Response(200, {}, body.encode(charset), redactor)
    found = response.json()["a"]
    assert found[:3] == [REDACTED] * 3
    assert secret not in str(found[3])
    assert response.text().count(REDACTED) >= 3


def test_secrets_that_begin_alike() -> None:
    """Nothing is left of the longer one; a short one could be any word, and stays."""
    redactor = Redactor()
    for secret in (SECRET, f"{SECRET}-and-more", "a word", "", None):
        redactor.add(secret)
    assert redactor.text(f"{SECRET}-and-more {SECRET} is a word") == f"{REDACTED} {REDACTED} is a word"


def test_base64_is_elided() -> None:
    """A picture in a response does not flood the trace."""
    response = Response(200, {}, b'{"image_url": "data:image/png;base64,' + b"iVBORw0K" * 100 + b'"}')
    assert response.text() == '{"image_url": "data:image/png;base64,[800 characters of base64]"}'

"""The rules of a request."""

import json
import math
import re
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.request import (
    FIELDS,
    MODELS,
    ULTRA,
    flag,
    is_http_url,
    key,
    parse_text,
    random_seed,
    shown,
    similar_model,
    violations,
)
from flux_cli.errors import closest

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
GOOD: dict[str, object] = {"model": "flux-pro", "prompt": "a cat"}


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("width", {"256": 256, " 1440 ": 1440, "+7": 7, "1" * 300: int("1" * 300)}),
        ("seed", {"-5": -5}),
        ("guidance", {"3.5": 3.5, "3": 3, ".5": 0.5, "5.": 5.0, "1e2": 100.0}),
        ("raw", {"true": True, "No": False, "1": True}),
        ("prompt", {" as it is ": " as it is "}),
    ],
)
def test_parse_text(name: str, parsed: dict[str, object]) -> None:
    for text, value in parsed.items():
        assert (parse_text(name, text), type(parse_text(name, text))) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "kind", "texts"),
    [
        ("width", "a whole number", ("1.5", "1e3", "1_000", "٣٠٠", "0x100", "", "1" * 301)),
        ("seed", "a whole number", ("nan",)),
        ("guidance", "a finite number", ("nan", "-inf", "1e999")),
        ("guidance", "a number", ("1,5", "1_0.0", "0x1p3")),
        ("raw", "true or false", ("maybe",)),
    ],
)
def test_text_that_is_no_value(name: str, kind: str, texts: tuple[str, ...]) -> None:
    """The error names neither field nor value."""
    for text in texts:
        with pytest.raises(ValueError, match=f"^must be {kind}$"):
            parse_text(name, text)


@given(st.sampled_from(sorted(FIELDS)), st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_text_can_be_parsed(name: str, text: str) -> None:
    try:
        value = parse_text(name, text)
    except ValueError:
        return
    kind = FIELDS[name].kind
    assert type(value) is kind or (kind is float and type(value) is int)


NO_RATIO = "`aspect_ratio` must be `W:H` between 21:9 and 9:21, not"
RATIOS = ("0:9", "9:0", "0:0", "16/9", "22:9", "9:22", "16:9 ", "1.5:1", "-16:-9", "16:9:1", "١٦:٩")
RULES: list[tuple[Mapping[str, object], str]] = [
    ({"prompt": " \n"}, "`prompt` must not be blank"),
    *(({"prompt": value}, f"`prompt` must be text, not '{value}'") for value in (None, 5)),
    ({"prompt": "caf\udce9"}, "`prompt` is not UTF-8 text"),
    ({"model": "flux-prp"}, "`model`: unknown model `flux-prp`; did you mean `flux-pro`?"),
    ({"width": 255}, "`width` must be 256 to 1440, not 255"),
    ({"height": 1441}, "`height` must be 256 to 1440, not 1441"),
    *(({"width": value}, f"`width` must be a whole number, not '{value}'") for value in (1024.0, "1024")),
    ({"width": True}, "`width` must be a whole number, not 'true'"),
    *(({"guidance": value}, f"`guidance` must be a finite number, not {value}") for value in (math.nan, 1e400)),
    ({"interval": 5}, "`interval` must be 1 to 4, not 5"),
    ({"safety_tolerance": -1}, "`safety_tolerance` must be 0 to 6, not -1"),
    (
        {"steps": 20, "model": ULTRA},
        "`steps` needs `flux-pro` or `flux-dev`, but the model is `flux-pro-1.1-ultra`",
    ),
    ({"raw": True}, "`raw` needs `flux-pro-1.1-ultra`, but the model is `flux-pro`"),
    *(({"model": ULTRA, "aspect_ratio": ratio}, f"{NO_RATIO} `{ratio}`") for ratio in RATIOS),
    ({"model": ULTRA, "image_prompt_strength": 0.5}, "`image_prompt_strength` needs `image_prompt`"),
    ({"model": ULTRA, "image_prompt": "x", "image_prompt_strength": 1.01}, "must be 0 to 1, not 1.01"),
    ({"webhook_url": "ftp://x/"}, "`webhook_url` must be an http or https URL, not `ftp://x/`"),
    *(({"webhook_url": f"http://{rest}"}, "`webhook_url` must be") for rest in ("", "x:99999/", "[::1", "x/\x1b")),
    ({"promt": "x"}, "`promt` is not a field of the request; did you mean `prompt`?"),
]


@pytest.mark.parametrize(("fields", "expected"), RULES)
def test_each_rule(fields: Mapping[str, object], expected: str) -> None:
    (sentence,) = violations({**GOOD, **fields})
    assert expected in sentence


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"width": 256, "height": 1440},
        {"width": 1440, "interval": 1},
        {"guidance": 0, "steps": 10**20, "seed": -1},
        *({"model": ULTRA, "aspect_ratio": ratio} for ratio in ("21:9", "9:21", "1:1", "2100:900", "16:9")),
        {"model": ULTRA, "image_prompt": "x", "image_prompt_strength": 0},
        {"model": ULTRA, "image_prompt": "x", "image_prompt_strength": 1.0, "raw": False},
        {"webhook_url": "http://localhost:8787/hook?x=1", "webhook_secret": "s"},
    ],
)
def test_valid_requests(fields: dict[str, object]) -> None:
    assert violations({**GOOD, **fields}) == []


def test_all_violations_are_reported() -> None:
    """On the command line by their flags."""
    body = {"model": "flux", "prompt": "", "webhook_url": "\ud800", "width": 1, "raw": 1, "interval": 9}
    assert len(violations(body)) == 6
    assert any(sentence.startswith("`--width`") for sentence in violations(body, flag))
    assert any(sentence.startswith("PROMPT") for sentence in violations(body, flag))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=6), JSON, max_size=8))
def test_any_body_can_be_checked(body: dict[str, object]) -> None:
    """No body causes an exception; one without violations can be sent as JSON in UTF-8."""
    sentences = violations(body, key)
    if not sentences:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        assert set(body) <= set(FIELDS)
        assert body["model"] in MODELS


@pytest.mark.parametrize("secret", [1234567890, ["whsec-1234567890"], {"whsec-1234567890": 1}, 12345.67890])
def test_webhook_secret_is_never_quoted(secret: object) -> None:
    (sentence,) = violations({**GOOD, "webhook_secret": secret})
    assert sentence == "`webhook_secret` must be text"


@given(JSON)
def test_shown(value: object) -> None:
    assert len(shown(value)) <= 60
    assert [shown("x" * length)[-2:] for length in (60, 61)] == ["xx", "x…"]


def test_prompt_rejects_control_characters() -> None:
    """C0 and C1, except newline and tab."""
    for character in "\0\x07\r\x1b\x7f\x85\x9f":
        (sentence,) = violations({**GOOD, "prompt": f"a{character}cat"})
        assert sentence == f"`prompt` contains the control character U+{ord(character):04X}"
    assert violations({**GOOD, "prompt": "a\tcat\nin Zürich\u200d\N{CAT FACE}"}) == []


@pytest.mark.parametrize("body", [{"model": "m" * 999}, {"width": "9" * 999}, {"x" * 999: 1}])
def test_messages_are_short(body: dict[str, object]) -> None:
    (sentence,) = violations({**GOOD, **body}, str)
    assert len(re.findall(r"(\w)\1{60,}", sentence)) == 0


@pytest.mark.parametrize(
    ("meant", "typed"),
    [
        ("flux-pro", "flux-por Flux-Pro"),
        ("flux-pro-1.1", "flux-1.1-pro 1.1-pro"),
        ("flux-pro-1.1-ultra", "flux-1.1-pro-ultra"),
        ("flux-schnell", "schnell"),
        ("flux-dev", "black-forest-labs/flux-dev"),
        (None, "flux-pro-1.2 flux-2-pro dall-e-3"),
    ],
)
def test_similar_model(meant: str | None, typed: str) -> None:
    """Names of other services are recognised; another version is not a misspelling."""
    assert {similar_model(name) for name in typed.split()} == {meant}
    assert similar_model("") is None


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("widht", ["width", "height"], "width"),
        ("set", ["get", "set"], "set"),
        ("bet", ["get", "set"], None),  # ambiguous
        ("format", ["force"], None),
        ("aspect", ["aspect_ratio"], "aspect_ratio"),
        ("webhook", ["webhook_url", "webhook_secret"], None),
        ("wai", ["wait"], "wait"),
        ("x", ["a"], None),
        ("--lst", ["--last", "--list-faults"], "--last"),
        ("upsampilng", ["upsampling"], "upsampling"),
    ],
)
def test_closest(typed: str, known: list[str], meant: str | None) -> None:
    """Only a clear misspelling or a unique beginning is a guess."""
    assert closest(typed, known) == meant


def test_random_seeds() -> None:
    seeds = {random_seed() for _ in range(100)}
    assert len(seeds) > 1
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_every_field_has_a_description() -> None:
    for field in FIELDS.values():
        assert re.fullmatch(r"[A-Z].+\.", field.description), field.name
        assert (field.metavar is None) == (field.kind is bool)
        assert (f" The service's default: {field.default}." in field.description) == (field.default is not None)
        if field.values and field.limits:
            assert [int(value) for value in field.values] == list(range(field.limits[0], field.limits[1] + 1))
        assert (" Only " in field.description) == bool(field.models)


@given(st.text())
def test_url_is_printable(text: str) -> None:
    assert not is_http_url(text) or text.isprintable()
    assert is_http_url(f"http://x/{text}") == (text.isprintable() and " " not in text) or "[" in text

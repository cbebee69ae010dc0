"""The request's rules, for every value that a person or a file can give."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.api.request import FIELDS, MODELS, ULTRA, broken_rules, flag, is_http_url, key, parse_text, shown

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
GOOD: dict[str, object] = {"model": "flux-pro", "prompt": "a cat"}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("width", "256", 256),
        ("width", " 1440 ", 1440),
        ("width", "+7", 7),
        ("width", "1.5", None),
        ("width", "1e3", None),
        ("width", "1_000", None),
        ("width", "٣٠٠", None),
        ("width", "0x100", None),
        ("width", "", None),
        ("width", "1" * 300, int("1" * 300)),
        ("width", "1" * 301, None),
        ("seed", "-5", -5),
        ("seed", "nan", None),
        ("guidance", "3.5", 3.5),
        ("guidance", "3", 3),
        ("guidance", ".5", 0.5),
        ("guidance", "5.", 5.0),
        ("guidance", "1e2", 100.0),
        ("guidance", "1,5", None),
        ("guidance", "1_0.0", None),
        ("guidance", "0x1p3", None),
        ("raw", "true", True),
        ("raw", "No", False),
        ("raw", "1", True),
        ("raw", "maybe", None),
        ("prompt", " as it is ", " as it is "),
    ],
)
def test_texts(name: str, text: str, value: object) -> None:
    """Each becomes the document's JSON type, or is refused with a message that names neither field nor value."""
    if value is None:
        with pytest.raises(ValueError, match=r"^takes (a whole number|a number|true or false|text)$"):
            parse_text(name, text)
    else:
        parsed = parse_text(name, text)
        assert (parsed, type(parsed)) == (value, type(value))


@given(st.sampled_from(sorted(FIELDS)), st.text() | st.floats().map(str) | st.integers().map(str))
def test_any_text_is_a_value_or_a_value_error(name: str, text: str) -> None:
    """What is accepted has the field's type."""
    try:
        value = parse_text(name, text)
    except ValueError:
        return
    kind = FIELDS[name].kind
    assert type(value) is kind or (kind is float and type(value) is int)


NO_RATIO = "`aspect_ratio` takes `W:H` between 21:9 and 9:21, not"
RATIOS = ("0:9", "9:0", "0:0", "16/9", "22:9", "9:22", "16:9 ", "1.5:1", "-16:-9", "16:9:1", "١٦:٩")
BAD_RATIOS: list[tuple[dict[str, object], str]] = [
    ({"model": ULTRA, "aspect_ratio": ratio}, f"{NO_RATIO} `{ratio}`") for ratio in RATIOS
]
RULES: list[tuple[dict[str, object], str]] = [
    ({"prompt": " \n"}, "`prompt` must not be blank"),
    ({"prompt": None}, "`prompt` takes text, not 'None'"),
    ({"prompt": 5}, "`prompt` takes text, not '5'"),
    ({"prompt": "caf\udce9"}, "`prompt` is not UTF-8 text"),
    ({"model": "flux-prp"}, "`model` does not know `flux-prp`; did you mean `flux-pro`?"),
    ({"width": 255}, "`width` takes 256 to 1440, not 255"),
    ({"height": 1441}, "`height` takes 256 to 1440, not 1441"),
    ({"width": 1024.0}, "`width` takes a whole number, not '1024.0'"),
    ({"width": True}, "`width` takes a whole number, not 'true'"),
    ({"width": "1024"}, "`width` takes a whole number, not '1024'"),
    ({"guidance": math.nan}, "`guidance` takes a finite number, not nan"),
    ({"guidance": 1e400}, "`guidance` takes a finite number, not inf"),
    ({"interval": 5}, "`interval` takes 1 to 4, not 5"),
    ({"safety_tolerance": -1}, "`safety_tolerance` takes 0 to 6, not -1"),
    ({"steps": 20, "model": ULTRA}, "`steps` needs `flux-pro` or `flux-dev`, the model is `flux-pro-1.1-ultra`"),
    ({"raw": True}, "`raw` needs `flux-pro-1.1-ultra`, the model is `flux-pro`"),
    *BAD_RATIOS,
    ({"model": ULTRA, "image_prompt_strength": 0.5}, "`image_prompt_strength` needs `image_prompt`"),
    ({"model": ULTRA, "image_prompt": "x", "image_prompt_strength": 1.01}, "takes 0 to 1, not 1.01"),
    ({"webhook_url": "ftp://x/"}, "`webhook_url` takes an http or https URL, not `ftp://x/`"),
    ({"webhook_url": "http://"}, "`webhook_url` takes"),
    ({"webhook_url": "http://x:99999/"}, "`webhook_url` takes"),
    ({"webhook_url": "http://[::1"}, "`webhook_url` takes"),
    ({"webhook_url": "http://x/\x1b"}, "`webhook_url` takes"),
    ({"promt": "x"}, "`promt` is not a field of the request; did you mean `prompt`?"),
]


@pytest.mark.parametrize(("fields", "said"), RULES)
def test_each_rule_says_what_was_given_and_what_is_allowed(fields: dict[str, object], said: str) -> None:
    """One sentence a rule."""
    (sentence,) = broken_rules({**GOOD, **fields})
    assert said in sentence


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
def test_what_the_document_allows_passes(fields: dict[str, object]) -> None:
    """Nothing is refused at the edges of what is allowed."""
    assert broken_rules({**GOOD, **fields}) == []


def test_all_broken_rules_are_told_at_once() -> None:
    """So that all of them can be mended in one go; on the command line by their flags."""
    body = {"model": "flux", "prompt": "", "width": 1, "raw": 1, "interval": 9}
    assert len(broken_rules(body)) == 5
    assert any(sentence.startswith("`--width`") for sentence in broken_rules(body, flag))
    assert any(sentence.startswith("PROMPT") for sentence in broken_rules(body, flag))


@given(st.dictionaries(st.sampled_from(sorted(FIELDS)) | st.text(max_size=6), JSON, max_size=8))
def test_any_body_can_be_judged(body: dict[str, object]) -> None:
    """Whatever is in a batch's line: sentences of one line, no crash; what passes can be sent as JSON in UTF-8."""
    sentences = broken_rules(body, key)
    if not sentences:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
        assert set(body) <= set(FIELDS)
        assert body["model"] in MODELS


@pytest.mark.parametrize("secret", [1234567890, ["whsec-1234567890"], {"whsec-1234567890": 1}, 12345.67890])
def test_a_webhook_secret_of_the_wrong_type_is_not_quoted(secret: object) -> None:
    """An error message is no place for it."""
    (sentence,) = broken_rules({**GOOD, "webhook_secret": secret})
    assert sentence == "`webhook_secret` takes text"


@given(JSON)
def test_values_are_quoted_shortly(value: object) -> None:
    """A message stays a line."""
    assert len(shown(value)) <= 60


@given(st.text())
def test_any_text_is_a_url_or_not(text: str) -> None:
    """Never an exception; a URL has no space and nothing unprintable."""
    assert is_http_url(text) in (True, False)
    assert is_http_url(f"http://x/{text}") == (text.isprintable() and " " not in text) or "[" in text

"""The file of a batch: its formats, what a row is recognised by, and what is told of rows that cannot be used."""

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.batch import sheet as sheets
from flux_cli.batch.rows import Checks, Row, rows
from flux_cli.batch.sheet import BadRowError, Sheet
from flux_cli.errors import UsageError

SETTINGS = {"model": "flux-pro"}


def read(content: str | bytes, kind: str = "json") -> list[Row | BadRowError]:
    """Return the rows of a file with this content."""
    encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    return list(rows(Sheet("rows", kind, io.BytesIO(encoded))))


def good(content: str | bytes, kind: str = "json") -> list[Row]:
    """Return the rows of a file in which nothing is wrong."""
    found = read(content, kind)
    assert [str(each) for each in found if isinstance(each, BadRowError)] == []
    return [each for each in found if isinstance(each, Row)]


def complaints(content: str | bytes, kind: str, directory: Path = Path("pictures")) -> list[str]:
    """Return everything that is wrong with a file."""
    sheet = Sheet("rows", kind, io.BytesIO(content.encode() if isinstance(content, str) else content))
    checks = Checks(sheet, directory, SETTINGS, validate=True)
    found: list[str] = []
    for row in rows(sheet):
        found += [row.message] if isinstance(row, BadRowError) else [error.message for error in checks.errors(row)]
    return found


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ('{"prompt": "a kite"}\n\n{"prompt": "a cat", "width": 512}\n', "json"),
        ('\ufeff{"prompt": "a kite"}\r\n\r\n{"prompt": "a cat", "width": 512, "seed": null}', "json"),
        ("prompt,width\na kite,\n\na cat,512\n", "csv"),
        ('\ufeffwidth , prompt\r\n,a kite\r\n , \r\n512,"a cat"', "csv"),
    ],
)
def test_the_same_rows_in_every_format_are_the_same_rows(content: str, kind: str) -> None:
    """A BOM, CRLF, blank lines, empty cells and null make no difference, nor does the format."""
    found = good(content, kind)
    assert [dict(row.fields) for row in found] == [{"prompt": "a kite"}, {"prompt": "a cat", "width": 512}]
    assert [(row.position, row.line) for row in found] == [(1, 1 + (kind == "csv")), (2, 3 + (kind == "csv"))]
    assert [row.key for row in found] == [row.key for row in good("prompt,width\na kite,\na cat,512", "csv")]


def test_a_text_file_has_a_prompt_a_line_whatever_it_begins_with() -> None:
    """No comments: a prompt may begin with a hash sign."""
    assert [row.fields["prompt"] for row in good("#1 fan\r\n\n  a, b  \n{x\n", "text")] == ["#1 fan", "a, b", "{x"]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("x.jsonl", "a kite", "json"),
        ("x.ndjson", "", "json"),
        ("x.csv", "a kite", "csv"),
        ("x.txt", "prompt,width\n", "text"),
        ("x.txt", '{"prompt": "a kite"}\n', "json"),
        ("x", '\n\ufeff{"prompt": "a"}', "text"),
        ("x", '\ufeff\n{"prompt": "a"}', "json"),
        ("x", "prompt,width\na,512", "csv"),
        ("x", "prompt\na", "csv"),
        ("x", "a kite, prompt", "text"),
        ("x", "{curly} kite", "text"),
        ("x", "", "text"),
    ],
)
def test_the_format_is_told_by_the_name_else_by_the_first_line(
    tmp_path: Path, name: str, content: str, kind: str
) -> None:
    """And a text file that holds JSON objects is not sent to the service as prompts."""
    (tmp_path / name).write_text(content)
    with sheets.opened(str(tmp_path / name), io.BytesIO()) as sheet:
        assert sheet.kind == kind
    if name == "x":
        with sheets.opened("-", io.BytesIO(content.encode())) as sheet:
            assert (sheet.kind, sheet.name) == (kind, "stdin")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("x.json", b'[\n{"prompt": "a"}]', "is a JSON array"),
        ("x.jsonl", b'[{"prompt": "a"}]', "is a JSON array"),
        ("x.csv", "prompt\na".encode("utf-16"), "is UTF-16"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, told: str
) -> None:
    """What looks like rows and is none gets one message, not one a line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=told) as raised, sheets.opened(str(tmp_path / name), io.BytesIO()):
        pass
    assert raised.value.hint


def test_a_row_is_recognised_by_its_id_or_its_content_wherever_it_moves() -> None:
    """Rows that are equal are told apart by how many of them came before."""
    kite, cat, owl = '{"prompt": "kite"}', '{"prompt": "cat"}', '{"id": 7, "prompt": "owl"}'
    keys = {row.key for row in good("\n".join([kite, cat, kite, owl]))}
    assert len(keys) == 4
    assert "7" in keys
    grown = {row.key for row in good("\n".join(['{"prompt": "new"}', owl, kite, kite, cat, cat]))}
    assert keys < grown
    assert len(grown) == 6


def test_what_is_no_part_of_the_request_does_not_change_what_a_row_is() -> None:
    """Where the picture goes, and a secret, which must not be told by a hash either."""
    plain, other = (
        good(f'{{"prompt": "kite", "webhook_url": "https://x.example"{more}}}')[0]
        for more in ("", ', "output": "x.png", "webhook_secret": "hush"')
    )
    assert plain.key == other.key
    assert other.output == "x.png"


BAD = [
    ("json", '{"prompt": "a", "width": 255}', ["rows:1: column 17 (`width`) must be 256 to 1440, not 255"]),
    ("json", '{"prompt": "a"}\n{"prompt": " "}', ["rows:2: column 2 (`prompt`) must not be blank"]),
    ("json", "{}", ["rows:1: `prompt` must not be blank"]),
    ("json", '{"prompt": "a", "widht": 300}', ["rows:1: column 17: `widht` is not known; did you mean `width`?"]),
    ("json", '{"prompt": "a", "ouput": "x"}', ["rows:1: column 17: `ouput` is not known; did you mean `output`?"]),
    ("json", '{"prompt": "a"', ["rows:1: column 15: not JSON: expecting ',' delimiter"]),
    ("json", '"a kite"', ['rows:1: column 1: not a JSON object such as {"prompt": "a red kite"}']),
    ("json", '{"prompt": "a", "prompt": "b"}', ["rows:1: column 1: `prompt` is given twice"]),
    ("json", '{"prompt": ["a"]}', ["rows:1: column 2: `prompt` takes no list"]),
    (
        "json",
        '{"prompt": "\\ud83d kite"}',
        ["rows:1: column 2: `prompt` holds half a character, which cannot be sent"],
    ),
    ("json", '{"prompt": 7}', ["rows:1: column 2 (`prompt`) must be text, not '7'"]),
    ("json", '{"prompt": "a", "raw": 1}', ["rows:1: column 17 (`raw`) must be true or false, not '1'"]),
    ("json", '{"prompt": "a", "seed": NaN}', ["rows:1: column 17 (`seed`) must be a whole number, not 'nan'"]),
    (
        "json",
        '{"prompt": "a", "guidance": 1e400}',
        ["rows:1: column 17 (`guidance`) must be a finite number, not inf"],
    ),
    ("json", '{"prompt": "a", "id": true}', ["rows:1: column 17: `id` takes text"]),
    ("json", '{"prompt": "a", "id": "#1"}', ["rows:1: column 17 (`id`) must not begin with #"]),
    (
        "json",
        '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}',
        ["rows:2: column 17 (`id`) is that of line 1, too: x"],
    ),
    (
        "json",
        '{"prompt": "a", "output": "x.png"}\n{"prompt": "b", "output": "./x.png"}',
        ["rows:2: column 17 (`output`) is that of line 1, too: pictures/x.png"],
    ),
    ("json", '{"prompt": "a", "output": "-"}', ["rows:1: column 17 (`output`) takes the name of a file"]),
    ("json", '{"seed": ' + "9" * 5000 + "}", ["rows:1: column 1: a number has too many digits"]),
    ("text", "a\rb\rc", ["rows:1: a carriage return ends no line here; use other line ends"]),
    *(
        (
            "json",
            json.dumps({"prompt": "a", "output": output}),
            [f"rows:1: column 17 (`output`) leads out of the batch's directory: {output}"],
        )
        for output in ("../x.png", "/somewhere/x.png", "~/x.png", "..", "a/../../x.png", "../x-{slug}.{ext}")
    ),
    *(
        (
            "json",
            json.dumps({"prompt": "a", "output": output}),
            ["rows:1: column 17 (`output`) is the name of the batch's own results"],
        )
        for output in ("results.jsonl", "./RESULTS.jsonl")
    ),
    (
        "json",
        json.dumps({"prompt": "a", "output": f"{'n' * 300}.png"}),
        [f"rows:1: column 17 (`output`) is too long for a file's name: {'n' * 59}…"],
    ),
    ("json", '{"prompt": "a", "output": "{x}"}', ["rows:1: column 17 (`output`) does not know the field {x}"]),
    (
        "json",
        '{"prompt": "a", "image_prompt": "/nowhere/in.png"}',
        ["rows:1: column 17 (`image_prompt`) cannot be read: /nowhere/in.png: no such file or directory"],
    ),
    (
        "json",
        '{"prompt": "a", "image_prompt": "-"}',
        ["rows:1: column 17 (`image_prompt`) takes a file or a URL, standard input has the rows"],
    ),
    (
        "json",
        '{"raw": true, "prompt": "a", "interval": 9}',
        [
            "rows:1: column 2 (`raw`) needs `flux-pro-1.1-ultra`, the model is `flux-pro`",
            "rows:1: column 30 (`interval`) must be 1 to 4, not 9",
        ],
    ),
    (
        "csv",
        "prompt,width,seed\na,2,x\nb,512,1\nc,y,z",
        [
            "rows:2: column 3: `seed` must be a whole number, not `x`",
            "rows:4: column 2: `width` must be a whole number, not `y`",
            "rows:4: column 3: `seed` must be a whole number, not `z`",
        ],
    ),
    ("csv", "prompt,width\na,2", ["rows:2: column 2 (`width`) must be 256 to 1440, not 2"]),
    (
        "csv",
        "promt,width\na,512",
        [
            "rows:1: column 1: `promt` is not known; did you mean `prompt`?",
            "rows:1: there is no column `prompt`; the first line has to name the columns",
        ],
    ),
    ("csv", "prompt,seed,seed\na,1,2", ["rows:1: column 3: `seed` is given twice"]),
    (
        "csv",
        "prompt\na cat, sleeping",
        ["rows:2: column 2: 2 cells for 1 column; a text with a comma needs quotes around it"],
    ),
    ("csv", 'prompt\n"two\nlines"\n"open\nb\nc', ["rows:4: not CSV from here on: unexpected end of data"]),
    ("csv", b"prompt\nok\n\xff\n", ["rows:3: column 1: this is not UTF-8 text"]),
    ("text", b"ok\na \xe9 b\nok", ["rows:2: column 3: this is not UTF-8 text"]),
    ("json", b'{"prompt": "\xc3\xa9\xff"}', ["rows:1: column 14: this is not UTF-8 text"]),
]


@pytest.mark.parametrize(("kind", "content", "told"), BAD)
def test_what_is_wrong_with_a_row_is_told_with_line_and_column(
    kind: str, content: str | bytes, told: list[str]
) -> None:
    """A table of mistakes, each with the whole of what is told."""
    assert complaints(content, kind) == told


def test_nothing_is_wrong_with_rows_that_the_service_takes() -> None:
    """The same file may be meant twice where no file name is."""
    content = '{"prompt": "a"}\n{"prompt": "a", "output": "sub/"}\n{"prompt": "a", "output": "{n}.png"}'
    assert complaints(content, "json") == []


PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


@given(st.lists(PLAIN, min_size=1, max_size=8))
def test_whatever_the_prompts_they_come_through_json_and_csv(prompts: list[str]) -> None:
    """Quotes, commas, brackets and every script: the prompts come back, and as the same rows."""
    as_json = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    as_csv = io.StringIO()
    csv.writer(as_csv).writerows([["prompt"], *([prompt] for prompt in prompts)])
    from_json, from_csv = good(as_json), good(as_csv.getvalue(), "csv")
    assert [row.fields["prompt"] for row in from_json] == prompts
    assert [(row.fields, row.key) for row in from_csv] == [(row.fields, row.key) for row in from_json]
    assert len({row.key for row in from_json}) == len(prompts)


@given(st.binary(max_size=200), st.sampled_from(["json", "csv", "text"]))
def test_no_bytes_at_all_break_the_reader(content: bytes, kind: str) -> None:
    """Everything is a row or a complaint with its line."""
    for each in read(content, kind):
        assert each.line >= 1


@given(st.dictionaries(PLAIN, st.none() | st.integers() | PLAIN | st.lists(st.integers(), max_size=2), max_size=5))
def test_the_column_is_where_the_name_stands(values: dict[str, object]) -> None:
    """Whatever other names and values come before it."""
    line = json.dumps(values, ensure_ascii=False)
    (found,) = Sheet("rows", "json", io.BytesIO(line.encode())).lines()
    assert not isinstance(found, BadRowError)
    for name in values:
        column = found.column_of(name)
        assert column is not None
        assert line[column - 1 :].startswith(json.dumps(name, ensure_ascii=False))

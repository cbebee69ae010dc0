"""The file of a batch: its formats, the keys of its rows, and the messages about rows that cannot be used."""

import csv
import io
import json
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flux_cli.batch import reader
from flux_cli.batch.reader import RowFile
from flux_cli.batch.rows import Row, check, parse
from flux_cli.batch.shards import Shard
from flux_cli.errors import FluxError, UsageError

DEFAULTS = {"model": "flux-pro"}
DIRECTORY = Path("pictures")


def read(content: str | bytes, format_name: str = "jsonl") -> RowFile:
    """Return a file with this content, as it is read."""
    encoded = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
    file = reader.read("-", io.BytesIO(encoded), format_name)
    return RowFile("rows", file.format, file.rows, file.header, file.header_line, file.errors)


def good(content: str | bytes, format_name: str = "jsonl", shard: str = "1/1") -> list[Row]:
    """Return the rows of a file in which nothing is wrong."""
    rows, errors = parse(read(content, format_name), Shard.parse(shard), DIRECTORY)
    assert [error.message for error in errors] == []
    return rows


def messages(
    content: str | bytes, format_name: str, shard: str = "1/1", *, ignore_unknown: bool = False
) -> list[str]:
    """Return everything that is wrong with a file."""
    file = read(content, format_name)
    rows, errors = parse(file, Shard.parse(shard), DIRECTORY, ignore_unknown=ignore_unknown)
    for row in rows:
        errors += [file.error(row.line, each) for each in check(row, DIRECTORY, DEFAULTS, validate=True)]
    found = sorted(errors, key=lambda error: error.line)
    return [error.message.replace("stdin:", "rows:", 1) for error in found]


@pytest.mark.parametrize(
    ("content", "format_name"),
    [
        ('{"prompt": "a kite"}\n\n{"prompt": "a cat", "width": 512}\n', "jsonl"),
        ('\ufeff{"prompt": "a kite"}\r\n\r\n{"prompt": "a cat", "width": 512, "seed": null}', "jsonl"),
        ("prompt,width\na kite,\n\na cat,512\n", "csv"),
        ('\ufeffwidth , prompt\r\n,a kite\r\n , \r\n512,"a cat"', "csv"),
    ],
)
def test_equal_rows_in_every_format(content: str, format_name: str) -> None:
    """A BOM, CRLF, blank lines, empty cells and null make no difference, nor does the format."""
    found = good(content, format_name)
    assert [dict(row.fields) for row in found] == [{"prompt": "a kite"}, {"prompt": "a cat", "width": 512}]
    assert [(row.position, row.line) for row in found] == [
        (1, 1 + (format_name == "csv")),
        (2, 3 + (format_name == "csv")),
    ]
    assert [row.key for row in found] == [row.key for row in good("prompt,width\na kite,\na cat,512", "csv")]


def test_text_has_one_prompt_per_line() -> None:
    """No comments: a prompt may begin with a hash sign."""
    assert [row.fields["prompt"] for row in good("#1 fan\r\n\n  a, b  \n{x\n", "text")] == ["#1 fan", "a, b", "{x"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("x.jsonl", "a kite", "jsonl"),
        ("x.ndjson", "", "jsonl"),
        ("x.JSON", "", "jsonl"),
        ("x.csv", "a kite", "csv"),
        ("x.tsv", "prompt\twidth\n", "tsv"),
        ("x.txt", "a kite, prompt", "text"),
        ("x.txt", '{"prompt": "a kite"}\n', "jsonl"),
        ("x.txt", "{curly} kite", "text"),
    ],
)
def test_format_by_extension(tmp_path: Path, name: str, content: str, expected: str) -> None:
    """A text file with JSON objects is read as JSON Lines, because they are not meant as prompts."""
    (tmp_path / name).write_text(content)
    assert reader.read(str(tmp_path / name), io.BytesIO()).format == expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('\n\ufeff{"prompt": "a"}', "text"),
        ('\ufeff\n{"prompt": "a"}', "jsonl"),
        ("prompt,width\na,512", "csv"),
        ("prompt;notes\na;b", "csv"),
        ("prompt\twidth\na\t512", "csv"),
        ("sep=;\nprompt;width\n", "csv"),
        ("prompt\na", "csv"),
        ("a kite, prompt", "text"),
        ("{curly} kite", "text"),
        ("", "text"),
    ],
)
def test_format_of_stdin(tmp_path: Path, content: str, expected: str) -> None:
    """Its first line decides; a named pipe is treated the same."""
    file = reader.read("-", io.BytesIO(content.encode()))
    assert (file.format, file.name) == (expected, "stdin")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(content))
    writer.start()
    assert reader.read(str(pipe), io.BytesIO()).format == expected
    writer.join()


EXTENSION, HEADER = "cannot tell the format of .* from its extension", "is a header of columns, not a prompt"
HEADERS = ("prompt,width", "prompt", "Prompt;notes", "prompt\tseed", "sep=;", "id,prompt")


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        *((name, b"prompt\na", EXTENSION, "--format jsonl") for name in ("rows", "x.dat", "x.text", "x.csv.bak")),
        *(("x.txt", f"\n{header}\na kite,5\n".encode(), HEADER, "--format csv") for header in HEADERS),
        ("x.json", b'[\n{"prompt": "a"}]', "is a JSON array", "one object per line"),
        ("x.jsonl", b'[{"prompt": "a"}]', "is a JSON array", "one object per line"),
        ("x.csv", "prompt\na".encode("utf-16"), "is UTF-16", "save it as UTF-8"),
    ],
)
def test_files_that_are_not_read(tmp_path: Path, name: str, content: bytes, message: str, hint: str) -> None:
    """A guess could turn a table into prompts, each of which would be charged. One message, not one per line."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        reader.read(str(tmp_path / name), io.BytesIO())
    assert hint in str(raised.value.hint)


@pytest.mark.parametrize(
    ("content", "width"),
    [
        ('prompt,width\n"a, b; c",512', 512),
        ('prompt;width\n"a, b; c";512', 512),
        ('prompt\twidth\n"a, b; c"\t512', 512),
        ('sep=;\r\nprompt;width\r\n"a, b; c";512', 512),
        ('sep=|\nprompt|width\n"a, b; c"|512', 512),
        ('prompt\n"a, b; c"', None),
    ],
)
def test_csv_delimiter(content: str, width: int | None) -> None:
    """It is detected from the header, or named by Excel's first line."""
    (row,) = good(content, "csv")
    assert (row.fields["prompt"], row.fields.get("width")) == ("a, b; c", width)


def test_unknown_columns_are_ignored_on_request() -> None:
    """In CSV and JSON; they do not change the keys of rows."""
    table, objects = "notes,prompt\nx y,a\n", '{"notes": ["x", "y"], "prompt": "a"}'
    assert messages(table, "csv") == [
        "rows:1: column 1: unknown column `notes`; --ignore-unknown-columns skips it"
    ]
    assert len(messages(objects, "jsonl")) == 1
    for content, format_name in ((table, "csv"), (objects, "jsonl")):
        assert messages(content, format_name, ignore_unknown=True) == []
        rows, _ = parse(read(content, format_name), Shard(), DIRECTORY, ignore_unknown=True)
        assert [row.key for row in rows] == [row.key for row in good("a", "text")]


def test_an_endless_file_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops at a limit."""
    monkeypatch.setattr(reader, "MAX_BYTES", 1000)
    with pytest.raises(FluxError, match="is larger than"):
        reader.read("/dev/zero", io.BytesIO(), "text")
    assert len(reader.read("-", io.BytesIO(b"x" * 1000), "text").rows) == 1


def test_key_is_the_id_or_the_content() -> None:
    """Rows with equal content are numbered in the order of the file."""
    kite, cat, owl = '{"prompt": "kite"}', '{"prompt": "cat"}', '{"id": 7, "prompt": "owl"}'
    keys = {row.key for row in good("\n".join([kite, cat, kite, owl]))}
    assert len(keys) == 4
    assert "7" in keys
    grown = {row.key for row in good("\n".join(['{"prompt": "new"}', owl, kite, kite, cat, cat]))}
    assert keys < grown
    assert len(grown) == 6


def test_keys_of_version_0_1_0() -> None:
    """Directories of earlier versions have these keys."""
    rows = good('{"seed": 5, "prompt": "a kite"}\n{"prompt": "a kite", "seed": 5}\n{"id": " x ", "prompt": "b"}')
    assert [row.key for row in rows] == ["#b7c2506a04bddca7-1", "#b7c2506a04bddca7-2", "x"]


def test_output_and_secret_do_not_change_the_key() -> None:
    """They are not part of the picture, and a hash must not reveal a secret."""
    plain, other = (
        good(f'{{"prompt": "kite", "webhook_url": "https://x.example"{more}}}')[0]
        for more in ("", ', "output": "x.png", "webhook_secret": "hush"')
    )
    assert plain.key == other.key
    assert other.output == "x.png"


@pytest.mark.parametrize("format_name", ["jsonl", "csv"])
@given(st.lists(st.tuples(st.sampled_from(["kite", "cat", ""]), st.integers(1, 3), st.booleans()), max_size=20))
def test_shards_have_the_keys_of_the_whole(format_name: str, rows: list[tuple[str, int, bool]]) -> None:
    """Whatever rows of other shards are skipped. An empty prompt, as of --no-validate, is no exception."""
    lines = ["prompt,seed,id"] if format_name == "csv" else []
    for number, (prompt, seed, has_id) in enumerate(rows):
        own_id = f"i{number}" if has_id else ""
        values = json.dumps({"prompt": prompt, "seed": seed, "id": own_id})
        lines.append(f"{prompt},{seed},{own_id}" if format_name == "csv" else values)
    content = "\n".join(lines)
    whole = good(content, format_name)
    for count in (1, 2, 3, 7):
        shards = [good(content, format_name, f"{number}/{count}") for number in range(1, count + 1)]
        found = sorted((row for shard in shards for row in shard), key=lambda row: row.position)
        assert [(row.position, row.line, row.key) for row in found] == [
            (row.position, row.line, row.key) for row in whole
        ]


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "0/0", "x", "1/2/3", "-1/2", "1", ""])
def test_what_is_no_shard(text: str) -> None:
    """It is two numbers, the first from 1 to the second."""
    with pytest.raises(UsageError, match=f"from 1 to N, not `{text}`"):
        Shard.parse(text)
    assert [str(Shard.parse(good)) for good in ("1/1", " 3/3 ")] == ["1/1", "3/3"]


def test_a_shard_checks_only_its_rows() -> None:
    """Of the others it reports what conflicts: equal IDs and outputs."""
    rows = [
        '{"prompt": "a", "id": "x", "output": "one.png"}',
        '{"prompt": "b", "width": 1}',
        "not JSON",
        '{"prompt": "c", "id": "x"}',
        '{"prompt": "d", "output": "./one.png"}',
    ]
    shared = [
        "rows:4: column 17 (`id`) is the same as in line 1: x",
        "rows:5: column 17 (`output`) is the same as in line 1: pictures/one.png",
    ]
    assert messages("\n".join(rows), "jsonl", "1/5") == shared
    assert messages("\n".join(rows), "jsonl", "2/5") == [
        "rows:2: column 17 (`width`) must be 256 to 1440, not 1",
        *shared,
    ]


NEEDS_ULTRA = "column 2 (`raw`) needs `flux-pro-1.1-ultra`, but the model is `flux-pro`"
OUTSIDE = ("../x.png", "/somewhere/x.png", "~/x.png", "..", "a/../../x.png", "../x-{slug}.{ext}")
RESERVED = ("results.jsonl", "./RESULTS.jsonl", ".flux-cli/x.png", ".Flux-Cli")
VALUES = [
    ('"width": 255', " (`width`) must be 256 to 1440, not 255"),
    ('"widht": 300', ": unknown column `widht`; did you mean `width`?"),
    ('"ouput": "x"', ": unknown column `ouput`; did you mean `output`?"),
    ('"raw": 1', " (`raw`) must be true or false, not '1'"),
    ('"seed": NaN', " (`seed`) must be a whole number, not 'nan'"),
    ('"guidance": 1e400', " (`guidance`) must be a finite number, not inf"),
    ('"id": true', ": `id` takes text"),
    ('"id": "#1"', " (`id`) must not begin with #"),
    ('"output": "-"', " (`output`) takes the name of a file"),
    *((f'"{name}": "a\\u0000b"', f": `{name}` takes text") for name in ("id", "output")),
    ('"output": "{x}"', " (`output`) has an unknown field {x}"),
    (f'"output": "{"n" * 300}.png"', f" (`output`) is too long for a file name: {'n' * 59}…"),
    *((f'"output": "{name}"', f" (`output`) is outside the batch directory: {name}") for name in OUTSIDE),
    *((f'"output": "{name}"', f" (`output`) is a name that the batch uses itself: {name}") for name in RESERVED),
    ('"image_prompt": "-"', " (`image_prompt`) must be a file or a URL: stdin contains the rows"),
    (
        '"image_prompt": "/nowhere/in.png"',
        " (`image_prompt`) cannot be read: /nowhere/in.png: no such file or directory",
    ),
]


def test_rows_may_share_an_output_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / "sky").mkdir()
    row = '{"prompt": "a", "output": "sky"}'
    rows, errors = parse(read(f"{row}\n{row}"), Shard.parse("1/1"), tmp_path)
    assert (len(rows), errors) == (2, [])


@pytest.mark.parametrize(("value", "message"), VALUES)
def test_messages_about_values(value: str, message: str) -> None:
    """With the column in which the value begins."""
    assert messages(f'{{"prompt": "a", {value}}}', "jsonl") == [f"rows:1: column 17{message}"]


BAD = [
    ("jsonl", '{"prompt": "a"}\n{"prompt": " "}', ["2: column 2 (`prompt`) must not be blank"]),
    ("jsonl", "{}", ["1: `prompt` must not be blank"]),
    ("jsonl", '{"prompt": "a"', ["1: column 15: not JSON: expecting ',' delimiter"]),
    ("jsonl", '"a kite"', ['1: column 1: not a JSON object such as {"prompt": "a red kite"}']),
    ("jsonl", '{"prompt": "a", "prompt": "b"}', ["1: column 1: `prompt` appears twice"]),
    ("jsonl", '{"prompt": ["a"]}', ["1: column 2: `prompt` takes no list"]),
    ("jsonl", '{"prompt": 7}', ["1: column 2 (`prompt`) must be text, not '7'"]),
    (
        "jsonl",
        '{"prompt": "\\ud83d"}',
        ["1: column 2: `prompt` contains half a surrogate pair, which cannot be sent"],
    ),
    ("jsonl", '{"seed": ' + "9" * 5000 + "}", ["1: column 1: a number has too many digits"]),
    ("jsonl", b'{"prompt": "\xc3\xa9\xff"}', ["1: column 14: this is not UTF-8 text"]),
    (
        "jsonl",
        '{"raw": true, "prompt": "a", "interval": 9}',
        [f"1: {NEEDS_ULTRA}", "1: column 30 (`interval`) must be 1 to 4, not 9"],
    ),
    ("text", "a\rb\rc", ["1: a carriage return does not end a line; use LF or CRLF"]),
    ("text", b"ok\na \xe9 b\nok", ["2: column 3: this is not UTF-8 text"]),
    ("csv", "prompt,width\na,2", ["2: column 2 (`width`) must be 256 to 1440, not 2"]),
    ("csv", "prompt,seed,seed\na,1,2", ["1: column 3: `seed` appears twice"]),
    ("csv", "prompt\na, b", ["2: column 2: 2 cells for 1 column; text that contains the delimiter needs quotes"]),
    ("csv", 'prompt\n"two\nlines"\n"open\nb\nc', ["4: invalid CSV: unexpected end of data"]),
    ("csv", b"prompt\nok\n\xff\n", ["3: column 1: this is not UTF-8 text"]),
    ("csv", "sep=;\nprompt;width\na;2", ["3: column 2 (`width`) must be 256 to 1440, not 2"]),
    ("csv", "sep=;\nprompt;x\na;2", ["2: column 2: unknown column `x`; --ignore-unknown-columns skips it"]),
    (
        "csv",
        "prompt,width,seed\na,2,x\nb,512,1\nc,y,z",
        [
            "2: column 3: `seed` must be a whole number, not `x`",
            "4: column 2: `width` must be a whole number, not `y`",
            "4: column 3: `seed` must be a whole number, not `z`",
        ],
    ),
    (
        "csv",
        "promt,width\na,512",
        [
            "1: column 1: unknown column `promt`; did you mean `prompt`?",
            "1: there is no column `prompt`; the first line has to name the columns",
        ],
    ),
]


@pytest.mark.parametrize(("format_name", "content", "expected"), BAD)
def test_messages_about_rows(format_name: str, content: str | bytes, expected: list[str]) -> None:
    """Invalid files, each with all errors."""
    assert messages(content, format_name) == [f"rows:{each}" for each in expected]


def test_valid_rows() -> None:
    """Two rows may have the same value if it is not a file name."""
    content = '{"prompt": "a"}\n{"prompt": "a", "output": "sub/"}\n{"prompt": "a", "output": "{n}.png"}'
    assert messages(content, "jsonl") == []


PLAIN = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).filter(str.strip)


@given(st.lists(PLAIN, min_size=1, max_size=8))
def test_any_prompt_in_json_and_csv(prompts: list[str]) -> None:
    """Quotes, commas, brackets and every script: the prompts come back, and as the same rows."""
    as_json = "\n".join(json.dumps({"prompt": prompt}) for prompt in prompts)
    as_csv = io.StringIO()
    csv.writer(as_csv).writerows([["prompt"], *([prompt] for prompt in prompts)])
    from_json, from_csv = good(as_json), good(as_csv.getvalue(), "csv")
    assert [row.fields["prompt"] for row in from_json] == prompts
    assert [(row.fields, row.key) for row in from_csv] == [(row.fields, row.key) for row in from_json]
    assert len({row.key for row in from_json}) == len(prompts)


@given(st.binary(max_size=200), st.sampled_from(["jsonl", "csv", "text"]))
def test_any_bytes(content: bytes, format_name: str) -> None:
    """Every line is a row or an error with its line number."""
    try:
        file = read(content, format_name)
    except UsageError:
        return
    rows, errors = parse(file, Shard(), DIRECTORY)
    assert all(row.line >= 1 for row in rows)
    assert all(error.line >= 1 for error in errors)


@given(st.dictionaries(PLAIN, st.none() | st.integers() | PLAIN | st.lists(st.integers(), max_size=2), max_size=5))
def test_columns_in_messages(values: dict[str, object]) -> None:
    """Whatever other names and values come before it."""
    line = json.dumps(values, ensure_ascii=False)
    _, errors = parse(read(line), Shard(), DIRECTORY)
    for error in errors:
        column = int(error.message.split("column ")[1].split(":")[0])
        name, _ = json.JSONDecoder().raw_decode(line, column - 1)
        assert name in values

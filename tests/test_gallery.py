"""`flux-cli gallery`: which pictures, the page as a file, and the page in a real browser."""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from flux_cli.api.task import Status
from flux_cli.gallery.collection import Picture
from flux_cli.gallery.command import command, note, quoted
from flux_cli.gallery.thumbnails import thumbnails
from flux_cli.pictures import sidecar
from flux_cli.storage.history import History
from tests.conftest import Cli
from tests.test_imagine import SMALL


def entries(page: Path) -> list[dict[str, Any]]:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.DOTALL)
    found: list[dict[str, Any]] = json.loads(data)
    return found


def built(cli: Cli, *arguments: str, stderr: str = "") -> list[dict[str, Any]]:
    """Run `flux-cli gallery`, and return the data of the page whose path it printed."""
    done = cli("gallery", *arguments)
    assert (done.code, done.stderr) == (0, stderr)
    (path,) = done.lines
    return entries(cli.cwd / path)


def prompts(found: list[dict[str, Any]]) -> list[str]:
    return [entry["prompt"] for entry in found]


class Made:
    """Pictures on disk that are in the history of a command's home, each newer than the one before."""

    def __init__(self, cli: Cli) -> None:
        self.cli = cli
        cli.history_file.parent.mkdir(parents=True, exist_ok=True)
        self.history = History(cli.history_file)
        self.number = 0

    def add(self, prompt: str, name: str = "001.png") -> None:
        self.number += 1
        path = self.cli.cwd / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), (self.number * 40 % 256, 90, 160)).save(path, "PNG")
        (number,) = self.history.begin("sandbox", [{"model": "flux-pro", "prompt": prompt}])
        self.history.accepted(number, f"task-{self.number}")
        self.history.ended(number, Status.FINISHED, path=str(path))


@pytest.fixture
def made(cli: Cli) -> Made:
    return Made(cli)


def write_sidecar(path: Path, request: Mapping[str, Any], service: str = "sandbox") -> None:
    sidecar.write(path, request, task_id="x", created=1.0, service=service, force=True)


def test_the_whole_history(made: Made) -> None:
    """Newest first, wherever the files are; a path that was used twice has its newer picture."""
    for name, prompt in (("a/1.png", "one"), ("b/2.png", "two"), ("b/3.png", "gone"), ("4.png", "replaced")):
        made.add(prompt, name)
    made.add("four", "4.png")
    (made.cli.cwd / "b/3.png").unlink()
    found = built(made.cli, stderr="omitted 1 picture whose file no longer exists\n")
    assert prompts(found) == ["four", "two", "one"]


def test_a_directory(made: Made) -> None:
    """Pictures in it and below, from the history and from sidecars, even if they were copied."""
    for prompt, name in (("outside", "outside.png"), ("inside", "pics/a.png"), ("below", "pics/deep/b.png")):
        made.add(prompt, name)
    folder = made.cli.cwd / "pics"
    long = f"{'x' * 250}.png"  # a sidecar's name would be too long
    for name in ("deep/copied.png", ".hidden/no.png", "plain.png", "broken.png", long):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(folder / "a.png", folder / name)
    for name in ("deep/copied.png", ".hidden/no.png"):
        write_sidecar(folder / name, {"model": "flux-dev", "prompt": "copied"})
    (folder / "broken.png.json").write_text("{")
    (folder / "alone.png.json").write_text((folder / "deep/copied.png.json").read_text())
    assert prompts(built(made.cli, "pics")) == ["below", "inside", "copied"]


def test_sidecars_alone_are_enough(flux: Cli) -> None:
    """A directory from another machine, without its history."""
    name = flux("imagine", "a kite", "--seed", "3", "--sidecar", "-o", "pics/", *SMALL).lines[0]
    flux.history_file.unlink()
    (entry,) = built(flux, "pics")
    assert (entry["prompt"], entry["seed"], entry["url"]) == ("a kite", "3", f"./{Path(name).name}")
    assert (entry["width"], entry["height"]) == (256, 256)
    assert entry["created"] == pytest.approx(time.time(), abs=600)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 6, "no picture in the history is from flux-cli"),
        (["."], 6, "no picture in . is from flux-cli"),
        (["missing"], 6, "cannot read missing: no such file or directory"),
        (["-o", "."], 2, "is a directory"),
        (["-o", "missing/"], 2, "is a directory"),
        (["-o", "missing/x.html"], 6, "missing"),
    ],
)
def test_errors(cli: Cli, arguments: list[str], code: int, message: str) -> None:
    if arguments[-1:] == ["missing/x.html"]:
        Made(cli).add("x")
    before = cli.files()
    cli.fails(code, message, "gallery", *arguments)
    assert cli.files() == before
    assert bool(before) == cli.history_file.exists()


def test_only_an_earlier_page_is_replaced(made: Made) -> None:
    made.add("one", "1.png")
    page = made.cli.cwd / "gallery.html"
    page.write_text("<h1>mine</h1>")
    made.cli.fails(6, "gallery.html exists and is not a gallery", "gallery")
    assert page.read_text() == "<h1>mine</h1>"
    assert prompts(built(made.cli, "--force")) == ["one"]
    made.add("two", "2.png")
    assert prompts(built(made.cli)) == ["two", "one"]


def test_thumbnails_are_reused(made: Made) -> None:
    """From the earlier page, until name, size or time of the file changes. A broken page is ignored."""
    made.add("one", "1.png")
    made.add("two", "2.png")
    page = made.cli.cwd / "gallery.html"
    new, old = built(made.cli)
    mark = "data:image/webp;base64,AAAA"
    page.write_text(page.read_text().replace(new["thumbnail"], mark).replace(old["thumbnail"], mark))
    Image.new("RGB", (80, 80), "red").save(made.cli.cwd / "1.png")
    kept, renewed = built(made.cli)
    assert kept["thumbnail"] == mark
    assert renewed["thumbnail"].startswith("data:image/webp;base64,UklG")  # RIFF
    assert (renewed["width"], renewed["height"]) == (80, 80)
    page.write_text(page.read_text().replace('"stamp":', '"stamp":[', 1))
    assert [entry["thumbnail"] == mark for entry in built(made.cli)] == [False, False]


def test_the_page_is_self_contained(made: Made) -> None:
    """Its URLs lead only to the pictures, and its policy allows only its own parts."""
    made.add("a kite")
    built(made.cli)
    text = re.sub(r"data:image/webp;base64,[\w+/=]+", "data:", (made.cli.cwd / "gallery.html").read_text())
    assert re.findall(r"""(?:src|href)=["'](?!data:)""", text) == []
    assert re.findall(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-z]", text) == []
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy


def test_without_pillow(made: Made, tmp_path: Path) -> None:
    made.add("a kite")
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['PIL'] = None\n")
    done = made.cli.process("gallery", env={"PYTHONPATH": str(tmp_path)})
    assert (done.code, done.lines) == (0, ["gallery.html"])
    assert done.stderr.startswith("no thumbnails: they need the extra `preview`")
    (entry,) = entries(made.cli.cwd / "gallery.html")
    assert (entry["thumbnail"], entry["url"]) == ("", "./001.png")


NAMES = ["a b.png", "a#b?c.png", "100%.png", "javascript:alert(1).png", "ü.png", "'\".png", "\udcff.png", "..png"]


def test_urls(made: Made) -> None:
    for name in NAMES:
        made.add("x", name)
    (made.cli.cwd / "pages").mkdir()
    for output, up in (("gallery.html", "./"), ("pages/all.html", "../")):
        for entry in built(made.cli, "-o", output):
            assert entry["url"].startswith(up)
            assert re.fullmatch(r"[A-Za-z0-9._/%~-]+", entry["url"])
            directory = os.fsencode((made.cli.cwd / output).parent)
            assert os.path.isfile(os.path.join(directory, unquote_to_bytes(entry["url"])))


REQUESTS: list[Mapping[str, Any]] = [
    {"prompt": "a kite"},
    {"prompt": "it's \"5 o'clock\" in $HOME `id` $(id) \\ !! *"},
    {"prompt": "--help"},
    {"prompt": "two\nlines\tand a tab\r"},
    {"prompt": "\x1b[201~; id\x07 \x85 \u202e evil '\\"},
    {"prompt": "x", "seed": -3, "width": 1024, "height": 768, "guidance": 2.5, "steps": 30, "interval": 4},
    {"prompt": "x", "model": "flux-pro-1.1-ultra", "raw": True, "aspect_ratio": "21:9", "safety_tolerance": 0},
    {"prompt": "x", "model": "flux-pro-1.1-ultra", "raw": False, "prompt_upsampling": False},
    {"prompt": "x", "model": "flux-9", "width": 4096},
]


def history_picture(**request: Any) -> Picture:
    """Return a picture of this machine's history, from the sandbox."""
    return Picture(Path("/x.png"), {"model": "flux-pro", **request}, "task-1", None, sandbox=True, trusted=True)


def foreign_picture(**request: Any) -> Picture:
    """Return a picture with a sidecar that anyone can have written."""
    return Picture(Path("/x.png"), {"model": "flux-pro", "seed": 1, **request}, "task-1", None)


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: str(request["prompt"])[:20].encode())
def test_the_command_makes_the_same_request(cli: Cli, request_: Mapping[str, Any]) -> None:
    """A shell splits it into words, and the program reads the same request from them."""
    picture = history_picture(**request_)
    line = command(picture)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", line)
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    script = line.replace("flux-cli", "printf '%s\\0'", 1)
    words = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=True).stdout
    arguments = words.decode().split("\0")[:-1]
    done = cli(arguments[0], "--dry-run", *arguments[1:])
    assert done.code == 0, done.stderr
    assert json.loads(done.stdout) == picture.request


def test_command_with_an_image_prompt() -> None:
    image = {"source": "/a b.png", "sha256": "0", "type": "image/png", "bytes": 1}
    picture = history_picture(prompt="x", image_prompt=image, webhook_url="https://e.org", webhook_secret="s")
    assert command(picture) == "flux-cli imagine --model flux-pro --image-prompt '/a b.png' --sandbox x"
    picture = history_picture(prompt="x", image_prompt={**image, "source": None}, seed=1)
    assert command(picture) == "flux-cli imagine --model flux-pro --image-prompt - --seed 1 --sandbox x"
    assert note(picture) == "The image prompt came from stdin: pipe the same image in."
    assert note(history_picture(prompt="x")) == "No seed was set: the same request gives another picture."
    assert command(history_picture(prompt="-")) == "flux-cli imagine --like task-1"


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        ({"api_url": "https://evil.example", "sandbox": False, "verbose": True}, ""),
        ({"output": "/etc/passwd", "force": True, "open": True, "--force": True}, ""),
        ({"webhook_url": "https://evil.example", "webhook_secret": "s"}, ""),
        ({"raw": "yes", "width": "300", "height": True, "steps": [1], "guidance": None}, ""),
        ({"aspect_ratio": "--api-url=https://e.vil"}, " --aspect-ratio=--api-url=https://e.vil --no-validate"),
        ({"image_prompt": {"source": "/home/me/private.png"}}, " --image-prompt -"),
        ({"image_prompt": "aGk="}, ""),
    ],
)  # fmt: skip
def test_the_command_of_a_foreign_sidecar_is_harmless(request_: dict[str, Any], expected: str) -> None:
    """Only fields of the request, with values of their type: no URL, no other option, no file of this machine."""
    assert (
        command(foreign_picture(**request_, prompt="x"))
        == f"flux-cli imagine --model flux-pro --seed 1{expected} x"
    )


def test_a_foreign_sidecar_with_a_special_prompt() -> None:
    """What cannot be an argument is read from the sidecar; an image prompt has to be piped in."""
    assert command(foreign_picture(prompt="a\0b")) == "flux-cli imagine --like /x.png"
    assert command(foreign_picture(prompt="--force")) == "flux-cli imagine --model flux-pro --seed 1 -- --force"
    described = foreign_picture(prompt="x", image_prompt={"source": "kite.png"})
    assert note(described) == "The image prompt was kite.png: pipe the same image in."


def test_a_foreign_service_is_not_used(cli: Cli) -> None:
    Image.new("RGB", (8, 8)).save(cli.cwd / "x.png")
    write_sidecar(cli.cwd / "x.png", {"model": "flux-pro", "prompt": "a kite"}, "https://evil.example")
    (entry,) = built(cli, ".")
    assert entry["command"] == "flux-cli imagine --model flux-pro 'a kite'"
    assert "evil" not in (cli.cwd / "gallery.html").read_text()


def batch_result(path: Path, **values: Any) -> str:
    result = {"row": "1", "line": 1, "service": "sandbox", "task_id": "t1", "path": str(path), "seed": None}
    return json.dumps({**result, "model": "flux-pro", "prompt": path.stem, **values}) + "\n"


def test_a_batch_directory_is_enough(cli: Cli) -> None:
    """Its results and journals name the pictures, even if it was moved; a sidecar counts more."""
    directory = cli.cwd / "moved"
    (directory / "sub").mkdir(parents=True)
    (directory / ".flux-cli").mkdir()
    old = Path("/mnt/old/batch")
    for name in ("one.png", "sub/two.png", "three.png", "four.png"):
        Image.new("RGB", (8, 8)).save(directory / name)
    request = {"model": "flux-dev", "prompt": "full request", "width": 300}
    (directory / "results.jsonl").write_text(
        batch_result(old / "one.png", prompt="replaced")
        + "not JSON\n[]\n"
        + batch_result(old / "one.png", seed=7)
        + batch_result(old / "sub/two.png", request=request)
        + batch_result(old / "missing.png")
        + batch_result(old / "four.png")
        + batch_result(Path("../../outside.png"))
        + '{"path": 7}\n{"path": "a\\u0000b"}\n'
    )
    closed = {"event": "closed", "result": json.loads(batch_result(old / "three.png"))}
    (directory / ".flux-cli/journal-000001-host.jsonl").write_text(
        json.dumps({"row": "3"}) + "\n" + json.dumps(closed)
    )
    write_sidecar(directory / "four.png", request)
    found = {entry["url"]: entry for entry in built(cli, "moved")}
    assert {url: entry["prompt"] for url, entry in found.items()} == {
        "./one.png": "one",
        "./sub/two.png": "full request",
        "./three.png": "three",
        "./four.png": "full request",
    }
    assert found["./one.png"]["command"] == "flux-cli imagine --model flux-pro --seed 7 --sandbox one"
    assert found["./one.png"]["created"] == pytest.approx((directory / "one.png").stat().st_mtime)
    assert found["./sub/two.png"]["settings"] == []


def test_a_damaged_history_does_not_stop_a_directory(made: Made) -> None:
    """Its error is a warning; without a directory it is the error."""
    made.add("one", "pics/a.png")
    write_sidecar(made.cli.cwd / "pics/a.png", {"model": "flux-pro", "prompt": "one"})
    made.history.close()
    for file in made.cli.history_file.parent.glob("history*"):
        file.unlink()
    made.cli.history_file.write_bytes(b"not a database" * 100)
    done = made.cli("gallery", "pics")
    assert (done.code, done.lines) == (0, ["pics/gallery.html"])
    assert done.stderr.startswith("warning: ")
    assert made.cli("gallery", "pics", "-q").stderr == ""
    assert made.cli("gallery").code == 6


def test_thumbnails(tmp_path: Path) -> None:
    """Upright, in the right size and colour; none for a file that is not a picture."""
    red = Image.new("RGB", (900, 300), "red")
    exif = Image.Exif()
    exif[0x0112] = 6
    red.save(tmp_path / "a.png")
    red.save(tmp_path / "b.jpg", exif=exif)
    (tmp_path / "c.png").write_text("not a picture")
    *made, broken = thumbnails(sorted(tmp_path.iterdir()))
    assert broken is None
    sizes = [((900, 300), (480, 160)), ((300, 900), (120, 360))]
    for thumbnail, (full, small) in zip(made, sizes, strict=True):
        assert thumbnail is not None
        content = base64.b64decode(thumbnail.url.partition(",")[2])
        with Image.open(io.BytesIO(content)) as image:
            assert ((thumbnail.width, thumbnail.height), image.size) == (full, small)
            colour = image.convert("RGB").getpixel((60, 60))
        assert colour[0] > 220 > 60 > colour[1]  # type: ignore[index] # RGB


SHELLS = (["bash", "-c"], ["dash", "-c"], ["zsh", "-fc"], ["fish", "--no-config", "-c"])


@pytest.mark.needs(*(shell for shell, *_ in SHELLS))
# Without the private characters: some of them are bytes to fish.
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs", "Co"]), max_size=60))
@example("'")
@example("\\")
@example("=ls")
@example("%self")
@example("a\\\\b\\'c\\")
@example("-\x1b%s%%\\n\\134!!'\n$(x)\"`x`\n\n")
@example("\x1b'\\")
@example("\x07" + "0")
@example("\u202e" + "f")
@example("-starts with a dash, 砂丘 🪁 قطة")
@settings(max_examples=25)
def test_any_text_is_one_word_for_a_shell(text: str) -> None:
    environment = {"LC_ALL": "C.UTF-8", "PATH": os.environ["PATH"]}
    for shell in SHELLS:
        done = subprocess.run(
            [*shell, f"printf %s {quoted(text)}"], env=environment, capture_output=True, check=True
        )
        assert done.stdout.decode() == text, shell


def test_open_opens_the_page(made: Made, tmp_path: Path) -> None:
    made.add("a kite")
    log = tmp_path / "opened"
    for name in ("xdg-open", "open"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "$1" >> {log}\n')
        (tmp_path / name).chmod(0o755)
    done = made.cli("gallery", "--open", env={"PATH": str(tmp_path)})
    assert (done.code, done.lines) == (0, ["gallery.html"])
    assert log.read_text() == f"{made.cli.cwd}/gallery.html\n"

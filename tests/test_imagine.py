"""`flux-cli imagine` against the sandbox."""

import base64
import io
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from flux_cli.commands import running
from tests.conftest import Cli, Service

SMALL = ("--width", "256", "--height", "256", "-q")


@dataclass
class Connected:
    """What the announcement of the cost uses of a service."""

    name: str


def png(width: int = 8, height: int = 8) -> bytes:
    """Return a small real PNG."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), "teal").save(file, "PNG")
    return file.getvalue()


def test_a_prompt_becomes_a_picture(flux: Cli, service: Service) -> None:
    """One submission, one PNG, its path on stdout, two lines on stderr."""
    done = flux("imagine", "a sunflower field in the wind", "--width", "320", "--height", "256")
    assert done.code == 0, done.stderr
    (name,) = done.lines
    assert name.startswith("a-sunflower-field-in-the-wind-")
    assert name.endswith(".png")
    assert flux.files() == [name]
    with Image.open(flux.cwd / name) as image:
        assert image.size == (320, 256)
    first, second = done.stderr.splitlines()
    assert first.startswith("submitted ")
    assert second.startswith("finished ")
    assert service.submissions == 1


def test_json_has_all_keys(flux: Cli) -> None:
    """The JSON object of a task always has all its keys."""
    done = flux("imagine", "a [bold] kite", "--json", "--seed", "7", *SMALL)
    (task,) = done.objects
    assert (
        list(task)
        == (
            "task_id task_type status percentage image_url original_image_url path original_path "
            "model prompt seed elapsed error exit_code raw"
        ).split()
    )
    assert (task["status"], task["prompt"], task["seed"], task["exit_code"]) == ("finished", "a [bold] kite", 7, 0)
    assert done.stderr == ""
    assert json.loads(done.stdout)["path"] in flux.files()


FLAGS_AND_FIELDS: list[tuple[str, list[str], dict[str, object]]] = [
    ("model", ["-m", "flux-dev"], {"model": "flux-dev"}),
    ("strength", ["-m", "flux-pro-1.1-ultra", "--image-prompt-strength", "0.5"], {"image_prompt_strength": 0.5}),
    ("strength as a whole number", ["-m", "flux-pro-1.1-ultra", "--image-prompt-strength", "1"],
     {"image_prompt_strength": 1}),
    ("upsampling", ["--prompt-upsampling"], {"prompt_upsampling": True}),
    ("no upsampling", ["--no-prompt-upsampling"], {"prompt_upsampling": False}),
    ("size", ["--width", "256", "--height", "1440"], {"width": 256, "height": 1440}),
    ("aspect ratio", ["-m", "flux-pro-1.1-ultra", "--aspect-ratio", "21:9"], {"aspect_ratio": "21:9"}),
    ("steps", ["--steps", "30"], {"steps": 30}),
    ("guidance", ["--guidance", "2.5"], {"guidance": 2.5}),
    ("interval", ["--interval", "4"], {"interval": 4}),
    ("seed", ["--seed", "-3"], {"seed": -3}),
    ("safety tolerance", ["--safety-tolerance", "0"], {"safety_tolerance": 0}),
    ("raw", ["-m", "flux-pro-1.1-ultra", "--raw"], {"raw": True}),
    ("no raw", ["-m", "flux-pro-1.1-ultra", "--no-raw"], {"raw": False}),
    ("webhook URL", ["--webhook-url", "https://example.com/hook"], {"webhook_url": "https://example.com/hook"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("flags", "fields"), [row[1:] for row in FLAGS_AND_FIELDS], ids=[r[0] for r in FLAGS_AND_FIELDS]
)
def test_flags_become_fields(cli: Cli, flags: list[str], fields: dict[str, object]) -> None:
    """The body has only what was given, with the documented JSON type."""
    image = cli.cwd / "in.png"
    image.write_bytes(png())
    extra = ["--image-prompt", "in.png"] if "image_prompt_strength" in fields else []
    (body,) = cli("imagine", "x", "--dry-run", *flags, *extra).objects
    body.pop("image_prompt", None)
    expected: dict[str, object] = {"model": "flux-pro-1.1-ultra" if "flux-pro-1.1-ultra" in flags else "flux-pro"}
    assert body == {**expected, "prompt": "x", **fields}
    assert {name: type(value) for name, value in body.items()} == {
        name: type(value) for name, value in {**expected, "prompt": "x", **fields}.items()
    }


def test_the_service_receives_the_fields(flux: Cli) -> None:
    """An ultra picture of the given ratio, blended from a file."""
    (flux.cwd / "in.png").write_bytes(png())
    ultra = ("-m", "flux-pro-1.1-ultra", "--aspect-ratio", "9:21", "--image-prompt", "in.png")
    done = flux("imagine", "a tower", *ultra, "--image-prompt-strength", "0.5", "-q")
    with Image.open(flux.cwd / done.lines[0]) as image:
        assert image.width / image.height == pytest.approx(9 / 21, rel=0.01)


RULES: list[tuple[list[str], list[str]]] = [
    (["   "], ["PROMPT must not be blank"]),
    (["x", "-m", "flux-por"], ["`--model`: unknown model `flux-por`; did you mean `flux-pro`?"]),
    (["x", "--width", "255"], ["`--width` must be 256 to 1440, not 255"]),
    (["x", "--height", "1441"], ["`--height` must be 256 to 1440, not 1441"]),
    (["x", "--width", "1e3"], ["`--width` must be a whole number, not `1e3`"]),
    (["x", "--guidance", "nan"], ["`--guidance` must be a finite number, not `nan`"]),
    (["x", "--guidance", "1e400"], ["`--guidance` must be a finite number, not `1e400`"]),
    (["x", "--raw"], ["`--raw` needs `flux-pro-1.1-ultra`, but the model is `flux-pro`"]),
    (["x", "-m", "flux-dev", "--interval", "2"], ["`--interval` needs `flux-pro`, but the model is `flux-dev`"]),
    (["x", "--safety-tolerance", "7"], ["`--safety-tolerance` must be 0 to 6, not 7"]),
    (["x", "--webhook-url", "ftp://x"], ["`--webhook-url` must be an http or https URL, not `ftp://x`"]),
    (["x", "-m", "flux-pro-1.1-ultra", "--image-prompt-strength", "0.5"],
     ["`--image-prompt-strength` needs `--image-prompt`"]),
    *[
        (["x", "-m", "flux-pro-1.1-ultra", "--aspect-ratio", ratio],
         [f"`--aspect-ratio` must be `W:H` between 21:9 and 9:21, not `{ratio}`"])
        for ratio in ("22:9", "")
    ],
    (["x", "--steps", "many", "--width", "1", "--raw"],
     ["`--steps` must be a whole number, not `many`", "`--width` must be 256 to 1440, not 1",
      "`--raw` needs `flux-pro-1.1-ultra`, but the model is `flux-pro`"]),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "messages"), RULES, ids=lambda value: " ".join(value) or "blank")
def test_all_violations_are_reported_together(
    flux: Cli, service: Service, arguments: list[str], messages: list[str]
) -> None:
    """Exit 2; each message has the flag, the value and what is allowed. Nothing is sent."""
    done = flux("imagine", *arguments)
    assert done.code == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("error:")] == [
        f"error: {m}" for m in messages
    ]
    assert service.submissions == 0
    assert flux.files() == []


def test_no_validate(flux: Cli, service: Service) -> None:
    """An unknown model is sent; the service rejects it: exit 2 and its reason."""
    done = flux("imagine", "x", "-m", "flux-9", "--no-validate")
    assert done.code == 2
    assert "the service rejected the request" in done.stderr
    assert "flux-9" in done.stderr
    assert service.submissions == 1


def test_sources_of_image_prompts(flux: Cli, service: Service) -> None:
    """A file, stdin and a URL are described in a dry run; the bytes are never printed."""
    (flux.cwd / "in.png").write_bytes(png())
    (from_file,) = flux("imagine", "x", "--dry-run", "--image-prompt", "in.png").objects
    (from_stdin,) = flux("imagine", "x", "--dry-run", "--image-prompt", "-", input=png()).objects
    for body in (from_file, from_stdin):
        assert body["image_prompt"]["type"] == "image/png"
        assert body["image_prompt"]["bytes"] == len(png())
        assert len(body["image_prompt"]["sha256"]) == 64
        assert base64.b64encode(png()).decode() not in json.dumps(body)
    (task,) = flux("imagine", "x", "--json", *SMALL).objects
    (from_url,) = flux("imagine", "x", "--dry-run", "--image-prompt", task["image_url"]).objects
    assert from_url["image_prompt"]["bytes"] == (flux.cwd / task["path"]).stat().st_size
    assert service.submissions == 1


def test_prompt_from_stdin(flux: Cli) -> None:
    """With `-`, or without an argument if stdin is piped, without line break and byte order mark."""
    for arguments in (["-"], []):
        (body,) = flux("imagine", "--dry-run", *arguments, input="\ufeffein Käfer 🪲\r\n").objects
        assert body["prompt"] == "ein Käfer 🪲"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"caf\xe9", "stdin is not UTF-8 text"),
        (b"", "PROMPT must not be blank"),
        (b" \n", "PROMPT must not be blank"),
    ],
)
def test_invalid_prompts_from_stdin(flux: Cli, content: bytes, message: str) -> None:
    """Bytes that are not UTF-8, and blank text."""
    done = flux("imagine", input=content)
    assert done.code == 2
    assert message in done.stderr


def test_dry_run_needs_no_key_and_prints_no_secret(cli: Cli) -> None:
    """One body per picture on stdout, without the webhook secret."""
    done = cli(
        "imagine", "x", "--dry-run", "-n", "2", "--seed", "5", "--webhook-url", "https://e.org",
        env={"FLUX_CLI_WEBHOOK_SECRET": "hush-hush"},
    )  # fmt: skip
    assert [body["seed"] for body in done.objects] == [5, 6]
    assert "hush-hush" not in done.stdout + done.stderr
    assert not cli.history_file.exists()


def test_several_pictures_get_consecutive_seeds(flux: Cli, service: Service) -> None:
    """`-n 3 --seed 7` gives three tasks with the seeds 7, 8 and 9."""
    done = flux("imagine", "x", "-n", "3", "--seed", "7", "-o", "{slug}-{seed}-{n}.{ext}", *SMALL)
    assert done.code == 0, done.stderr
    assert flux.files() == ["x-7-1.png", "x-8-2.png", "x-9-3.png"] == sorted(done.lines)
    assert service.submissions == 3


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("out.png", ["out.png"]),
        ("deep/er/out.png", ["deep/er/out.png"]),
        ("there/", ["there/a-kite-{id8}.png"]),
        ("existing", ["existing/a-kite-{id8}.png"]),
        ("{model}/{slug}_{seed}_{n}_{task_id}.{ext}", ["flux-pro/a-kite_3_1_{task_id}.png"]),
        ("{slug}", ["a-kite.png"]),
        ("no-extension", ["no-extension"]),
    ],
)
def test_forms_of_output(flux: Cli, output: str, expected: list[str]) -> None:
    """A file, a directory or a template; directories are created as needed."""
    (flux.cwd / "existing").mkdir()
    (task,) = flux("imagine", "a kite", "--seed", "3", "--json", "-o", output, *SMALL).objects
    names = [name.format(task_id=task["task_id"], id8=task["task_id"][:8]) for name in expected]
    assert flux.files() == names == [task["path"]]


def test_output_to_stdout(flux: Cli) -> None:
    """`-o -` writes the bytes and nothing else, and leaves no file."""
    process = flux.start("imagine", "x", "-o", "-", *SMALL)
    stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    with Image.open(io.BytesIO(stdout)) as image:
        assert image.format == "PNG"
    assert flux.files() == []
    assert flux.history()[0]["path"] == "-"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "there.png"], 6, "there.png exists"),
        (["-o", "there.png/x.png"], 6, "there.png"),
        (["-o", "-", "-n", "2"], 2, "accepts only one picture"),
        (["-o", "-", "--json"], 2, "both write to stdout"),
        (["-o", "one.png", "-n", "2"], 2, "one file for several pictures"),
        (["-o", "{slug}.{ext}", "-n", "2"], 2, "several pictures the same name"),
        (["-o", "{nope}.png"], 2, "has an unknown field {nope}"),
        (["-o", "{slug!r}.png"], 2, "field {slug}"),
        (["-o", "{slug.__class__}.png"], 2, "field"),
        (["-o", "{"], 2, "not a template"),
        (["-o", ""], 2, "must not be blank"),
        (["-n", "0"], 2, "--count"),
        (["--timeout", "nan"], 2, "`--timeout` takes seconds, or a duration like 90s, 10m or 1h, not `nan`"),
        (["--no-wait", "-o", "x.png"], 2, "`--no-wait`"),
        (["--api-url", "api.apiframe.pro"], 2, "not an http or https URL"),
        (["--api-url", "https://user:pw@example.com"], 2, "takes no user name"),
    ],
)
def test_usage_errors_before_anything_is_sent(
    flux: Cli, service: Service, arguments: Sequence[str], code: int, message: str
) -> None:
    """Existing or impossible targets, and invalid combinations; a dry run rejects the same."""
    (flux.cwd / "there.png").write_text("mine")
    done = flux("imagine", "x", *arguments)
    assert (done.code, service.submissions) == (code, 0), done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert flux.files() == ["there.png"]
    assert (flux.cwd / "there.png").read_text() == "mine"
    rehearsed = flux("imagine", "x", *arguments, "--dry-run")
    assert (rehearsed.code, rehearsed.stdout) == (code, "")
    assert message in rehearsed.stderr


def test_a_dry_run_creates_no_directory(cli: Cli) -> None:
    """Only the request is printed."""
    assert cli("imagine", "x", "--dry-run", "-o", "new/x.png").code == 0
    assert list(cli.cwd.iterdir()) == []


def test_existing_files(flux: Cli) -> None:
    """`--force` replaces the named file; a generated name that exists gets `-1`."""
    (flux.cwd / "out.png").write_text("old")
    assert flux("imagine", "x", "-o", "out.png", "--force", *SMALL).lines == ["out.png"]
    assert (flux.cwd / "out.png").read_bytes().startswith(b"\x89PNG")
    (flux.cwd / "x.png").write_text("mine")
    assert flux("imagine", "x", "-o", "{slug}.{ext}", *SMALL).lines == ["x-1.png"]
    assert (flux.cwd / "x.png").read_text() == "mine"


def test_extension_of_generated_names(flux: Cli) -> None:
    """JPEG bytes under a `.png` URL become `.jpg`. A name that the user chose is kept, with a warning."""
    prompt = "a kite [[jpeg-as-png]]"
    (name,) = flux("imagine", prompt, *SMALL).lines
    assert name.endswith(".jpg")
    assert flux("imagine", prompt, "-o", "named.png", *SMALL).lines == ["named.png"]
    assert flux("imagine", prompt, "-o", "named.jpeg", *SMALL).lines == ["named.jpeg"]
    for path in flux.cwd.iterdir():
        assert path.read_bytes().startswith(b"\xff\xd8\xff")
    done = flux("imagine", prompt, "-o", "hero.png", *SMALL[:-1])
    assert (done.lines, "warning: hero.png contains a JPEG" in done.stderr) == (["hero.png"], True)


def test_original(flux: Cli) -> None:
    """`--original` also saves `original_image_url`, and prints both paths."""
    done = flux("imagine", "x", "-o", "x.png", "--original", *SMALL)
    assert done.lines == ["x.png", "x-original.png"]
    assert flux.files() == sorted(done.lines)


def test_no_wait(flux: Cli) -> None:
    """The ID on stdout, how to resume on stderr."""
    done = flux("imagine", "x", "--no-wait")
    (task_id,) = done.lines
    assert f"flux-cli wait {task_id}" in done.stderr
    assert flux.files() == []
    assert flux.history()[0]["status"] == "processing"


def test_without_a_key(cli: Cli, service: Service) -> None:
    """Exit 3 and a hint; nothing is recorded or sent."""
    done = cli("imagine", "x", "--api-url", service.url)
    assert done.code == 3
    assert "flux-cli login" in done.stderr
    assert (service.submissions, cli.history_file.exists()) == (0, False)


def test_sandbox_needs_no_key_and_keeps_tasks(cli: Cli) -> None:
    """A task that one command submits can be waited for by another."""
    (task_id,) = cli("imagine", "a red kite [[seconds 0.5]]", "--no-wait", "--sandbox", *SMALL).lines
    looked = cli("fetch", task_id, "--sandbox")
    assert looked.stdout.startswith(f"{task_id}\t")
    done = cli("wait", "--last", "-q", env={"FLUX_CLI_SANDBOX": "1"})
    assert done.lines == [f"a-red-kite-seconds-0-5-{task_id[:8]}.png"]


def test_precedence_of_settings(flux: Cli, tmp_path: Path) -> None:
    """Flags, then the environment, then the config file."""
    flux.config.parent.mkdir(parents=True)
    flux.config.write_text(f'model = "flux-dev"\noutput_dir = "{tmp_path / "pictures"}"\n')
    (body,) = flux("imagine", "x", "--dry-run").objects
    assert body["model"] == "flux-dev"
    (body,) = flux("imagine", "x", "--dry-run", env={"FLUX_CLI_MODEL": "flux-pro-1.1"}).objects
    assert body["model"] == "flux-pro-1.1"
    (body,) = flux("imagine", "x", "--dry-run", "-m", "flux-schnell", env={"FLUX_CLI_MODEL": "flux-dev"}).objects
    assert body["model"] == "flux-schnell"
    (path,) = flux("imagine", "x", *SMALL).lines
    assert Path(path).parent == tmp_path / "pictures"


def test_force_never_replaces_a_picture_of_the_same_run(flux: Cli, service: Service) -> None:
    """Three pictures with the same name become three files; an older file is replaced."""
    (flux.cwd / "random.png").write_text("old")
    done = flux("imagine", "x", "-n", "3", "--force", "-o", "{seed}.{ext}", *SMALL)
    assert done.code == 0, done.stderr
    assert flux.files() == sorted(done.lines) == ["random-1.png", "random-2.png", "random.png"]
    assert service.submissions == 3
    assert {(flux.cwd / name).read_bytes()[:4] for name in flux.files()} == {b"\x89PNG"}


def test_verbose_download_and_retry(flux: Cli) -> None:
    """-v prints each request for the picture and its response; otherwise a warning says that it is retried."""
    (path,) = flux("imagine", "x [[image-http 500 1]]", "-v", "-o", "x.png").lines
    done = flux("imagine", "x [[image-http 500 1]]", "-v", "-o", "y.png")
    assert (path, done.lines) == ("x.png", ["y.png"])
    asked = [line for line in done.stderr.splitlines() if line.startswith("> GET http")]
    assert len(asked) == 2
    assert "< 500" in done.stderr
    assert "< 200 image/png" in done.stderr
    done = flux("imagine", "x [[image-http 500 1]]", "-o", "z.png")
    assert "warning: cannot download the picture: HTTP 500; retrying" in done.stderr
    assert flux("imagine", "x [[image-http 500 1]]", "-o", "q.png", "-q").stderr == ""


def test_dry_run_is_json_without_validation(flux: Cli, service: Service) -> None:
    """Numbers that are not finite are rejected all the same: JSON cannot represent them."""
    for value in ("nan", "inf", "1e400"):
        done = flux("imagine", "x", "--no-validate", "--guidance", value)
        assert (done.code, done.stdout, service.submissions) == (2, "", 0)
    (flux.cwd / "a.gif").write_bytes(b"GIF89a" + bytes(40))
    (body,) = flux("imagine", "x", "--no-validate", "--image-prompt", "a.gif", "--dry-run").objects
    assert body["image_prompt"]["type"] == "image/gif"


def test_webhook_secret_from_a_flag(flux: Cli, tmp_path: Path) -> None:
    """It is sent without a webhook URL, too; the one in the environment is not."""
    secret = "abcdefghijklmnopqrst"
    (body,) = flux("imagine", "x", "--dry-run", "--webhook-secret", secret).objects
    assert body["webhook_secret"] == "[redacted]"
    (body,) = flux("imagine", "x", "--dry-run", env={"FLUX_CLI_WEBHOOK_SECRET": secret}).objects
    assert "webhook_secret" not in body
    assert flux("imagine", "x", "--no-wait", "--webhook-secret", secret).code == 0
    with closing(sqlite3.connect(tmp_path / "sandbox" / "tasks.sqlite3")) as tasks:
        ((sent,),) = tasks.execute("SELECT body FROM tasks")
    assert json.loads(sent)["webhook_secret"] == secret


def test_violations_with_an_unreadable_image_prompt(flux: Cli, service: Service) -> None:
    """All errors in one run, exit 2; a missing file alone is exit 6."""
    done = flux("imagine", "x", "--image-prompt", "nope.png", "--width", "1")
    assert done.code == 2
    assert "`--width` must be 256 to 1440" in done.stderr
    assert "nope.png" in done.stderr
    assert flux("imagine", "x", "--image-prompt", "nope.png").code == 6
    (flux.cwd / "text.png").write_text("not an image")
    done = flux("imagine", "x", "--image-prompt", "text.png")
    assert (done.code, done.stderr.count("error:"), "PNG, JPEG or WebP" in done.stderr) == (2, 1, True)
    assert service.submissions == 0
    assert flux("imagine", "x", "--image-prompt", "").code == 6
    page = f"{service.url}/__page__"
    done = flux("imagine", "x", "--image-prompt", page)
    assert done.code == 5
    assert f"`--image-prompt` cannot be downloaded from {page}" in done.stderr


def test_help_to_a_closed_or_full_stdout(flux: Cli) -> None:
    """Exit 141 for a closed pipe, 6 for a full disk."""
    reading, writing = os.pipe()
    os.close(reading)
    assert flux.process("--help", stdout=writing).code == 141
    os.close(writing)
    with open("/dev/full", "wb") as full:
        done = flux.process("--help", stdout=full)
    assert (done.code, done.stderr) == (6, "error: cannot write to stdout: no space left on device\n")


@pytest.mark.parametrize(
    ("prompt", "warning", "hint"),
    [
        ("a kite --ar 16:9", "`--ar 16:9`", "use --aspect-ratio 16:9 with flux-pro-1.1-ultra"),
        ("a kite --v 6 --style raw", "`--v 6`", "flags go outside the quotes"),
        ("a kite --no", "`--no`", "flags go outside the quotes"),
        ("a kite --seed=7 there", "`--seed=7`", "flags go outside the quotes"),
    ],
)
def test_a_flag_inside_the_prompt_is_a_warning(cli: Cli, prompt: str, warning: str, hint: str) -> None:
    """Other programs take flags from the prompt; here it is sent as it is."""
    done = cli("imagine", prompt, "--sandbox", "--no-wait")
    assert done.code == 0
    assert done.stderr.splitlines()[:2] == [
        f"warning: the prompt contains {warning}, which is sent as text",
        f"hint: {hint}",
    ]


@pytest.mark.parametrize("prompt", ["a kite -- high up", "a --kite", "well--no", "a kite -v"])
def test_dashes_in_a_prompt_are_no_warning(cli: Cli, prompt: str) -> None:
    """Only known flags are."""
    assert "warning" not in cli("imagine", prompt, "--sandbox", "--no-wait").stderr


def test_many_pictures_are_announced_with_their_cost(flux: Cli, service: Service) -> None:
    """Above 10, one line before anything is sent, and a warning if the credits do not suffice."""
    announcement = "submitting 11 pictures for about 11 credits; the account has "
    first, *others = flux("imagine", "x", "-n", "11", "--no-wait").stderr.splitlines()
    assert first.startswith(announcement)
    assert not [line for line in others if line.startswith("warning")]
    assert "submitting" not in flux("imagine", "x", "-n", "10", "--no-wait").stderr
    assert service.submissions == 21


@pytest.mark.parametrize(
    ("credit", "warns"), [(3, True), ("3.5", True), (12, False), ("many", False), (None, False)]
)
def test_too_few_credits_are_a_warning_at_the_start(
    capsys: pytest.CaptureFixture[str], credit: object, warns: bool
) -> None:
    """Whatever the type in which the service gives the number."""
    running.announce_cost(12, Connected("https://example.com"), lambda _: credit)  # type: ignore[arg-type]
    assert ("warning: the account has too few credits for 12 pictures" in capsys.readouterr().err) is warns


def test_the_embedded_sandbox_announces_no_cost(cli: Cli) -> None:
    """It is free."""
    assert "credits" not in cli("imagine", "x", "-n", "11", "--no-wait", "--sandbox").stderr


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a device of POSIX systems")
def test_an_endless_prompt_is_rejected(flux: Cli, service: Service) -> None:
    """Reading stops at a limit."""
    with open("/dev/zero", "rb") as endless:
        done = flux.process("imagine", stdin=endless)
    assert (done.code, service.submissions) == (2, 0)
    assert done.stderr == "error: stdin has more than 1024 KiB\n"

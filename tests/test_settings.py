"""The key and the settings: `login`, `logout`, `config`, `account`, `models`, and defaults for flags."""

import errno
import json
import os
import stat
import sys
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from unittest import mock

import pytest

from flux_cli import sandbox
from flux_cli.api.request import FIELDS
from flux_cli.errors import LocalFileError, NotAllowedError, UsageError
from flux_cli.storage import config
from flux_cli.storage.config import Config
from flux_cli.storage.settings import SETTINGS, check_key, parse_name, parse_value, problem
from tests.cli import KEY, Cli
from tests.conftest import Service

OTHER_KEY = "afk_0123456789abcdef"


@pytest.fixture
def keyless(cli: Cli, service: Service) -> Cli:
    cli.env["FLUX_CLI_API_URL"] = service.url
    return cli


def write_config(cli: Cli, content: str | bytes, mode: int = 0o600) -> None:
    cli.config.parent.mkdir(parents=True, exist_ok=True)
    cli.config.write_bytes(content.encode() if isinstance(content, str) else content)
    cli.config.chmod(mode)


def dry_run(cli: Cli, *arguments: str) -> Mapping[str, object]:
    done = cli("imagine", "x", "--dry-run", *arguments)
    assert done.code == 0, done.stderr
    (body,) = done.objects
    return {name: value for name, value in body.items() if name not in ("prompt", "model")}


# login and logout


@pytest.mark.skipif(os.name == "nt", reason="no umask there")
def test_login_checks_and_stores_a_piped_key(keyless: Cli) -> None:
    """No umask opens its file and directories to others; the key is never printed."""
    before = os.umask(0)
    try:
        done = keyless("login", input=KEY + "\n")
    finally:
        os.umask(before)
    assert done.code == 0, done.stderr
    assert KEY not in done.stdout + done.stderr
    assert keyless.config.read_text() == f'api_key = "{KEY}"\n'
    assert {stat.S_IMODE(path.stat().st_mode) for path in keyless.config.parent.iterdir()} == {0o600}
    assert stat.S_IMODE(keyless.config.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(keyless.config.parent.parent.stat().st_mode) == 0o700
    assert keyless("account").code == 0


@pytest.mark.parametrize("text", [f" {KEY}\r\n", f"\ufeff{KEY}\n", f"\t{KEY}\u00a0", f"\udcef\udcbb\udcbf{KEY}"])
def test_what_surrounds_a_key_is_trimmed(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_key(text) == KEY
    monkeypatch.setenv("APIFRAME_API_KEY", text)
    assert config.find_key(Config()) == KEY


def test_the_first_line_of_stdin_is_the_key(keyless: Cli) -> None:
    """Password managers print more lines."""
    text = f"\ufeff{KEY}\r\nlogin: me\nurl: https://apiframe.pro\n"
    assert keyless("login", "--no-verify", input=text).code == 0
    assert keyless.config.read_text() == f'api_key = "{KEY}"\n'


def test_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hint offers the sandbox only if what it needs is installed."""
    monkeypatch.setenv("APIFRAME_API_KEY", " \r\n")
    with pytest.raises(NotAllowedError, match="no API key") as caught:
        config.find_key(Config())
    assert str(caught.value.hint).endswith("login` or set APIFRAME_API_KEY, or try --sandbox")
    monkeypatch.setattr("importlib.metadata.distribution", mock.Mock(side_effect=PackageNotFoundError))
    with pytest.raises(NotAllowedError) as caught:
        config.find_key(Config())
    assert str(caught.value.hint).endswith("login` or set APIFRAME_API_KEY")


def test_the_hidden_prompt(keyless: Cli) -> None:
    """On a terminal the key is asked for without an echo; the question is on stderr."""
    with mock.patch("getpass.getpass", return_value=f"{KEY} ") as asked:
        done = keyless("login", "--no-verify", tty=["stdin"])
    assert done.code == 0
    assert asked.call_count == 1
    assert keyless.config.read_text() == f'api_key = "{KEY}"\n'
    with mock.patch("getpass.getpass", side_effect=EOFError):
        assert keyless("login", "--no-verify", tty=["stdin"]).code == 130


def test_a_rejected_key_is_not_stored(cli: Cli, tmp_path: Path) -> None:
    """401 is exit 3; with `--no-verify` the service is not asked."""
    with sandbox.running(tmp_path / "strict", key="the-right-key") as strict:
        env = {"FLUX_CLI_API_URL": strict.url}
        done = cli.fails(3, "was not stored", "login", input=KEY, env=env)
        assert KEY not in done.stderr
        assert not cli.config.exists()
        assert cli("login", "--no-verify", input=KEY, env=env).code == 0
        assert cli("account", env=env).code == 3
        assert cli("account", env={**env, "APIFRAME_API_KEY": "the-right-key"}).code == 0


@pytest.mark.parametrize(
    "key", ["", "two words", "tab\tkey", "\nsecond", "clé-secrète-9", "esc\x1bape", "k\x7fey"]
)
def test_an_invalid_key_is_refused_without_an_echo(keyless: Cli, key: str) -> None:
    """From stdin and from the environment: exit 2, nothing is stored or sent. A traceback does not show it."""
    done = keyless("login", input=key)
    assert done.code == 2
    assert not keyless.config.exists()
    if key.strip():
        assert key not in done.stderr
        done = keyless("account", "--debug", env={"APIFRAME_API_KEY": f"a{key}"})
        assert done.code == 2
        assert key not in done.stdout + done.stderr


def test_login_with_a_key_of_the_other_api(cli: Cli, service: Service) -> None:
    """Checked at the default URL, it is exit 3 before anything is sent; unchecked, it is stored with a warning."""
    done = cli("login", input=OTHER_KEY)
    assert (done.code, cli.config.exists()) == (3, False)
    assert "was not stored" in done.stderr
    assert "belongs to the service's other API" in done.stderr
    done = cli("login", "--no-verify", input=OTHER_KEY)
    assert (done.code, OTHER_KEY in done.stderr) == (0, False)
    assert "warning: the key starts with afk_" in done.stderr
    assert cli("account", env={"FLUX_CLI_API_URL": service.url}).code == 3


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["--sandbox"], KEY),
        (["--no-verify"], b"\xff\xfek"),
        (["--no-verify"], "k" * 5000),  # half a key must not be stored
    ],
)
def test_login_that_makes_no_sense(cli: Cli, arguments: list[str], key: str | bytes) -> None:
    assert cli("login", *arguments, input=key).code == 2
    assert not cli.config.exists()


def test_login_warns_of_an_unencrypted_connection(cli: Cli) -> None:
    """To another machine; the address is one that is never assigned."""
    cli.fails(5, "warning: the key travels unencrypted", "login", "--api-url", "http://host.invalid", input=KEY)


def test_logout_removes_the_key_and_keeps_the_rest(keyless: Cli) -> None:
    """Comments stay, too. Without a key nothing is written."""
    keyless("login", "--no-verify", input=KEY)
    write_config(keyless, "# mine\n" + keyless.config.read_text() + 'model = "flux-dev" # cheap\n')
    assert keyless("logout").code == 0
    assert keyless.config.read_text() == '# mine\nmodel = "flux-dev" # cheap\n'
    before = keyless.config.stat()
    done = keyless("logout", env={"APIFRAME_API_KEY": KEY})
    assert "no key was stored" in done.stderr
    assert "APIFRAME_API_KEY is still set" in done.stderr
    assert keyless.config.stat() == before
    assert keyless("logout", "-q", env={"APIFRAME_API_KEY": KEY}).stderr == ""


# config


def test_every_setting_can_be_stored_and_removed(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each but the key, which `login` stores, from text; the values come back in their types."""
    monkeypatch.setenv("XDG_CONFIG_HOME", cli.env["XDG_CONFIG_HOME"])
    text = (
        "api_url=https://api.example.com model=flux-dev output_dir=pictures webhook_secret=hush-hush-hush-hush "
        "sandbox=true timeout=20m sidecar=true count=4 image_prompt=cat.png image_prompt_strength=0.5 "
        "prompt_upsampling=false width=512 height=256 aspect_ratio=21:9 steps=40 guidance=2.5 interval=3 "
        "seed=random safety_tolerance=6 raw=true webhook_url=https://example.com/hook"
    )
    values = dict(each.split("=") for each in text.split())
    assert {"api_key", *values} == SETTINGS.keys() >= FIELDS.keys() - {"prompt"}
    for name, value in values.items():
        config.set_value(name, value)
    stored = config.load().values()
    assert {name: json.dumps(value).strip('"') for name, value in stored.items()} == values
    assert all(config.unset(name) for name in values)
    assert not any(config.unset(name) for name in values)
    assert cli.config.read_text() == ""


def test_config_get(cli: Cli) -> None:
    """One value as it is stored, secrets masked; exit 1 if it is not set."""
    write_config(cli, f'api_key = "{KEY}"\nsandbox = true\n')
    assert cli("config", "get", "sandbox").lines == ["true"]
    assert cli("config", "get", "api_key").lines == ["…6789"]
    assert (cli("config", "get", "width").code, cli("config", "get", "width").lines) == (1, [])
    assert cli("config", "path").lines == [str(cli.config)]


def test_config_list_shows_sources(cli: Cli) -> None:
    """The environment overrides the file, the file overrides the defaults; secrets are masked in all of them."""
    own = 'api_key = "0123456789abcdef"\nmodel = "flux-dev"\nsteps = 40\n'
    write_config(cli, f"{own}[models.flux-pro]\nsteps = 50\nwidth = 512\n[models.flux-dev]\nsteps = 9\n")
    env = {"FLUX_CLI_MODEL": "flux-schnell", "FLUX_CLI_WEBHOOK_SECRET": "hush-hush-hush-hush"}
    assert cli("config", "list", env=env).lines == [
        "api_key = …cdef  # file",
        "api_url = https://api.apiframe.pro  # default",
        "model = flux-schnell  # environment: FLUX_CLI_MODEL",
        "output_dir = .  # default",
        "webhook_secret = …hush  # environment: FLUX_CLI_WEBHOOK_SECRET",
        "sandbox = false  # default",
        "timeout = 10m  # default",
        "sidecar = false  # default",
        "count = 1  # default",
        "steps = 40  # file",
        "models.flux-pro.steps = 50  # file",
        "models.flux-pro.width = 512  # file",
        "models.flux-dev.steps = 9  # file",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["set", "colour", "red"], "unknown setting `colour`; known: api_key, api_url"),
        (["get", "widht"], "unknown setting `widht`; did you mean `width`?"),
        (["unset", "models.flux-pro.api_url"], "unknown setting `models.flux-pro.api_url`"),
        (["set", "models.flux-por.steps", "4"], "unknown model `flux-por`"),
        (["set", "width", "5000"], "`width` must be 256 to 1440, not 5000"),
        (["set", "width", "wide"], "`width` must be a whole number, not `wide`"),
        (["set", "aspect_ratio", "9"], "`aspect_ratio` must be `W:H`"),
        (["set", "models.flux-dev.aspect_ratio", "1:1"], "`flux-pro-1.1-ultra`, but the model is `flux-dev`"),
        (["set", "count", "0"], "`count` must be a whole number, 1 or more, not 0"),
        (["set", "timeout", "soon"], "`timeout` takes seconds"),
        (["set", "model", "flux-dve"], "unknown model `flux-dve`; did you mean `flux-dev`?"),
        (["set", "webhook_url", "here"], "`webhook_url` must be an http or https URL"),
        (["set", "sandbox", "perhaps"], "true or false"),
        (["set", "api_url", "api.example.com"], "not an http or https URL"),
        (["set", "api_key", KEY], "use `flux-cli login`"),
        (["set", "model", " "], "must not be empty"),
        (["sett", "model", "x"], "sett"),
    ],
)
def test_config_rejects_invalid_input(cli: Cli, arguments: list[str], message: str) -> None:
    """Exit 2, and no file is made; a key given on the command line is not repeated."""
    done = cli.fails(2, message, "config", *arguments)
    assert KEY not in done.stderr
    assert not cli.config.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"api_key = ", "is not TOML"),
        (b'api_key = "secret-key-123"\nmodel = [', "is not TOML"),
        (b"api_key = 3", "`api_key` must be text"),
        (b"sandbox = 'yes'", "`sandbox` must be true or false"),
        (b"model = ['a']", "`model` must be text"),
        (b"width = 5000", "`width` must be 256 to 1440, not 5000"),
        (b"timeout = 'soon'", "`timeout` takes seconds"),
        (b"[models.flux-dev]\nsteps = 'many'", "`models.flux-dev.steps` must be a whole number"),
        (b"models = 3", "`models` must have one table per model"),
        (b"api_key = 'two words'", "`api_key`: the key contains a space"),
        (b"api_url = 'https://x.y/?z'", "`api_url`: the API URL takes no user name, query or fragment"),
        (b"\xff\xfe", "is not TOML: not UTF-8"),
    ],
)
def test_an_invalid_config_file_is_exit_6_and_left_alone(cli: Cli, content: bytes, message: str) -> None:
    """For commands that read it and commands that write it; the key in it is not shown."""
    write_config(cli, content)
    for arguments in ("imagine x --dry-run", "config list", "config set output_dir x"):
        done = cli.fails(6, message, *arguments.split())
        assert "secret-key-123" not in done.stderr
        assert done.stderr.count("error:") == 1
    assert cli.config.read_bytes() == content


def test_all_invalid_values_are_reported(cli: Cli) -> None:
    """One line for each; setting or removing the last one of them repairs the file."""
    write_config(cli, "width = 1\nheight = 1\n")
    done = cli("config", "list")
    assert [line.rpartition(": ")[2] for line in done.stderr.splitlines()[:2]] == [
        "`width` must be 256 to 1440, not 1",
        "`height` must be 256 to 1440, not 1",
    ]
    write_config(cli, "width = 1\n")
    assert cli("config", "list").stderr.splitlines()[1].endswith("remove it with `flux-cli config unset width`")
    assert cli("config", "set", "width", "256").code == 0
    write_config(cli, "width = 1\n")
    assert cli("config", "unset", "width").code == 0
    assert cli("config", "list").code == 0


def test_unknown_names_are_warnings(cli: Cli) -> None:
    """A newer version may have written them, so they stay; `--quiet` says nothing."""
    write_config(cli, 'widht = 256\nmodel = "flux-x"\n[models.flux-y]\nsteps = 1\nfuture = 1\n')
    done = cli("config", "get", "model")
    assert done.lines == ["flux-x"]
    assert "unknown setting `widht`; did you mean `width`?" in done.stderr
    assert "unknown model `flux-x`" in done.stderr
    assert "unknown model `flux-y`" in done.stderr
    assert "unknown setting `future`" in done.stderr
    assert cli("config", "set", "model", "flux-pro").code == 0
    assert cli.config.read_text() == 'widht = 256\nmodel = "flux-pro"\n[models.flux-y]\nsteps = 1\nfuture = 1\n'
    assert "widht" not in cli("imagine", "x", "--dry-run", "--quiet").stderr


def test_a_byte_order_mark_and_dos_line_ends(cli: Cli) -> None:
    """As editors on Windows write them."""
    write_config(cli, b'\xef\xbb\xbfmodel = "flux-dev"\r\n# mine\r\n')
    assert cli("config", "get", "model").lines == ["flux-dev"]
    assert cli("config", "set", "width", "512").code == 0
    assert cli.config.read_bytes() == b'model = "flux-dev"\r\n# mine\r\nwidth = 512\n'


@pytest.mark.skipif(os.name == "nt", reason="no permissions there")
def test_a_secret_that_others_can_read(cli: Cli) -> None:
    """It is a warning, with the remedy; a file without a secret may be shared."""
    write_config(cli, f'api_key = "{KEY}"\n', 0o644)
    assert f"readable by others; run: chmod 600 {cli.config}" in cli("config", "list").stderr
    write_config(cli, 'model = "flux-dev"\n', 0o644)
    assert cli("config", "list").stderr == ""


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_write_that_fails_changes_nothing(cli: Cli, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """The disk is full: the old file stays, and nothing else."""
    write_config(cli, "# old\n")
    monkeypatch.setattr(os, call, mock.Mock(side_effect=OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    cli.fails(6, f"cannot write {cli.config}: no space left on device", "config", "set", "width", "512")
    assert cli.config.read_text() == "# old\n"
    assert {path.name for path in cli.config.parent.iterdir()} == {"config.toml", ".lock"}


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need rights there")
def test_a_config_file_kept_elsewhere_stays_there(cli: Cli) -> None:
    elsewhere = cli.home / "dotfiles" / "flux.toml"
    elsewhere.parent.mkdir()
    elsewhere.write_text("# kept\n")
    cli.config.parent.mkdir(parents=True)
    cli.config.symlink_to(elsewhere)
    assert cli("config", "set", "model", "flux-dev").code == 0
    assert cli.config.is_symlink()
    assert elsewhere.read_text() == '# kept\nmodel = "flux-dev"\n'


def test_per_model_settings_in_the_file(cli: Cli) -> None:
    assert cli("config", "set", 'models."flux-pro-1.1-ultra".aspect_ratio', "21:9").code == 0
    assert cli("config", "set", "models.flux-pro-1.1-ultra.raw", "true").code == 0
    assert cli.config.read_text() == '[models."flux-pro-1.1-ultra"]\naspect_ratio = "21:9"\nraw = true\n'
    assert cli("config", "get", "models.flux-pro-1.1-ultra.aspect_ratio").lines == ["21:9"]
    assert cli("config", "set", "model", "flux-dev").code == 0
    assert cli("config", "unset", "models.flux-pro-1.1-ultra.aspect_ratio").code == 0
    assert cli("config", "unset", "models.flux-pro-1.1-ultra.raw").code == 0
    assert cli("config", "unset", "models.flux-pro-1.1-ultra.raw").code == 0
    assert cli.config.read_text().strip() == 'model = "flux-dev"'


def test_processes_that_change_the_file_at_the_same_time(cli: Cli) -> None:
    """No setting is lost, whichever process is first: `config set`, `config unset`, `login` and `logout`."""
    write_config(cli, "steps = 40\n")
    values = {"width": "512", "height": "256", "guidance": "2.5", "interval": "3", "count": "2", "seed": "7"}
    processes = [cli.start("config", "set", name, value) for name, value in values.items()]
    processes.append(cli.start("config", "unset", "steps"))
    (cli.home / "key").write_text(KEY)
    with (cli.home / "key").open() as key:
        processes.append(cli.start("login", "--no-verify", stdin=key))
    assert [process.wait(60) for process in processes] == [0] * len(processes)
    listed = cli("config", "list").lines
    assert {line.split(" = ")[0] for line in listed if line.endswith("# file")} == {"api_key", *values}


# config edit


def editor(cli: Cli, code: str) -> dict[str, str]:
    """Return an environment with an editor that runs code, with the file as `path`."""
    script = cli.home / "editor.py"
    script.write_text(f"import pathlib, sys\npath = pathlib.Path(sys.argv[-1])\n{code}\n")
    return {"VISUAL": f"'{sys.executable}' {script}", "EDITOR": "false"}


def test_config_edit(cli: Cli) -> None:
    """A valid file replaces the old one, readable by its owner only; unknown names are kept."""
    done = cli("config", "edit", env=editor(cli, "path.write_text('model = \"flux-9\"\\nwidht = 300\\n')"))
    assert done.code == 0, done.stderr
    assert "unknown model `flux-9`" in done.stderr
    assert "unknown setting `widht`; did you mean `width`?" in done.stderr
    assert cli.config.read_text() == 'model = "flux-9"\nwidht = 300\n'
    assert stat.S_IMODE(cli.config.stat().st_mode) == 0o600
    before = cli.config.stat()
    assert cli("config", "edit", env=editor(cli, "")).code == 0
    assert cli.config.stat() == before
    assert {path.name for path in cli.config.parent.iterdir()} == {"config.toml", ".lock"}


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("path.write_text('width = 5000')", "`width` must be 256 to 1440"),
        ("path.write_text('width = ')", "is not TOML"),
        ("path.write_text('width = 256'); sys.exit(3)", "failed with exit code 3"),
        ("path.write_text('width = 256'); (path.parent / 'config.toml').write_text('')", "another process"),
    ],
)
def test_config_edit_keeps_the_old_file(cli: Cli, code: str, message: str) -> None:
    write_config(cli, "# old\n")
    done = cli.fails(6, message, "config", "edit", env=editor(cli, code))
    assert "width" not in cli.config.read_text()
    (copy,) = cli.config.parent.glob("config-*.toml")
    assert f"hint: your changes are in {copy}" in done.stderr
    assert copy.read_text().startswith("width = ")


def test_config_edit_keeps_an_unreadable_copy(cli: Cli) -> None:
    cli.fails(6, "cannot read", "config", "edit", env=editor(cli, "path.unlink(); path.mkdir()"))
    assert len(list(cli.config.parent.glob("config-*.toml"))) == 1


@pytest.mark.parametrize(
    ("env", "code", "message"),
    [
        ({"EDITOR": "no-editor"}, 6, "cannot run no-editor: no such file or directory\nhint: set VISUAL or"),
        ({"EDITOR": "false"}, 6, "the editor false failed with exit code 1"),
        ({"EDITOR": "rm"}, 0, "nothing was changed"),
        ({"EDITOR": "sh -c 'rm $0; exit 3'"}, 6, "failed with exit code 3"),
        ({"VISUAL": "'"}, 2, "cannot split the editor's command"),
        ({"PATH": "/nowhere"}, 2, "no editor"),
    ],
)
def test_an_editor_that_fails_leaves_nothing(cli: Cli, env: dict[str, str], code: int, message: str) -> None:
    cli.fails(code, message, "config", "edit", env=env)
    assert not list(cli.config.parent.glob("*.toml"))


# No home


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_without_a_usable_home(cli: Cli, monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    """Reading finds no settings; writing is exit 6 and names the variable, which is enough."""
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for a user without an entry in passwd
    directory = cli.env.pop("XDG_CONFIG_HOME")
    del cli.env["HOME"]
    env = {} if home is None else {"XDG_CONFIG_HOME": home}
    assert cli("imagine", "x", "--dry-run", env=env).code == 0
    cli.fails(6, "XDG_CONFIG_HOME", "config", "set", "model", "flux-dev", env=env)
    assert cli("config", "set", "model", "flux-dev", env={"XDG_CONFIG_HOME": directory}).code == 0


def test_a_table_that_is_none(cli: Cli) -> None:
    """Nothing can be set in it, and there is nothing to remove."""
    write_config(cli, "models = 3\n")
    cli.fails(6, "must have one table per model", "config", "set", "models.flux-pro.steps", "40")
    assert cli("config", "unset", "models.flux-pro.steps").code == 0
    assert cli.config.read_text() == "models = 3\n"


def test_reading_writes_nothing(cli: Cli) -> None:
    for arguments in ("config list", "config path", "config get model", "config unset model", "logout"):
        cli(*arguments.split())
    assert not cli.config.parent.exists()


# Defaults


def test_defaults_for_request_flags(cli: Cli) -> None:
    """Flags override the model's defaults, which override those for all models."""
    write_config(
        cli,
        'width = 512\nsteps = 40\nseed = "random"\nprompt_upsampling = true\naspect_ratio = "1:1"\n'
        "image_prompt_strength = 0.5\n[models.flux-dev]\nwidth = 256\nguidance = 3\n"
        '[models."flux-pro-1.1-ultra"]\naspect_ratio = "21:9"\n',
    )
    general = {"prompt_upsampling": True, "width": 512, "steps": 40}
    body = dict(dry_run(cli))
    assert isinstance(body.pop("seed"), int)
    assert body == general
    assert dry_run(cli, "-m", "flux-dev", "--seed", "7") == {**general, "width": 256, "guidance": 3, "seed": 7}
    ultra = {"prompt_upsampling": True, "width": 300, "aspect_ratio": "21:9", "seed": 7}
    assert dry_run(cli, "-m", "flux-pro-1.1-ultra", "--seed", "7", "--width", "300") == ultra


def test_defaults_do_not_change_an_earlier_request(flux: Cli) -> None:
    flux("imagine", "x", "--no-wait", "--seed", "7")
    (record,) = flux.history()
    write_config(flux, "width = 512\n")
    assert dry_run(flux, "--like", str(record["task_id"])) == {"seed": 7}


def test_defaults_for_count_sidecar_and_timeout(flux: Cli) -> None:
    """They apply where their flags do, and flags override them."""
    write_config(flux, 'count = 2\nsidecar = true\ntimeout = "1h"\nsandbox = false\n')
    done = flux("imagine", "x")
    assert done.code == 0, done.stderr
    assert len(done.lines) == 2
    assert len([name for name in flux.files() if name.endswith(".json")]) == 2
    assert len(flux("imagine", "y", "-n", "1", "--no-sidecar", "-o", "y.png").lines) == 1
    assert "y.png" in flux.files()
    assert "y.png.json" not in flux.files()
    assert flux("imagine", "z", "-n1", "-o", "-").code == 0
    assert len(flux("imagine", "z", "--no-wait").lines) == 2
    assert flux("wait", "--all").code == 0
    assert len([name for name in flux.files() if name.endswith(".json")]) == 4
    write_config(flux, "timeout = 0\n")
    assert flux("imagine", "x").code == 7


def test_defaults_in_a_batch(cli: Cli) -> None:
    """Each row gets those of its model; flags and the row's own fields override them."""
    write_config(cli, 'width = 512\nsteps = 40\nseed = "random"\n[models.flux-dev]\nwidth = 256\n')
    rows = [{"prompt": "a"}, {"prompt": "b", "model": "flux-dev"}, {"prompt": "c", "width": 300}]
    rows.append({"prompt": "d", "model": "flux-schnell"})
    (cli.cwd / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    done = cli("batch", "rows.jsonl", "--dry-run", "--height", "600")
    assert done.code == 0, done.stderr
    names = ("width", "steps", "height", "seed")
    assert [tuple(body.get(name) for name in names) for body in done.objects] == [
        (512, 40, 600, None),
        (256, 40, 600, None),
        (300, 40, 600, None),
        (512, None, 600, None),
    ]


def test_defaults_for_a_model_of_a_newer_version() -> None:
    stored = Config(defaults={"width": 512, "steps": 40}, models={"flux-2": {"steps": 9}})
    assert stored.defaults_for("flux-2") == {"width": 512, "steps": 9}
    assert stored.defaults_for("flux-3") == {"width": 512}


def test_values_of_another_type_are_invalid() -> None:
    for name in SETTINGS:
        assert problem(parse_name(name), [1]) is not None
        assert problem(parse_name(name), " ") is not None
    with pytest.raises(UsageError, match="must be a finite number"):
        parse_value(parse_name("guidance"), "inf")
    assert "hush" not in str(problem(parse_name("webhook_secret"), ["hush"]))
    assert parse_value(parse_name("count"), "1") == 1


def test_an_unreadable_config(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(cli.home / "config"))
    cli.config.mkdir(parents=True)
    with pytest.raises(LocalFileError, match="cannot read") as caught:
        config.load()
    assert "XDG_CONFIG_HOME" in str(caught.value.hint)


# account, models and the choice of the service


def test_account_shows_what_the_service_returns(flux: Cli) -> None:
    rows = dict(line.split("\t") for line in flux("account").lines)
    assert list(rows) == ["email", "credits", "total_images", "plan"]
    (before,) = flux("account", "--json").objects
    flux("imagine", "x", "--no-wait", "-q")
    (after,) = flux("account", "--json").objects
    assert after["credits"] == before["credits"] - 1


def test_models_lists_each_with_its_parameters(cli: Cli) -> None:
    objects = {each["model"]: each["parameters"] for each in cli("models", "--json").objects}
    assert list(objects) == [line.split("\t")[0] for line in cli("models").lines]
    assert "interval" in objects["flux-pro"]
    assert "interval" not in objects["flux-dev"]
    assert "prompt" in objects["flux-schnell"]


@pytest.mark.parametrize("setting", ["0", "1"])
def test_flags_override_variables(flux: Cli, service: Service, setting: str) -> None:
    """The flags cannot be combined even if such a variable is set; a flag overrides both variables."""
    env = {"FLUX_CLI_SANDBOX": setting, "FLUX_CLI_API_URL": "http://127.0.0.1:9"}
    assert flux("account", "--sandbox", "--api-url", "http://127.0.0.1:9", env=env).code == 2
    assert flux("account", "--api-url", "http://127.0.0.1:9", env=env).code == 5
    assert flux("account", "--sandbox", env=env).code == 0
    assert service.running.stats.accepted == 0


def test_an_empty_api_url_is_not_the_default(flux: Cli, cli: Cli) -> None:
    """A script whose variable is unset must not reach the service that costs money."""
    for command in (["account"], ["imagine", "x"], ["login"]):
        flux.fails(2, "is not an http or https URL", *command, "--api-url", "", input="k" * 20)
    assert cli("models", env={"FLUX_CLI_API_URL": ""}).code == 0


def test_a_wrong_path_in_the_api_url_is_about_the_url(flux: Cli, service: Service) -> None:
    done = flux("account", "--api-url", f"{service.url}/nowhere")
    assert done.code == 5
    assert done.stderr.splitlines()[1] == "hint: check --api-url"

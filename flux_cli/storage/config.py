"""The config file: readable by its owner only, replaced atomically, with its comments kept.

Flags override the environment, the environment overrides the file, and the file overrides the defaults. Typer
handles the first two (`envvar=`); `Config` has the third.
"""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flux_cli.api.request import FIELDS, MODELS, JsonValue
from flux_cli.errors import LocalFileError, NotAllowedError, closest, missing_packages, os_reason, program
from flux_cli.storage.filesystem import local_errors, lock, make_directory
from flux_cli.storage.paths import config_directory
from flux_cli.storage.settings import (
    KEY_VARIABLE,
    SETTINGS,
    Name,
    check_key,
    parse_name,
    parse_value,
    problem,
    trim_key,
    unknown_model,
)

if TYPE_CHECKING:
    from tomlkit import TOMLDocument

_EMPTY_FILE = b"# The settings of flux-cli; see flux-cli-config(5).\n"


@dataclass(frozen=True)
class Config:
    """What the config file sets; None for what it does not.

    `defaults` are those of the request flags and of `timeout`, `sidecar` and `count`; `models` has the same for
    single models. `warnings` are about the file.
    """

    api_key: str | None = None
    api_url: str | None = None
    model: str | None = None
    output_dir: str | None = None
    webhook_secret: str | None = None
    sandbox: bool | None = None
    defaults: Mapping[str, JsonValue] = field(default_factory=dict)
    models: Mapping[str, Mapping[str, JsonValue]] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def defaults_for(self, model: str) -> dict[str, JsonValue]:
        """Return the defaults that apply to a model; its own override the others.

        A default for all models is left out if this one does not accept the field.
        """
        general = {
            name: value
            for name, value in self.defaults.items()
            if name not in FIELDS or not FIELDS[name].models or model in FIELDS[name].models
        }
        return {**general, **self.models.get(model, {})}

    def values(self) -> dict[str, JsonValue]:
        """Return everything that is set, by the names that `config set` takes."""
        own = {name: getattr(self, name) for name in _OWN if getattr(self, name) is not None}
        per_model = {
            f"models.{model}.{name}": value
            for model, values in self.models.items()
            for name, value in values.items()
        }
        return {**own, **self.defaults, **per_model}


_OWN = tuple(name for name, setting in SETTINGS.items() if not setting.per_model)
"""The settings that `Config` has as attributes."""


def config_path() -> Path:
    """Return where the config file is, whether or not it exists. Raises LocalFileError without a home."""
    return config_directory() / "config.toml"


def load() -> Config:
    """Read the config file, if there is one. Raises LocalFileError if it is unreadable or has an invalid value."""
    try:
        path = config_path()
    except LocalFileError:  # no home: there is no file, and only writing one is an error
        return Config()
    content = _read(path)
    if content is None:
        return Config()
    config = _checked(path, _parsed(path, content))
    with contextlib.suppress(OSError):
        shared = os.name != "nt" and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH)
        if shared and (config.api_key or config.webhook_secret):
            exposed = f"{path} contains a secret and is readable by others; run: chmod 600 {path}"
            return replace(config, warnings=(*config.warnings, exposed))
    return config


def set_value(name: str, text: str) -> None:
    """Set one name in the file, creating it if necessary.

    Raises:
        UsageError: There is no such setting, or the value is invalid; nothing is written.
        LocalFileError: The file cannot be read or written, or contains something invalid.
    """
    parsed = parse_name(name)
    value = parse_value(parsed, text)

    def change(document: "TOMLDocument") -> None:
        _table(document, parsed)[parsed.setting.name] = value

    _update(change)


def unset(name: str) -> bool:
    """Remove one name from the file; return whether it was there. Raises as `set_value` does."""
    parsed = parse_name(name)

    def change(document: "TOMLDocument") -> None:
        table = _table(document, parsed)
        table.pop(parsed.setting.name, None)
        models: Any = document.get("models")
        if parsed.model is not None and not table:
            del models[parsed.model]
        if models is not None and not models:
            del document["models"]

    path = config_path()
    table: Any = _parsed(path, _read(path) or b"")
    try:
        table = table["models"][parsed.model] if parsed.model is not None else table
        table[parsed.setting.name]
    except (KeyError, TypeError):
        return False  # nothing is written
    _update(change)
    return True


def edit(command: Sequence[str]) -> bool:
    """Let an editor change a copy of the file; if it is valid, it replaces the file. Return whether it changed.

    Raises LocalFileError if the editor failed, the copy is invalid, or another process has changed the file,
    which is left alone then. A changed copy is kept.
    """
    import tempfile

    path = config_path()
    stored = _read(path)
    before = _EMPTY_FILE if stored is None else stored
    with local_errors(path, hint=_ELSEWHERE):
        make_directory(path.parent, 0o700)
        handle, name = tempfile.mkstemp(prefix="config-", suffix=".toml", dir=path.parent)  # creates it 0600
        with os.fdopen(handle, "wb") as file:
            file.write(before)
    copy, kept = Path(name), False
    try:
        _run_editor([*command, name])
        after = _read(copy)
        if after is not None and after != before:
            _checked(path, _parsed(path, after))
            with _locked(path):
                if _read(path) != stored:
                    raise LocalFileError(f"another process has changed {path} in the meantime")
                _write(path, after)
    except LocalFileError as error:
        kept = True  # also a copy that cannot be read
        kept = _read(copy) not in (None, before)
        if not kept:
            raise
        raise LocalFileError(f"{error.message}; the file was not changed", f"your changes are in {name}") from None
    finally:
        if not kept:
            copy.unlink(missing_ok=True)
    return after not in (None, before)


def _run_editor(command: Sequence[str]) -> None:
    import subprocess  # 10 ms

    try:
        code = subprocess.run(command, check=False).returncode  # noqa: S603 - the user's own editor
    except OSError as error:
        what = f"cannot run {command[0]}: {os_reason(error)}"
        raise LocalFileError(what, "set VISUAL or EDITOR to the command of an editor") from None
    if code != 0:
        raise LocalFileError(f"the editor {command[0]} failed with exit code {code}")


def find_key(config: Config) -> str:
    """Return the API key: from the environment, otherwise from the config file.

    Raises NotAllowedError if there is none, and UsageError if it cannot be a key.
    """
    key = trim_key(os.environ.get(KEY_VARIABLE, "")) or config.api_key
    if not key:
        sandbox = "" if missing_packages("sandbox") else ", or try --sandbox"
        raise NotAllowedError("no API key", f"run `{program()} login` or set {KEY_VARIABLE}{sandbox}")
    return check_key(key)


def masked(secret: str) -> str:
    """Return a stand-in for a secret: only its end, and only if it is long."""
    return f"…{secret[-4:]}" if len(secret) >= 16 else "…"


def _read(path: Path) -> bytes | None:
    """Return the content of a file, None if there is none."""
    with local_errors(path, "read", _ELSEWHERE), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return path.read_bytes()
    return None


_NO_TABLES = '`models` must have one table per model, like [models."flux-pro"]'
_ELSEWHERE = "set XDG_CONFIG_HOME to use another directory"


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    import tomllib  # 20 ms

    try:
        return tomllib.loads(content.decode("utf-8-sig").replace("\r\n", "\n"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        # The parser's message quotes no text of the file, so it cannot show the key.
        reason = error if isinstance(error, tomllib.TOMLDecodeError) else "not UTF-8"
        raise LocalFileError(f"{path} is not TOML: {reason}", "correct it in an editor, or remove it") from None


def _checked(path: Path, document: Mapping[str, Any]) -> Config:
    """Return what a parsed file sets. Raises LocalFileError that names every invalid value."""
    problems: list[tuple[str, str]] = []
    warnings: list[str] = []
    values = _checked_table(document, None, problems, warnings)
    models: dict[str, dict[str, JsonValue]] = {}
    tables = document.get("models", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        problems.append(("models", _NO_TABLES))
        tables = {}
    for model, table in tables.items():
        if model not in MODELS:
            warnings.append(f"unknown model `{model}` in the table `models`")
        models[model] = _checked_table(table, model, problems, warnings)
    if problems:
        unset = f", or remove it with `flux-cli config unset {problems[0][0]}`" if len(problems) == 1 else ""
        raise LocalFileError(
            [f"{path}: {message}" for _, message in problems],
            f"correct it with `flux-cli config edit`{unset if problems[0][0] != 'models' else ''}",
        )
    own = {name: values.pop(name) for name in _OWN if name in values}
    if isinstance(own.get("api_key"), str):
        own["api_key"] = trim_key(str(own["api_key"]))
    found = tuple(f"{path}: {warning}" for warning in warnings)
    return Config(**cast("dict[str, Any]", own), defaults=values, models=models, warnings=found)


def _checked_table(
    table: Mapping[str, object], model: str | None, problems: list[tuple[str, str]], warnings: list[str]
) -> dict[str, JsonValue]:
    values: dict[str, JsonValue] = {}
    known = [name for name, setting in SETTINGS.items() if model is None or setting.per_model]
    for key, value in table.items():
        if key == "models" and model is None:
            continue
        if key not in known:  # a newer version may have written it
            close = closest(key, known)
            warnings.append(f"unknown setting `{key}`" + (f"; did you mean `{close}`?" if close else ""))
            continue
        name = Name(SETTINGS[key], model)
        if message := problem(name, value):
            problems.append((str(name), message))
        else:
            values[key] = cast("JsonValue", value)
            warnings += filter(None, [unknown_model(name, value)])
    return values


def _table(document: "TOMLDocument", name: Name) -> Any:  # tomlkit's tables have no common type
    """Return the table of a document that a name belongs to, created if necessary."""
    if name.model is None:
        return document
    import tomlkit

    if "models" not in document:
        document["models"] = tomlkit.table(is_super_table=True)
    models: Any = document["models"]
    if isinstance(models, dict) and name.model not in models:
        models[name.model] = tomlkit.table()
    if not isinstance(models, dict) or not isinstance(models[name.model], dict):
        raise LocalFileError(f"{config_path()}: {_NO_TABLES}", "correct it with `flux-cli config edit`")
    return models[name.model]


def _update(change: Callable[["TOMLDocument"], None]) -> None:
    """Change the file under the lock. What would be invalid afterwards is not written."""
    import tomlkit  # 35 ms, only needed to write

    path = config_path()
    with _locked(path):
        content = _read(path) or b""
        _parsed(path, content)  # tomlkit's errors may quote the file
        document = tomlkit.parse(content.decode("utf-8-sig"))
        change(document)
        changed = tomlkit.dumps(document).encode()
        _checked(path, _parsed(path, changed))
        if changed != content:
            _write(path, changed)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of the config file, so that no other process changes it between reading and writing."""
    with local_errors(path, hint=_ELSEWHERE):
        make_directory(path.parent, 0o700)
        file = open(path.with_name(".lock"), "ab", opener=partial(os.open, mode=0o600))  # noqa: SIM115 - closed below
    with file:
        with contextlib.suppress(OSError):  # a file system without locks
            lock(file, wait=True)
        yield


def _write(path: Path, content: bytes) -> None:
    """Replace the file in one step. A symbolic link, as dotfile managers make them, stays one."""
    from flux_cli.storage.files import write_file  # 5 ms

    try:
        write_file(path.resolve() if path.is_symlink() else path, content, force=True, private=True)
    except LocalFileError as error:
        raise LocalFileError(error.message, _ELSEWHERE) from None

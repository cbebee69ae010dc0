"""File names of pictures: templates, slugs, and names that are legal on every system."""

import os
import re
import string
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_cli.errors import LocalFileError, UsageError, os_reason
from flux_cli.pictures.formats import ImageType, is_image_extension
from flux_cli.storage.files import temporary
from flux_cli.storage.filesystem import local_errors, make_directory
from flux_cli.storage.paths import expanded

DEFAULT_TEMPLATE = "{slug}-{id8}.{ext}"
FIELD_NAMES = ("task_id", "id8", "model", "seed", "slug", "n", "date", "ext")
_TEMPLATE_HINT = f"fields: {' '.join('{' + name + '}' for name in FIELD_NAMES)}"

MAX_SLUG, MAX_SLUG_BYTES = 60, 120
"""How much of a prompt goes into a file name, in characters and in bytes of UTF-8."""
MAX_NAME_BYTES = 200
"""Below the 255 bytes of common file systems, with room for `-12` and `.json`."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@,-]+")


@dataclass(frozen=True)
class Target:
    """Where pictures go: a template below a directory, or stdout.

    If it is `explicit`, the user chose a literal file name, which is kept, whatever format the bytes have. With
    `force` an existing file is replaced.
    """

    directory: Path
    template: str = DEFAULT_TEMPLATE
    explicit: bool = False
    stdout: bool = False
    force: bool = False

    def path(self, values: Mapping[str, str], kind: ImageType, *, original: bool = False) -> Path:
        """Return the path for a picture of this type. The extension of a generated name follows the bytes."""
        if self.explicit:
            path = self.directory / self.template
            if not original:
                return path
            if is_image_extension(path.suffix[1:]) and not kind.fits(path.suffix[1:]):
                path = path.with_suffix(f".{kind.extension}")
        else:
            path = self.directory / _filled(self.template, {**values, "ext": kind.extension})
            if "{ext}" not in self.template and not kind.fits(path.suffix[1:]):
                if is_image_extension(path.suffix[1:]):
                    path = path.with_suffix("")
                path = path.with_name(f"{path.name}.{kind.extension}")
        return path.with_name(f"{path.stem}-original{path.suffix}") if original else path


def parse_output(output: str | None, output_dir: str | None, count: int | None, force: bool) -> Target:
    """Parse `-o`: a file, a directory, a template, or `-`; without it pictures go to `output_dir`, or here.

    `count` is the number of pictures, or None if it is unknown. Raises UsageError if the template has an unknown
    field, or several pictures would get the same name.
    """
    if output is None:
        return Target(expanded(output_dir or "."), force=force)
    if output == "-":
        if count != 1:
            raise UsageError("`-o -` accepts only one picture", "give a directory or a template instead")
        return Target(Path(), stdout=True)
    if not output.strip() or "\0" in output:
        raise UsageError("`-o` must not be blank", "give a file, a directory, a template or -")
    output = os.path.expanduser(output)
    if "{" in output or "}" in output:
        output += DEFAULT_TEMPLATE if output.endswith(("/", os.sep)) else ""
        _check_template(output, count)
        return Target(Path(), output, force=force)
    path = Path(output)
    if output.endswith(("/", os.sep)) or os.path.isdir(output):
        return Target(path, force=force)
    if count != 1:
        raise UsageError(
            f"`-o {output}` names one file for several pictures",
            "use a directory, or a template such as 'cat-{n}.{ext}'",
        )
    return Target(path.parent, path.name, explicit=True, force=force)


def check(target: Target, *, create: bool = True) -> None:
    """Check, before anything is charged, that pictures can be written there.

    With `create`, missing directories are created; without it, the directory is not checked. Raises LocalFileError
    if the explicit file exists (without `force`), or the directory cannot be written.
    """
    if target.stdout:
        return
    if create:
        _check_directory(target)
    if target.explicit:
        _check_name(target.directory / target.template, target.force)


def _check_directory(target: Target) -> None:
    fixed = Path(target.template.split("{")[0] + "x").parent  # the part of the path that depends on no field
    directory = target.directory / fixed
    try:
        make_directory(directory)
    except (FileExistsError, NotADirectoryError):
        raise LocalFileError(f"{directory} is not a directory") from None
    except OSError as error:
        raise LocalFileError(f"cannot create the directory {directory}: {os_reason(error)}") from None
    with temporary(directory):  # os.access says little: root has permission to write to /proc, and cannot
        pass


def _check_name(path: Path, force: bool) -> None:
    with local_errors(path):
        try:
            os.lstat(path)
        except FileNotFoundError:
            return
    linked = os.readlink(path) if path.is_symlink() else ""
    if not (path.is_file() or (linked and not path.exists())) or linked.startswith("/proc/"):
        raise LocalFileError(
            f"{path} exists, is not a regular file, and cannot be replaced",
            "choose another name, or use `-o -` for stdout",
        )
    if not force:
        raise LocalFileError(f"{path} exists", "choose another name, or replace it with --force")


def values_for(task_id: str, request: Mapping[str, object], n: int = 1) -> dict[str, str]:
    """Return the values of a template's fields, each safe as part of a file name; the date is the local one."""
    return {
        "task_id": _safe(task_id),
        "id8": _safe(task_id)[:8],
        "model": _safe(str(request.get("model") or "unknown")),
        "seed": _safe(str(request.get("seed", "random"))),
        "slug": slug(str(request.get("prompt") or "")),
        "n": str(n),
        "date": time.strftime("%Y-%m-%d"),
    }


def slug(prompt: str) -> str:
    """Return a prompt as part of a file name: words in lower case, joined by dashes; never empty.

    Letters of every script are kept, unless the file system's encoding lacks them. A prompt of symbols only gets
    their Unicode names.
    """
    words = _words(unicodedata.normalize("NFC", prompt[:1000].lower()))
    try:
        os.fsencode(words)
    except UnicodeEncodeError:  # the C locale
        words = _words(unicodedata.normalize("NFKD", words).encode("ascii", "ignore").decode())
    if not words:
        symbols = [each for each in dict.fromkeys(prompt[:100]) if unicodedata.category(each) == "So"]
        words = _words(" ".join(unicodedata.name(each, "") for each in symbols).lower())
    return _cut(words) or "image"


def _words(text: str) -> str:
    """Return letters, digits and the marks that follow them, with dashes in place of everything else."""
    kept = ""
    for character in text:
        category = unicodedata.category(character)
        if category[0] in "LN" or (category[0] == "M" and kept and not kept.endswith("-")):
            kept += character
        elif category != "Cf" and not kept.endswith("-"):  # joiners may be in the middle of a word
            kept += "-"
    return kept.strip("-")


def _cut(words: str) -> str:
    """Cut words off, the last one in the middle if they would become too short."""
    short = words[:MAX_SLUG]
    while len(short.encode()) > MAX_SLUG_BYTES:
        short = short[:-1]
    if len(short) < len(words) and words[len(short)] != "-":
        whole = short.rpartition("-")[0]
        short = whole if len(whole) > len(short) // 2 else short
    return short.strip("-")


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text)[:100].strip(".") or "_"


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Fill a template; each part that has a field is legal on Linux, macOS and Windows."""
    *directories, name = Path(template).parts
    filled = [_part(part, values) if "{" in part else part for part in directories]
    return str(Path(*filled, _part(name, values)))


def _part(part: str, values: Mapping[str, str]) -> str:
    name = part.format_map(values)
    if part.startswith("{"):  # with a dash it could be taken for an option, with a dot it would be hidden
        name = re.sub(r"^[-.]+", "_", name)
    return _legal(name)


def _legal(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    stem, extension = (stem, dot + extension) if dot and stem else (name, "")
    if _RESERVED.fullmatch(stem.split(".")[0].rstrip()):
        stem = f"_{stem}"
    while stem and len((stem + extension).encode()) > MAX_NAME_BYTES:
        stem = stem[:-1]
    return (stem.rstrip(". ") or "image") + extension


def _check_template(template: str, count: int | None) -> None:
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"`-o` is not a template: {error}", _TEMPLATE_HINT) from None
    names = set()
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in FIELD_NAMES or spec or conversion:
            raise UsageError(f"`-o` has an unknown field {{{name}}}", _TEMPLATE_HINT)
        names.add(name)
    if count is not None and count > 1 and not names & {"task_id", "id8", "n", "seed"}:
        raise UsageError(
            "`-o` gives several pictures the same name", "add {n}, {seed} or {task_id} to the template"
        )

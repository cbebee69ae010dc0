"""What a picture's file is called: templates, slugs, and names that are safe everywhere whatever a prompt says."""

import os
import re
import string
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flux_cli.errors import LocalFileError, UsageError
from flux_cli.pictures.formats import ImageType, is_image_extension
from flux_cli.storage.files import local_errors, temporary
from flux_cli.storage.paths import make_directory

DEFAULT_TEMPLATE = "{slug}-{id8}.{ext}"
FIELD_NAMES = ("task_id", "id8", "model", "seed", "slug", "n", "date", "ext")

MAX_SLUG = 60
"""Characters of a prompt that go into a file name."""
MAX_NAME_BYTES = 200
"""Below the 255 bytes of common file systems, with room for `-12` and `.json`."""

_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³])", re.IGNORECASE)
_UNSAFE = re.compile(r"[^A-Za-z0-9._+=@,-]+")


@dataclass(frozen=True)
class Target:
    """Where pictures go.

    Attributes:
        directory: The directory that `template` is relative to.
        template: A name with fields, or a literal file name if `explicit`.
        explicit: The user named this very file: it must not exist, and no other name will do.
        stdout: The bytes go to standard output, and no file is made.
        force: An existing file is replaced.
    """

    directory: Path
    template: str = DEFAULT_TEMPLATE
    explicit: bool = False
    stdout: bool = False
    force: bool = False

    def path(self, values: Mapping[str, str], kind: ImageType, *, original: bool = False) -> Path:
        """Return the path for a picture of this type.

        The extension follows the bytes: an explicit name that promises another image type gets the right one.
        """
        if self.explicit:
            path = self.directory / self.template
            extension = path.suffix[1:]
            if is_image_extension(extension) and not kind.fits(extension):
                path = path.with_suffix(f".{kind.extension}")
        else:
            path = self.directory / _filled(self.template, {**values, "ext": kind.extension})
            if "{ext}" not in self.template and not kind.fits(path.suffix[1:]):
                if is_image_extension(path.suffix[1:]):
                    path = path.with_suffix("")
                path = path.with_name(f"{path.name}.{kind.extension}")
        return path.with_name(f"{path.stem}-original{path.suffix}") if original else path


def plan(output: str | None, output_dir: str | None, count: int | None, force: bool) -> Target:
    """Understand `-o`: a file, a directory, a template, or `-`.

    Args:
        output: What the user gave, or None.
        output_dir: The directory to use without `-o`, from the config; None for the current one.
        count: How many pictures there will be, or None where that is not known.
        force: Whether existing files may be replaced.

    Raises:
        UsageError: A template's field is not known, or one name would have to serve several pictures.
    """
    if output is None:
        return Target(Path(os.path.expanduser(output_dir or ".")), force=force)
    if output == "-":
        if count != 1:
            raise UsageError("`-o -` takes one picture", "give a directory or a template instead")
        return Target(Path(), stdout=True)
    if not output.strip() or "\0" in output:
        raise UsageError("`-o` must not be blank", "give a file, a directory, a template or -")
    output = os.path.expanduser(output)  # Path's own raises where there is no such user
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


def check(target: Target) -> None:
    """See, before anything is paid for, that pictures can be written there.

    Makes the directory if it does not exist.

    Raises:
        LocalFileError: The explicit file exists (and is not to be replaced), or the directory cannot be written.
    """
    if target.stdout:
        return
    fixed = Path(target.template.split("{")[0] + "x").parent  # what of a template's path no field can change
    directory = target.directory / fixed
    try:
        make_directory(directory)
    except (FileExistsError, NotADirectoryError):
        raise LocalFileError(f"{directory} is not a directory") from None
    except OSError as error:
        raise LocalFileError(
            f"cannot make the directory {directory}: {(error.strerror or str(error)).lower()}"
        ) from None
    with temporary(directory):  # to ask for permission says little: root may write to /proc, where nothing can be
        pass
    if target.explicit:
        _check_name(target.directory / target.template, target.force)


def _check_name(path: Path, force: bool) -> None:
    with local_errors(path):
        try:
            os.lstat(path)
        except FileNotFoundError:
            return
    if not force:
        raise LocalFileError(f"{path} exists", "choose another name, or replace it with --force")
    linked = os.readlink(path) if path.is_symlink() else ""
    if not (path.is_file() or (linked and not path.exists())) or linked.startswith("/proc/"):
        raise LocalFileError(f"{path} is not a file that could be replaced", "for standard output there is `-o -`")


def values_for(
    task_id: str, request: Mapping[str, object], n: int = 1, when: float | None = None
) -> dict[str, str]:
    """Return what the fields of a template stand for, each safe as a part of a file name.

    `when` is the Unix time for `{date}` (local, YYYY-MM-DD), now if None.
    """
    date = time.strftime("%Y-%m-%d", time.localtime(when))
    return {
        "task_id": _safe(task_id),
        "id8": _safe(task_id)[:8],
        "model": _safe(str(request.get("model") or "unknown")),
        "seed": _safe(str(request.get("seed", "random"))),
        "slug": slug(str(request.get("prompt") or "")),
        "n": str(n),
        "date": date,
    }


def slug(prompt: str) -> str:
    """Return a prompt as a part of a file name: lower-case ASCII letters, digits and dashes, never empty."""
    plain = unicodedata.normalize("NFKD", prompt[:1000]).encode("ascii", "ignore").decode()
    words = re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")
    if len(words) > MAX_SLUG:
        cut = words[: MAX_SLUG + 1].rpartition("-")[0]
        words = (cut if len(cut) > MAX_SLUG // 2 else words[:MAX_SLUG]).strip("-")
    return words or "image"


def _safe(text: str) -> str:
    return _UNSAFE.sub("_", text)[:100].strip(".") or "_"


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Fill a template; each part of the resulting path is kept legal on Linux, macOS and Windows."""
    *directories, name = Path(template).parts
    filled = [_legal(part.format_map(values)) if "{" in part else part for part in directories]
    return str(Path(*filled, _legal(name.format_map(values))))


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
        fields = [
            (field, spec, how) for _, field, spec, how in string.Formatter().parse(template) if field is not None
        ]
    except ValueError as error:
        raise UsageError(f"`-o` is not a template: {error}", _TEMPLATE_HINT) from None
    for field, spec, how in fields:
        if field not in FIELD_NAMES or spec or how:
            raise UsageError(f"`-o` does not know the field {{{field}}}", _TEMPLATE_HINT)
    names = {field for field, _, _ in fields}
    if count is not None and count > 1 and not names & {"task_id", "id8", "n", "seed"}:
        raise UsageError("`-o` gives several pictures one name", "put {n}, {seed} or {task_id} into the template")


_TEMPLATE_HINT = f"fields: {' '.join('{' + name + '}' for name in FIELD_NAMES)}"

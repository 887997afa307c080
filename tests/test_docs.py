"""The README and the documentation are true: code runs, names exist, none is missing."""

from __future__ import annotations

import contextlib
import inspect
import io
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import types
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(
    r"(?:<!-- (?P<not_run>not run: [^\n]+) -->\n+)?"
    r"^```(?P<language>[a-z]+)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
COMMAND = re.compile(r"(?:^\$ |^|`)polyclinic ([a-z][a-z_-]*)([^`\n]*)", re.MULTILINE)
TIME = re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b")


@dataclass(frozen=True)
class Block:
    """One fenced block: `title` names the file that it stands for, `not_run` says why it is not."""

    language: str
    title: str
    text: str
    not_run: str


def page_name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    found = FENCE.finditer(page.read_text(encoding="utf-8"))
    return [Block(m["language"], m["title"] or "", m["text"], m["not_run"] or "") for m in found]


def has_code(page: Path) -> bool:
    return any(block.language in ("python", "console") for block in blocks(page))


@pytest.fixture
def workspace(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with what the pages talk about: the four files and their codebook."""
    for file in (data_dir / "heart-disease").glob("processed.*.data"):
        shutil.copy(file, tmp_path)
    shutil.copy(ROOT / "examples" / "heart.toml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(text: str, names: dict[str, object], origin: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(text, origin, "exec"), names)
    return printed.getvalue()


def run_console(text: str) -> None:
    """Run each `$ polyclinic ...` line; the lines below it must come, in this order; ... is any."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, *expected = part.rstrip().splitlines()
        words = shlex.split(command)
        assert words[0] == "polyclinic", command
        program = Path(sys.executable).with_name("polyclinic")
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == ("error  " not in part), done.stderr
        actual = iter(TIME.sub("TIME", done.stdout + done.stderr).splitlines())
        for line in expected:
            shown = TIME.sub("TIME", line).rstrip()
            if shown and shown != "...":
                assert any(shown == other.rstrip() for other in actual), (
                    f"{command}\nmissing here or in this order: {line}\n{done.stdout}{done.stderr}"
                )


@pytest.mark.parametrize("page", [p for p in PAGES if has_code(p)], ids=page_name)
def test_code_runs_and_prints_what_the_page_shows(page: Path, workspace: Path) -> None:
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(page):
        if block.not_run:
            continue
        if block.title:
            (workspace / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            printed = run_python(block.text, names, page_name(page))
        elif block.language == "console":
            run_console(block.text)
        elif block.language == "text" and printed:
            lines = [line.rstrip() for line in printed.rstrip().splitlines()]
            assert lines == [line.rstrip() for line in block.text.rstrip().splitlines()]
            printed = ""


def test_the_first_example_is_the_same_everywhere() -> None:
    example = blocks(ROOT / "README.md")[1]
    assert example.language == "python"
    assert example.text in (DOCS / "index.md").read_text(encoding="utf-8")
    assert (ROOT / "examples/quickstart.py").read_text(encoding="utf-8").endswith(example.text)
    assert blocks(ROOT / "README.md")[2].text in (DOCS / "index.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_toml_is_toml(page: Path) -> None:
    for block in blocks(page):
        if block.language == "toml":
            assert tomllib.loads(block.text)


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), f"{page_name(page)}: {target}"


def cli() -> click.Group:
    import typer

    from polyclinic.cli.main import app

    command = typer.main.get_command(app)
    assert hasattr(command, "commands")
    return command  # type: ignore[return-value]


def every_command(group: click.Group, before: str = "") -> dict[str, click.Command]:
    """By name with the groups that hold it: ``"run"``, ``"site audit verify"``."""
    found = {}
    for name, command in group.commands.items():
        inner = hasattr(command, "commands")
        found |= every_command(command, f"{before}{name} ") if inner else {before + name: command}
    return found


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_commands_and_options_exist(page: Path) -> None:
    for name, rest in COMMAND.findall(page.read_text(encoding="utf-8")):
        command, words = cli(), [name, *rest.split()]
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"polyclinic {name}{rest}"
            command = command.commands[words.pop(0)]
        options = {option for param in command.params for option in param.opts} | {"--help"}
        named = set(re.findall(r"(?<=\s)--[a-z][a-z-]*", rest))
        assert named <= options, f"polyclinic {name}{rest}: {sorted(named - options)}"


def test_every_command_is_documented() -> None:
    page = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    for name, command in every_command(cli()).items():
        assert f"\n## polyclinic {name}\n" in page
        section = page.split(f"\n## polyclinic {name}\n")[1].split("\n## ")[0]
        for param in command.params:
            shown = (
                param.opts[0] if param.opts[0].startswith("-") else (param.metavar or param.name)
            )
            assert str(shown).lower() in section.lower(), f"polyclinic {name}: {shown}"


def documented() -> dict[str, str]:
    """Name -> the text of its section and of the page that holds it, over docs/reference."""
    found = {}
    for page in sorted((DOCS / "reference").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        found |= dict.fromkeys(re.findall(r"^#+ `pc\.([\w.]+)", text, re.MULTILINE), text)
    return found


def test_every_public_name_is_documented_and_no_other() -> None:
    import polyclinic as pc

    public = {name for name in pc.__all__ if not name.startswith("_")}
    modules = {name for name in public if isinstance(getattr(pc, name), types.ModuleType)}
    for name in modules:
        public |= {f"{name}.{inner}" for inner in getattr(pc, name).__all__}
    assert set(documented()) | modules == public | modules


def test_every_parameter_and_method_is_documented() -> None:
    import polyclinic as pc

    missing = []
    for name, page in documented().items():
        thing: object = pc
        for part in name.split("."):
            thing = getattr(thing, part)
        if not callable(thing) or (isinstance(thing, type) and issubclass(thing, Exception)):
            continue
        members = list(inspect.signature(thing).parameters)
        if isinstance(thing, type):
            own = [m for m in vars(thing) if not m.startswith("_")]
            members += [m for m in own if not m.endswith("_request")]  # scikit-learn adds these
        missing += [f"{name}: {m}" for m in members if not re.search(rf"`[^`\n]*\b{m}\b", page)]
    assert not missing


def test_every_error_code_is_documented() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    shown = set(re.findall(r"^\| `([A-Z0-9_]+)` \|", page, re.MULTILINE))
    listed = subprocess.run(
        [sys.executable, ROOT / "scripts" / "error_codes.py", "--list"],
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert len(listed) > 10
    assert shown == set(listed), "scripts/docs writes docs/errors.md anew"


def test_the_site_builds_and_asks_no_other_server(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs")
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", tmp_path],
        cwd=ROOT, check=True, capture_output=True,
    )  # fmt: skip
    built = sorted(tmp_path.rglob("*.html"))
    assert len(built) >= len(PAGES) - 1
    for page in built:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"<(script|img|iframe)[^>]+src=\"(https?:)?//", text), page
        assert not re.search(
            r"<link[^>]+rel=\"(stylesheet|preconnect)\"[^>]+\"(https?:)?//", text
        ), page
    for sheet in tmp_path.rglob("*.css"):
        assert not re.search(
            r"(@import|url\()[\"' ]*(https?:)?//", sheet.read_text(encoding="utf-8")
        )

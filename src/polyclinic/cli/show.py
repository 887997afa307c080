"""What the terminal shows. Plain ASCII, at most 80 columns; a progress line only on a terminal."""

from __future__ import annotations

import json
import os
import sys
import textwrap
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console

from polyclinic.core.errors import PolyclinicError
from polyclinic.engines.clusters import Cluster
from polyclinic.report import exchanged, gate, noise, progress, words

PLAIN_SECONDS = 30.0
WIDTH = 80
SOON = 60  # days before its end from which a certificate is spoken of
SPINNER = 2  # columns before a moving line
LABELS = (("rule", "rule"), ("next", "next"), ("kept", "kept"))


def error(found: PolyclinicError) -> None:
    """What happened, code, rule, next, kept; to stderr, in this order."""
    lines = _folded("error", f"{found.what}  {found.code}")
    for name, label in LABELS:
        text = getattr(found, name)
        if text:
            lines += _folded(label, text)
    print("\n".join(lines), file=sys.stderr)


def unexpected(found: Exception) -> None:
    """An error nobody planned: named, without a traceback and without values."""
    lines = [
        *_folded("error", f"{type(found).__name__}: an error inside Polyclinic  UNEXPECTED"),
        *_folded("next", "run again with --debug and report what it shows"),
        *_folded("kept", "what earlier rounds wrote to the run folder"),
    ]
    print("\n".join(lines), file=sys.stderr)


def _folded(label: str, text: str) -> list[str]:
    lines = [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, 73, break_long_words=False, break_on_hyphens=False)
    ]
    return [f"{label if i == 0 else '':<7}{line}" for i, line in enumerate(lines)]


def ending(days: int | None) -> str | None:
    """How a certificate ends that has so many days left; None: not soon."""
    if days is None or days >= SOON:
        return None
    return f"ends in {days} days" if days >= 0 else "has ended"


def narrow(lines: Iterable[str]) -> list[str]:
    """Lines of at most 80 columns; what goes on stands further in. A word is never cut."""
    found: list[str] = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        parts = textwrap.wrap(
            line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        )
        found += parts if len(line) > WIDTH else [line]
    return found


def as_json(value: Any) -> None:
    """Print a value as JSON."""
    print(json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False))


def datasets(entries: Iterable[Any]) -> None:
    """One line per data set."""
    for entry in entries:
        here = "here" if entry.here else "to be fetched"
        size = f"{entry.sites:>3} sites{entry.rows:>6} rows"
        print(f"{entry.name:<15}{size}   {here:<15}{entry.licence}")


class View:
    """Shows a run while it goes on and when it is done; a moving line only on a terminal."""

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started = time.perf_counter()
        console = Console(stderr=True)
        live = console.is_terminal and not os.environ.get("NO_COLOR") and not quiet
        self.status = console.status("reading") if live else None
        self.last_said = self.started
        self.meter = progress.Meter()
        self.engine: Cluster | None = None
        self.doing = "reading"

    def say(self, text: str = "") -> None:
        """Print a line of the result."""
        if self.status:
            self.status.stop()
        if not self.quiet:
            print(text, flush=True)

    def title(self, study: Any, sites: Any, engine: str = "") -> None:
        self.say(f"Polyclinic {version('polyclinic')}   {study.study.title or study.study.name}")
        self.say(
            f"study  {study.study.name}, {study.short_hash}, engine {engine or study.engine.name}"
        )
        if sites is not None and sites.source:
            for line in _folded("data", sites.source):
                self.say(line)

    def on(self, engine: Any) -> None:
        """Where it is computed: what the workers of a cluster do is shown, too."""
        if isinstance(engine, Cluster):
            self.engine = engine
            engine.activity.watch = lambda _: self._moving(self.doing)
            if engine.dashboard:
                self.say(f"pages  {engine.dashboard}")

    def tell(self, event: str, value: Any) -> None:
        """Called by the study layer."""
        if event == "round":
            self._progress(value)
        elif event == "model":
            self._model(value)
            self._moving("check  cross-validation and measures")

    def _progress(self, done: Any) -> None:
        found, loss = self.meter.read(done), done.figures.get("loss")
        words_ = "" if loss is None else fit_figure(done.task, loss)
        text = progress.line(found, done.step, words_, WIDTH - len("fit    ") - SPINNER)
        self._moving(f"fit    {text}", progress.tenth(found))

    def _moving(self, text: str, due: bool = False) -> None:
        """A line that is rewritten on a terminal; elsewhere one every 30 seconds, or when due."""
        self.doing = text
        if self.engine is not None:
            text += f"\n       {progress.workers(self.engine.activity, WIDTH - len('fit    '))}"
        if self.status:
            self.status.start()
            self.status.update(text)
        elif not self.quiet and (due or time.perf_counter() - self.last_said > PLAIN_SECONDS):
            self.last_said = time.perf_counter()
            print(text, file=sys.stderr, flush=True)

    def _model(self, model: Any) -> None:
        last = next((r for r in reversed(model.rounds_) if "gain" in r.figures), None)
        gain = f"   last gain {last.figures['gain']:.0e}" if last else ""
        state = "converged" if model.result_.converged else "NOT converged"
        deviance = getattr(model.result_, "deviance", None)
        shown = "" if deviance is None else f"   deviance {deviance:.3f}"
        self.fit_line = f"fit    round {model.n_iter_}{shown}{gain}   {state}"

    def finished(self, done: Any) -> None:
        """Sites, coefficients, validation, what left, where the report is."""
        results = done.results
        self.say()
        self.say(words.site_table(results))
        for line in words.notes(results):
            self.say(line)
        self.say()
        for line in [*gate.lines(results), *noise.lines(results)]:
            self.say(line)
        self.say(self.fit_line)
        self.say(words.result_table(results))
        if "evaluation" in results:
            self.say()
            self.say(words.evaluation_table(results))
        if (rests := exchanged.importance(results)) is not None:
            self.say(words.fold(f"rests  {rests['say']}", indent="       "))
        self.say()
        self.say(words.left_line(results))
        self.say(f"report {_short(done.report)}   {time.perf_counter() - self.started:.1f} s")


def fit_figure(task: str, loss: float) -> str:
    """How far a fit is, in words; a regression's loss is half its deviance."""
    return f"deviance {2 * loss:.3f}" if task.startswith("glm.") else f"loss {loss:.5g}"


def _short(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)

"""The process of a hub's server or a hospital's client: `python -m ... FOLDER`.

It checks its folder, then becomes FLARE's own program. What it writes only its account can read.
FLARE's client gives up where the hub ends while it registers; this process begins anew, under the
same number and with the locks that it holds.
"""

from __future__ import annotations

import os
import runpy
import sys
import time
from contextlib import suppress
from pathlib import Path

from polyclinic.core.errors import PolyclinicError
from polyclinic.engines.flare import border, ending, kit
from polyclinic.engines.flare.pki import SERVER

PAUSES = (1.0, 2.0, 5.0, 10.0, 30.0)  # seconds before it begins anew, longer and longer
LIVED = 120.0  # seconds of life after which the pauses are short again


def main(folder: Path, attempt: int = 0) -> None:
    """Run until told to end; `attempt` counts how often it has begun before.

    Raises
    ------
    InputError : NO_KIT or KIT_CHANGED.
    """
    if attempt:
        time.sleep(PAUSES[min(attempt, len(PAUSES)) - 1])
        _bury()
    os.umask(0o077)
    folder = folder.absolute()
    kit.check_kit(folder)
    about = kit.read_kit(folder)
    server = about["kind"] == SERVER
    # By these FLARE would write elsewhere.
    for name in ("NVFL_LOG_ROOT", "NVFL_AUDIT_ROOT", "NVFL_RESULT_ROOT"):
        os.environ.pop(name, None)
    options = ["secure_train=true", "org=polyclinic", "config_folder=config"]
    if not server:
        options += [f"uid={about['site']}", f"heart_beat_interval={kit.HEARTBEAT}"]
    start = "fed_server.json" if server else "fed_client.json"
    kind = about["kind"]
    module = f"nvflare.private.fed.app.{kind}.{kind}_train"
    sys.argv = [module, "-m", str(folder), "-s", start, "--set", *options]
    border.close(folder / border.MEMBERS if server else None)
    ending.end_on_signals()
    if not server:
        _anew_at_its_end(folder, attempt + 1)
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _anew_at_its_end(folder: Path, attempt: int) -> None:
    """Become this program again where FLARE's ends by itself; the agent ends with its input."""
    from nvflare.fuel.f3.mpm import MainProcessMonitor

    words = [sys.executable, "-P", "-m", "polyclinic.engines.flare.process", str(folder)]
    born = time.monotonic()

    def begin() -> None:
        lived = time.monotonic() - born > LIVED
        os.execv(words[0], [*words, str(1 if lived else attempt)])

    MainProcessMonitor.add_cleanup_cb(begin)


def _bury() -> None:
    """Take leave of the agent of before."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
    except PolyclinicError as error:
        print(f"error  {error}", file=sys.stderr)
        sys.exit(error.exit_code)

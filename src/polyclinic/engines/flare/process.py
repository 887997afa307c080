"""The process of a hub's server or a hospital's client: `python -m ... FOLDER`.

It checks its folder, then becomes FLARE's own program. What it writes only its account can read.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

from polyclinic.core.errors import PolyclinicError
from polyclinic.engines.flare import ending, kit
from polyclinic.engines.flare.pki import SERVER


def main(folder: Path) -> None:
    """Run until told to end. Raises NO_KIT or KIT_CHANGED."""
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
    ending.end_on_signals()
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except PolyclinicError as error:
        print(f"error  {error}", file=sys.stderr)
        sys.exit(error.exit_code)

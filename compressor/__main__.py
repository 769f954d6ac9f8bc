"""Where the command starts: ``compress``, and ``python -m compressor``, whatever else on the machine has that name."""

from __future__ import annotations

import sys

from compressor.errors import GIVEN_UP


def main() -> None:
    """Run the command; giving up with Ctrl-C while it is still being loaded is said in one line too."""
    try:
        from compressor.cli import main as run
    except KeyboardInterrupt:
        sys.stderr.write(f"{GIVEN_UP}\n")
        raise SystemExit(130) from None
    run()


if __name__ == "__main__":
    main()

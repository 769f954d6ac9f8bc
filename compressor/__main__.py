"""``python -m compressor``: the same as ``compress``, whatever else on the machine has that name."""

from compressor.cli import main

main()

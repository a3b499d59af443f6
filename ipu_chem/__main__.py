"""``python -m ipu_chem`` is the same as ``ipu-chem``."""

import sys

from ipu_chem.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""Python imports this before anything else when its folder is on PYTHONPATH: a run with a mutation begins here."""

import importlib
import os
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from mistakes import mechanism

source, name = os.environ[mechanism.CHOSEN].split(":", 1)
importlib.import_module(source)
mechanism.install(mechanism.MUTATIONS[name])

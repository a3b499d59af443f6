"""The seam to PopTorch: mistakes in what the library asks of it, made for the library's calls alone.

They address PopTorch's public names, not our code: however the backend is written, it has to say these things.
"""

from functools import partial

from mistakes.mechanism import mutation

at_poptorch = partial(mutation, module="poptorch", calls_from="ipu_chem")
BACKEND = "tests/backends/poptorch/test_backend.py"
PIPELINES = "tests/backends/poptorch/test_backend_pipeline.py"

"""PopTorch's double, installed for a test that asks for it."""

from typing import Any, Iterator

import pytest
from poptorch_helpers import installed_double


@pytest.fixture
def poptorch() -> Iterator[Any]:
    with installed_double() as module:
        yield module

"""Exceptions, under the module name that PopTorch's compiled part has."""


class Error(Exception):
    """Anything that PopTorch's compiled part refuses."""

    type = "poptorch_py_error"
    location = ""

    @property
    def message(self) -> str:
        return str(self)

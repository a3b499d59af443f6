"""Exceptions, under the module name that PopTorch's compiled part has."""


class Error(Exception):
    """Anything that PopTorch's compiled part refuses."""

    type = "poptorch_py_error"
    location = ""

    @property
    def message(self) -> str:
        return str(self)


class RecoverableError(Error):
    """Goes away after the reset that ``recovery_action`` names."""

    recovery_action = ""


class UnrecoverableError(Error):
    """Does not go away."""

"""Exceptions, under the module name that PopTorch's compiled part has."""


class Error(Exception):
    """Anything that PopTorch's compiled part refuses."""


class RecoverableError(Error):
    """Goes away after the reset that ``recovery_action`` names."""

    recovery_action = ""


class UnrecoverableError(Error):
    """Does not go away."""

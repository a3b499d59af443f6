"""The base of all option classes: typed values that are frozen once a program or a loader uses them.

The rules are those of python/_options_impl.py (OptionsDict): a value keeps the type of its default, a name
that has no default is refused, private attributes exist from the constructor on or never.
"""

import copy
from typing import Any, Dict


class OptionsDict:
    """Values by name; unknown names, other types and frozen options refuse."""

    def __init__(self, **defaults: Any) -> None:
        vars(self).update(_is_frozen=False, _values=dict(defaults))

    def set(self, **values: Any) -> None:
        self.checkIsFrozen()
        for name, value in values.items():
            assert name in self._values, f"there is no option {name}, only {', '.join(self._values)}"
            kind = type(self._values[name])
            assert isinstance(value, kind), f"option {name} takes {kind.__name__}, got {type(value).__name__}"
            self._values[name] = value

    def createOrSet(self, **values: Any) -> None:
        self.checkIsFrozen()
        for name, value in values.items():
            if name in self._values:
                self.set(**{name: value})
            else:
                self._values[name] = value

    def exists(self, name: str) -> bool:
        return name in self._values

    def checkIsFrozen(self, name: str = "") -> None:
        if name != "_is_frozen" and vars(self)["_is_frozen"]:
            raise AttributeError("frozen options cannot be modified")

    def update(self, other: Dict[str, Any]) -> Dict[str, Any]:
        """Add these values to ``other``; no name may be in both."""
        both = set(self._values) & set(other)
        assert not both, f"options {sorted(both)} are set twice"
        other.update(self._values)
        return other

    def toDict(self) -> Dict[str, Any]:
        return self.update({})

    def _freeze(self) -> None:
        self._change_frozen(True)

    def _unfreeze(self) -> None:
        self._change_frozen(False)

    def _change_frozen(self, frozen: bool) -> None:
        vars(self)["_is_frozen"] = frozen
        for part in vars(self).values():
            if "_is_frozen" in getattr(part, "__dict__", {}):
                vars(part)["_is_frozen"] = frozen

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name}")
        try:
            return vars(self)["_values"][name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__} has no option {name}") from None

    def __setattr__(self, name: str, value: Any) -> None:
        self.checkIsFrozen(name)
        if not name.startswith("_"):
            self.set(**{name: value})
        elif name in vars(self):
            object.__setattr__(self, name, value)
        else:
            raise AttributeError(f"{type(self).__name__} has no private attribute {name}")

    def __deepcopy__(self, memory: Dict[int, Any]) -> "OptionsDict":
        copied = type(self).__new__(type(self))
        memory[id(self)] = copied
        vars(copied).update({name: copy.deepcopy(value, memory) for name, value in vars(self).items()})
        vars(copied)["_is_frozen"] = False
        return copied

    def __getstate__(self) -> Dict[str, Any]:
        return vars(self)

    def __setstate__(self, state: Dict[str, Any]) -> None:
        vars(self).update(state)

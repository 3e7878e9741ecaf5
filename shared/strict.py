"""Objects from outside: nothing unknown, nothing converted, and refused for many faults as cheaply as for one.

pydantic looks for everything that is wrong, at some microseconds each: a body of 200 KB has room for half a second of
faults, in which its node serves nobody. One is told, so one is looked for: lists and dicts say `fail_fast`, and models,
which have no such word, see one unknown name of many.
"""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


def with_one_surplus(given: Any, known: Collection[str]) -> Any:
    """An object without its unknown names but the first, where they must be many; whatever else was given, as it is.

    It is refused all the same, and in the same words: the first is the one that is told.
    """
    if not isinstance(given, dict) or len(given) <= len(known):
        return given
    first = next(name for name in given if name not in known)
    return {name: value for name, value in given.items() if name in known or name == first}


class StrictModel(BaseModel):
    """An object of known names: others are refused, and nothing is guessed from another type."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _one_surplus(cls, given: Any) -> Any:
        return with_one_surplus(given, cls.model_fields)

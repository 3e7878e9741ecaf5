"""The settings of a command: the environment's, with its options over them; what is wrong is a usage error by name."""

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from pydantic import ValidationError

    from shared.settings import Settings


def settings_with(**options: Any) -> "Settings":
    """The environment's settings with the command's options over them, all of them checked."""
    from shared.limits import LimitTable
    from shared.settings import Settings

    for name, value in options.items():
        if value is not None:
            os.environ[f"TAILRACE_{name.upper()}"] = str(value)
    with usage_errors():
        settings = Settings()
        # Read for their checks.
        settings.chosen_keys, settings.signing_keys, settings.allowed_origins  # noqa: B018
        settings.log_store, settings.control_store, settings.encryption_ring  # noqa: B018
        LimitTable(settings)
    return settings


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """Turn what the settings refuse into a usage error."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        raise typer.BadParameter(_sentence(error)) from None
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def _sentence(error: "ValidationError") -> str:
    """The first thing that is wrong, behind the name of its setting; what concerns several names them itself."""
    first = error.errors()[0]
    said = first["msg"].removeprefix("Value error, ")
    return f"TAILRACE_{str(first['loc'][0]).upper()}: {said}" if first["loc"] else said

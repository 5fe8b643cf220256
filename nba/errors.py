"""Errors that a user can act on: what was found, what was expected, and how to mend it."""


class NbaError(Exception):
    """A fault that the user can mend; the command line prints it without a traceback.

    Args:
        message: What was found and what was expected; several faults are one line each.
        hint: How to mend it, in one sentence.

    Example:
        >>> print(NbaError("limits.budget is -5; expected 0 or more", "Raise it in nba.toml."))
        limits.budget is -5; expected 0 or more
        Hint: Raise it in nba.toml.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\nHint: {self.hint}" if self.hint else self.message


class DataError(NbaError, ValueError):
    """A table, source file or array that breaks its contract; a ValueError to whoever knows no more."""


class SettingsError(NbaError):
    """A workspace configuration that cannot be used."""


class MissingError(NbaError):
    """Something that an earlier step makes and that is not there yet."""


def listed(faults: list[str], what: str, hint: str = "") -> DataError:
    """Gather all faults of one thing into one error.

    Example:
        >>> print(listed(["p_action: 2 values above 1"], "decisions breaks its contract"))
        decisions breaks its contract:
        - p_action: 2 values above 1
    """
    return DataError("\n".join([f"{what}:", *(f"- {fault}" for fault in faults)]), hint)

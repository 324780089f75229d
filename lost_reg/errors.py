"""The one error of lost-reg whose text is meant for the user."""


class LostRegError(Exception):
    """Something the user can fix: a path, a file, an option, weights, data.

    Its text is one line that says what is wrong and what to do about it. The library raises it;
    the command line prints it after ``Error:`` and exits with ``exit_code``.
    """

    exit_code = 1


class OtherSettings(LostRegError):
    """Results were made with other settings than those of now.

    rows: each setting that differs, with its old and its new value.
    """

    def __init__(self, text: str, rows: list[dict[str, str]]):
        super().__init__(text)
        self.rows = rows


class IncompleteRun(LostRegError):
    """A run that covers only a part of its images, such as one with `limit`: correct, but not comparable."""


def one_line(text: str) -> str:
    """A text made safe for a terminal: unprintable characters (newlines, control codes, bytes of file
    names that are not UTF-8) are escaped."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


class UnreadableImage(LostRegError):
    """One image file that cannot be opened or decoded. A run records it and continues."""

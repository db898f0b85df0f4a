"""The one exception for expected trouble, and the exit codes. Only `cli` turns it into text and exits."""

from enum import IntEnum

from devbox import redact


class ExitCode(IntEnum):
    DONE = 0
    FAILED = 1
    USAGE = 2  # the Devboxfile or the command line is wrong
    BUG = 3
    DIFFERENT = 10  # of `devbox plan`: there is something to do
    INTERRUPTED = 130


class DevboxError(Exception):
    """What happened, what to do next, and details for the curious.

    `id` is stable (`area.what`, for scripts and for docs/errors.md); `hint` is the next command to type, and
    is left out where there is nothing to do; `details` may be many lines (a log's tail). None of them holds a secret.
    """

    def __init__(
        self,
        id: str,
        message: str,
        *,
        hint: str = "",
        details: str = "",
        exit_code: ExitCode = ExitCode.FAILED,
    ) -> None:
        super().__init__(redact.text(message))
        self.id = id
        self.message = redact.text(message)
        self.hint = redact.text(hint)
        self.details = redact.text(details)
        self.exit_code = exit_code

"""Errors that a user can cause or mend. The command line prints their text alone and exits with status 2."""


class GromaError(Exception):
    """Base of every error this package raises on purpose: one clear sentence, no traceback needed."""


class InputError(GromaError, ValueError):
    """What was given (picture, boxes, question, option, file) cannot be used; the text says what to do."""


class CheckpointError(GromaError, ValueError):
    """A checkpoint folder is incomplete, damaged or of another kind; the text lists every offender."""


class MissingExtraError(GromaError, ImportError):
    """An optional dependency is not installed; the text names the extra that brings it."""

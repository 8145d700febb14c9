"""Errors that are the user's to mend: commands print their text, without a traceback, and exit with status 2."""


class SearchError(ValueError):
    """Something about the request, the data or the study folder; the message names the remedy."""


class Interrupted(Exception):
    """The search was asked to stop (Ctrl-C or SIGTERM); everything finished is on disk."""


class GroupLost(Exception):
    """The processes that trained a network together have parted; the trial goes on from its checkpoint."""

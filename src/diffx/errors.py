"""Errors that are meant for people: one sentence with the value that is wrong and what to type instead."""


class DiffxError(ValueError):
    """Bad input. The command line prints the message alone and exits with code 2; nothing has been written."""

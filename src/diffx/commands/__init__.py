"""The command lines: what each door of the house does."""

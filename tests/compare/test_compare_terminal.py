"""Tables in a terminal, however narrow: no number is broken over two lines."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from diffx.compare.shown.cell import Table

WIDE = Table(
    "Where the hours went",
    ("method", "total", "eval", "of train: data", "of train: encoder", "images per second"),
    (("plain", "2.45e-05", "1.79 [1.58 – 2.15]", "-", "3.86e-05", "137"), ("repa+tread", "108", "81.2", "0", "4", "9")),
    "medians",
)


def printed(table: Table, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


@pytest.mark.parametrize("width", [36, 40, 60, 80, 200])
def test_every_cell_is_whole_and_no_line_is_longer_than_the_terminal(width: int):
    said = printed(WIDE, width)
    assert all(cell_len(line) <= width for line in said.splitlines())
    for row in WIDE.rows:
        assert all(cell in said for cell in row)


def test_columns_that_do_not_fit_stand_below_with_the_methods_again():
    assert printed(WIDE, 200).count("repa+tread") == 1
    assert printed(WIDE, 40).count("repa+tread") > 1


def test_a_header_is_broken_between_words_before_columns_go_below():
    table = Table("t", ("method", "gain of the first part", "gain of the second part"), (("plain", "1", "2"),))
    said = printed(table, 40)
    assert said.count("plain") == 1
    assert "second" in said

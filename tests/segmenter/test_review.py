"""Reading a person's decisions."""

from __future__ import annotations

import pytest

from engine.segmenter.review import parse_review


def test_decisions_are_read_by_shard_and_key_whatever_else_the_table_holds() -> None:
    text = "\ufeffkey,quality,shard,decision\n000,0.5,a.tar,accept\n000,,b.tar,Reject \n"
    text += "'x,1,a.tar,unsure\n000,1,a.tar,reject\n"
    expected = {("a.tar", "000"): "reject", ("b.tar", "000"): "reject", ("a.tar", "'x"): "unsure"}
    for ends in ("\n", "\r\n", "\r"):  # spreadsheets differ
        assert parse_review(text.replace("\n", ends)) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column decision, key, shard"),
        ("shard,key\na,b\n", "no column decision"),
        ("shard,key,decision\na,b,accept\na,c,maybe\n", "line 3 decides 'maybe'; it must be accept, reject, unsure"),
        ("shard,key,decision\na,b\n", "line 2 decides ''"),
        ('shard,key,decision\na,"' + "x" * 200_000, "line 2 is no CSV: field larger"),
    ],
)
def test_another_table_is_refused_with_the_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_review(text)

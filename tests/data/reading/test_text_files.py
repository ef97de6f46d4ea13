"""Text files as they are on disk: what ends a line, what is a row, and what a damaged file says."""

import pytest

from speechllm.data.manifest import Tally
from speechllm.data.reading.text_files import read_lines, read_table
from speechllm.errors import UserError
from tests.corpora.covost2 import write_table


def rows_of(path, columns=("path", "sentence"), **options):
    tally = Tally()
    return [tuple(row.values()) for row in read_table(path, columns, tally, **options)], tally


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"a\nb", ["a", "b"]),
        (b"a\n\n", ["a", ""]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        ("a\u2028b\rc\x0bd\u0085e\x00f\n".encode(), ["a\u2028b\rc\x0bd\u0085e\x00f"]),
    ],
    ids=["empty", "no end", "empty last", "byte order mark", "odd characters"],
)
def test_line_feeds_alone_end_lines(tmp_path, content, lines):
    (tmp_path / "text").write_bytes(content)
    assert read_lines(tmp_path / "text") == lines


def test_a_last_line_that_nothing_ends_is_counted(tmp_path):
    tally = Tally()
    for content in (b"", b"a\n", b"\n", b"a\nb", b"a"):
        (tmp_path / "text").write_bytes(content)
        read_lines(tmp_path / "text", tally)
    assert read_lines(tmp_path / "text", tally, "one of many") == ["a"]
    assert tally.changed == {
        "no line feed ends text, which may be cut off": 2,
        "no line feed ends one of many, which may be cut off": 1,
    }


def test_lines_that_are_not_utf8_are_named(tmp_path):
    (tmp_path / "text").write_bytes(b"one\ntwo\n\xff\n")
    with pytest.raises(UserError, match=r"text' is not UTF-8 in line 3: .*Save it as UTF-8"):
        read_lines(tmp_path / "text")
    with pytest.raises(UserError, match=r"none' cannot be read"):
        read_lines(tmp_path / "none")


def test_one_physical_line_is_one_row_whatever_the_quotes(tmp_path):
    sentences = ['"open', 'a "b" c', '"', "N/A", "", "x\u2028y\rz\x00\u0085", '""both""']
    table = [(str(number), sentence) for number, sentence in enumerate(sentences)]
    write_table(tmp_path / "t.tsv", ("path", "sentence"), table)
    assert rows_of(tmp_path / "t.tsv") == (table, Tally())


def test_columns_are_read_by_name_and_odd_rows_counted(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes("\ufeffsentence\tup_votes\tpath\r\nEins\t2\ta\r\nzu kurz\r\n\r\nZwei\t0\tb\tzu viel\n".encode())
    tally = Tally()
    (row,) = read_table(path, ("path",), tally)
    assert row == {"path": "a", "sentence": "Eins", "up_votes": "2"}
    assert tally.rejected == {"1 fields for 3 columns": 1, "4 fields for 3 columns": 1}
    with pytest.raises(
        UserError, match=r"t\.tsv' has no column translation; its columns are: sentence, up_votes, path"
    ):
        rows_of(path, ("path", "translation"))


def test_a_set_that_must_be_whole_names_the_wrong_row(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_bytes(b"path\tsentence\na\tEins\n\nb\tZw\n")
    assert rows_of(path, whole=True) == ([("a", "Eins"), ("b", "Zw")], Tally())
    path.write_bytes(b"path\tsentence\na\tEins\n\nb")
    with pytest.raises(UserError, match=r"t\.tsv, line 4: 1 fields for 2 columns. A test set must be whole"):
        rows_of(path, whole=True)


@pytest.mark.parametrize("content", [b"path\tsentence", b"path\tsentence\na\tEi"])
def test_lists_that_may_be_cut_off_are_counted(tmp_path, content):
    (tmp_path / "t.tsv").write_bytes(content)
    _, tally = rows_of(tmp_path / "t.tsv", whole=True)
    assert tally.changed == {"no line feed ends t.tsv, which may be cut off": 1}


def test_quotes_are_unescaped_only_where_asked(tmp_path):
    path = tmp_path / "t.tsv"
    write_table(path, ("path", "sentence"), [("a", 'She said \\"no\\".'), ("b", 'one " alone, one \\ too')])
    assert [row[1] for row in rows_of(path)[0]] == ['She said \\"no\\".', 'one " alone, one \\ too']
    assert [row[1] for row in rows_of(path, escaped=True)[0]] == ['She said "no".', 'one " alone, one \\ too']


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no column path, sentence; it has no header"),
        (b"\x00\x00\x00", "has no column path, sentence; its columns are: \x00\x00\x00"),
        (b"path\tsentence\na\tb\nc\t\xe9\n", r"t\.tsv, line 3: not UTF-8"),
        ("path\tsentence\n".encode("utf-16"), r"t\.tsv, line 1: not UTF-8"),
    ],
    ids=["0 bytes", "NUL", "Latin-1", "UTF-16"],
)
def test_damaged_tables_are_named(tmp_path, content, message):
    (tmp_path / "t.tsv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        rows_of(tmp_path / "t.tsv")
    with pytest.raises(UserError, match=r"none\.tsv' cannot be read"):
        rows_of(tmp_path / "none.tsv")

import numpy as np
import pytest

from e4e_jax.runtime.tables import read_table

ODD = {
    "empty": (b"", "it has no scores; expected a header name,ATTRIBUTE"),
    "blank": (b"\n\r\n\n", "it has no scores"),
    "a header alone": (b"name,smile\n", "expected rows below the header"),
    "names alone": (b"name\na\n", "it has no scores; expected a header"),
    "semicolons": (b"name;smile\na;1\n", "it has no scores; expected a header"),
    "too few": (b"name,smile,age\na,1,2\nb,1\n", "line 3: expected a name and 2 numbers, found"),
    "too many": (b"name,smile\na,1,2\n", "line 2: expected a name and 1 numbers, found 'a,1,2'"),
    "words": (b"name,smile\na,high\n", "line 2: expected a name and 1 numbers"),
    "infinity": (b"name,smile\na,1e999\n", "line 2: expected a name and 1 numbers"),
    "no name": (b"name,smile\n,1\n", "the name in line 2 is ''; expected a name"),
    "one name twice": (b"name,smile\na,1\nb,2\na,3\n", "'a' is in line 2 and in line 4"),
    "one column twice": (b"name,smile,smile\na,1,2\n", "it has two columns 'smile'"),
    "a column without a name": (b"name,smile,\na,1,2\n", "column 3 is ''; expected a name"),
    "NUL": (b"name,smile\na\0,1\n", "the name in line 2 is 'a\\x00'; expected a name"),
    "NUL in a number": (b"name,smile\na,1\0\n", "line 2: expected a name and 1 numbers"),
    "Latin-1": ("name,smile\né,1\n".encode("latin-1"), "it is no text in UTF-8"),
    "UTF-16": ("name,smile\na,1\n".encode("utf-16"), "it is no text in UTF-8"),
    "a field of 200,000 characters": (b"name,smile\n" + b"a" * 200_000 + b",1\n", "field larger"),
    "a long name": (b"name,smile\n" + b"a" * 2000 + b",1\n", "expected a name"),
    "an open quote": (b'name,smile\n"a,1\n', "unexpected end of data"),
    "an odd quote": (b'name,smile\n"a"b,1\n', "expected after"),
    "binary": (bytes(range(256)) * 10, "UTF-8"),
}


@pytest.mark.parametrize("name", ODD)
def test_an_odd_table_is_told_in_one_sentence(tmp_path, name):
    data, reason = ODD[name]
    path = tmp_path / "s.csv"
    path.write_bytes(data)
    with pytest.raises(ValueError) as caught:
        read_table(path, "scores")
    message = str(caught.value)
    assert message.startswith(f"{path} is no readable .csv file of scores: ") and reason in message
    assert "\n" not in message and len(message) < 600


def test_what_tables_of_people_look_like(tmp_path):
    path = tmp_path / "s.csv"
    path.write_bytes('\ufeffname, smile ,age\r\n"a, b",1,\r\n\r\né,-2e0,nan\r\n'.encode())
    columns, rows = read_table(path, "scores")
    assert columns == ["smile", "age"] and list(rows) == ["a, b", "é"]
    np.testing.assert_array_equal(list(rows.values()), [[1, np.nan], [-2, np.nan]])


def test_there_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file of scores at"):
        read_table(tmp_path / "s.csv", "scores")
    with pytest.raises(ValueError, match="is a folder; expected a .csv file of scores"):
        read_table(tmp_path, "scores")

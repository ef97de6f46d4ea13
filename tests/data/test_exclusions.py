"""The list of utterances that training leaves out: what is written is read, and a wrong row is named."""

import pytest

from speechllm.data.exclusions import install_exclusions, listable, read_exclusions, write_exclusions
from speechllm.data.index import ManifestWriter
from speechllm.data.manifest import index_path, manifest_path
from speechllm.data.utterance import Utterance
from speechllm.errors import UserError

LIST = {("train", "a 1"): "silent; clipped", ("train", "ü\u2028"): "no text", ("train", "c\\n"): ""}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "exclude.tsv"


def test_what_is_written_is_read_in_order(path):
    write_exclusions(path, LIST)
    assert list(read_exclusions(path).items()) == list(LIST.items())
    assert path.read_text(encoding="utf-8").split("\n")[:2] == ["split\tid\treason", "train\ta 1\tsilent; clipped"]
    assert [file.name for file in path.parent.iterdir()] == ["exclude.tsv"]


def test_an_empty_list(path):
    write_exclusions(path, {})
    assert read_exclusions(path) == {}


def test_reasons_are_brought_to_one_field(path):
    write_exclusions(path, {("train", "a"): "two\nlines\tand a tab"})
    assert read_exclusions(path) == {("train", "a"): "two lines and a tab"}


def test_lists_can_be_joined_and_edited_anywhere(path):
    header = "split\tid\treason"
    path.write_bytes(f"\ufeff{header}\r\ntrain\ta\tfirst\r\n\r\n".encode())
    first = path.read_bytes()
    path.write_bytes(first + f"{header}\ntrain\ta\tsecond\ntrain\tb\tx".encode())
    assert read_exclusions(path) == {("train", "a"): "first", ("train", "b"): "x"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"line 1: .* split, id, reason.* not with ''"),
        (b"id\treason\na\tb\n", r"line 1: .*not with 'id\treason'"),
        (b"split\tid\treason\ntrain\ta\n", "line 2: a row needs a split, an id and a reason .* got 'train\ta'"),
        (b"split\tid\treason\ntrain\ta\tb\tc\n", "line 2: a row needs"),
        (b"split\tid\treason\n\ntrain\t\tb\n", "line 3: a row needs"),
        (b"split\tid\treason\ntrain\ta\tb\ntest\ta\tb\n", "line 3: the split is 'test'.* Only utterances of train"),
        (b"split\tid\treason\ntrian\ta\tb\n", "line 2: the split is 'trian'. Did you mean 'train'"),
        (b"split\tid\treason\ntrain\t\xff\tb\n", "not UTF-8 in line 2"),
    ],
)
def test_a_wrong_list_is_named_with_its_line(path, content, message):
    path.write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        read_exclusions(path)
    assert str(path) in str(error.value)


def test_a_list_that_is_not_there(path):
    with pytest.raises(UserError, match="cannot be read"):
        read_exclusions(path)


@pytest.mark.parametrize("name", ["", "a\tb", "a\nb", "a\rb", "\ud800"])
def test_ids_that_no_list_can_hold(path, name):
    assert not listable(name)
    with pytest.raises(UserError, match="cannot hold"):
        write_exclusions(path, {("train", name): "x"})


def test_only_train_loses_utterances(path):
    with pytest.raises(UserError, match="only train loses"):
        write_exclusions(path, {("test", "a"): "x"})
    assert not path.exists()


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match="Cannot write"):
        write_exclusions(tmp_path / "nowhere" / "exclude.tsv", {})


@pytest.fixture
def manifests(tmp_path):
    """Return a folder with a manifest of four utterances."""
    folder = tmp_path / "manifests"
    folder.mkdir()
    with manifest_path(folder, "train").open("wb") as file:
        writer = ManifestWriter(file, manifest_path(folder, "train"))
        for name in "abcd":
            writer.write(Utterance(name, "x.wav", 0.0, 1.0, "en", "text"))
        writer.finish().save(index_path(folder, "train"))
    return folder


def test_a_list_is_put_beside_its_manifests(manifests, path):
    write_exclusions(path, {("train", "b"): "silent", ("train", "d"): "silent"})
    assert install_exclusions(path, manifests) == "2 of 4 utterances of train will be left out."
    assert list(read_exclusions(manifests / "exclude.tsv")) == [("train", "b"), ("train", "d")]


def test_ids_that_the_manifest_does_not_have_are_counted(manifests, path):
    write_exclusions(path, {("train", "b"): "silent", ("train", "x"): "silent", ("train", "y"): "silent"})
    said = install_exclusions(path, manifests)
    assert said == "1 of 4 utterances of train will be left out. 2 more of the list are not there, such as 'x'."


def test_the_list_of_another_corpus_is_refused(manifests, path):
    write_exclusions(path, {("train", "x"): "silent"})
    with pytest.raises(UserError, match=r"None of the 1 ids .* the first is 'x'"):
        install_exclusions(path, manifests)
    assert not (manifests / "exclude.tsv").exists()


def test_an_empty_list_takes_back_an_earlier_one(manifests, path):
    write_exclusions(path, {("train", "b"): "silent"})
    install_exclusions(path, manifests)
    write_exclusions(path, {})
    assert install_exclusions(path, manifests) == "0 of 4 utterances of train will be left out."
    assert read_exclusions(manifests / "exclude.tsv") == {}

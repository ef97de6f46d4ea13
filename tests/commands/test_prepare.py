"""``speechllm prepare``."""

import pytest
import soundfile

from speechllm.cli import main
from speechllm.commands.prepare import corpora, prepare, run
from speechllm.data import MustCDataModule, TableDataModule
from speechllm.errors import UserError
from tests.corpora.covost2 import write_covost2
from tests.corpora.must_c import tone, write_must_c


def test_must_c_from_the_shell(tmp_path, capsys):
    root = write_must_c(tmp_path / "corpus", ("de", "fr"))
    main(["prepare", "must_c", "--root", str(root), "--out", str(tmp_path / "out"), "--targets", "[de, fr]"])
    table = capsys.readouterr().out
    assert "train                      4      0.00         1" in table
    assert "changed: cut at the end of the audio: 2" in table
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "corpus.json",
        *sorted(
            f"{split}.{end}" for split in ("dev", "train", "tst-COMMON", "tst-HE") for end in ("index.npz", "jsonl.gz")
        ),
    ]


def test_manifests_go_where_recipes_look(tmp_path, capsys):
    root = write_must_c(tmp_path)
    prepare("must_c", root, targets=["de"])
    capsys.readouterr()
    datamodule = MustCDataModule(str(root), targets=["de"])
    assert len(datamodule.train_rows().rows) == 4


def test_covost2(tmp_path, capsys):
    prepare("covost2", write_covost2(tmp_path), pairs=["en_de"])
    assert "rejected: translation is empty or REMOVE: 2" in capsys.readouterr().out


def test_table_goes_where_recipes_look(tmp_path, capsys):
    for number in range(2):
        soundfile.write(tmp_path / f"{number}.wav", tone(0.5), 16_000)
    (tmp_path / "my.csv").write_text("audio,transcript,translation\n0.wav,One,Eins\n1.wav,Two,Zwei\n2.wav,Three,Drei\n")
    options = ["--train", "my.csv", "--source", "en", "--target", "de"]
    main(["prepare", "table", "--root", str(tmp_path), *options])
    printed = capsys.readouterr().out
    assert "train                      2      0.00         1" in printed
    assert "rejected: audio is missing, empty or damaged: 1" in printed
    datamodule = TableDataModule(str(tmp_path), train="my.csv", source="en", target="de", tasks=["st"])
    assert f"Manifests: {datamodule.manifest_dir}" in printed
    assert len(datamodule.train_rows().rows) == 2


def test_wrong_calls(tmp_path):
    assert {"must_c", "covost2"} <= corpora().keys()
    with pytest.raises(UserError, match=r"Unknown corpus 'mustc'. Did you mean 'must_c'"):
        prepare("mustc", tmp_path)
    with pytest.raises(UserError, match=r"covost2 does not take --targets. .*It takes: --pairs"):
        prepare("covost2", tmp_path, targets=["de"])
    with pytest.raises(
        UserError, match=r"table does not take --pairs. It takes: --train, --dev, --test, --source, --target"
    ):
        prepare("table", tmp_path, pairs=["en_de"])
    with pytest.raises(UserError, match="No MuST-C partition en-de"):
        prepare("must_c", tmp_path)


def test_help_lists_corpora_and_their_options(capsys):
    main(["prepare", "--help"])
    listed = capsys.readouterr().out
    assert "  must_c " in listed
    assert "  librispeech " in listed
    with pytest.raises(SystemExit):
        main(["prepare", "must_c", "--help"])
    printed = capsys.readouterr().out
    for option in ("--root", "--out", "--check", "--exclude", "--targets", "--version"):
        assert option in printed
    for option in ("--batch_seconds", "--tasks", "--num_workers", "--max_duration_s"):
        assert option not in printed
    with pytest.raises(UserError, match="Name the corpus first"):
        run(["--root", "x"])

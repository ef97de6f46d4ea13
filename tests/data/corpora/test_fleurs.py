"""FLEURS as it is on disk, quirk by quirk."""

import shutil
import subprocess
import tarfile

import pytest

from speechllm.data.corpora.fleurs import CODES, Fleurs, FleursDataModule
from speechllm.data.manifest import Tally
from speechllm.errors import UserError
from speechllm.languages import language_code
from tests.corpora.fleurs import CLIPS, SENTENCES, write_fake, write_language, write_list


@pytest.fixture
def root(tmp_path):
    write_fake(tmp_path)
    return tmp_path


def corpus(root, sources=("en_us",), targets=("de_de",), **options):
    return Fleurs(root, list(sources), list(targets), **options)


def read(reader, split="train"):
    tally = Tally()
    return list(reader.read(split, tally)), tally


def change_rows(path, change):
    """Rewrite a list: ``change`` gets its rows, each a list of fields."""
    rows = [line.split("\t") for line in path.read_text(encoding="utf-8").removesuffix("\n").split("\n")]
    write_list(path, change(rows) or rows)


def test_sentences_are_joined_by_number(root):
    utterances, tally = read(corpus(root, targets=["de_de", "cmn_hans_cn"]))
    assert [found.id for found in utterances] == ["en_us-1-10004088536354799741", "en_us-2-100", "en_us-1-101"]
    assert [found.transcript for found in utterances] == ['He said "no.', "N/A, and\u2028so on.", 'He said "no.']
    assert [found.translations for found in utterances] == [
        {"de": SENTENCES["de_de"][sentence][0], "zh-CN": SENTENCES["cmn_hans_cn"][sentence][0]} for sentence in "121"
    ]
    assert [found.duration_s for found in utterances] == [0.4, 0.55, 0.3]
    assert {(found.source_language, found.corpus, found.speaker) for found in utterances} == {("en", "fleurs", "")}
    assert (tally.rejected, tally.changed) == ({}, {})


def test_every_pair_of_two_languages_is_read(root):
    utterances, _ = read(corpus(root, ["en_us", "de_de"], ["en_us", "de_de"]), "test")
    assert [(found.id, found.source_language, list(found.translations)) for found in utterances] == [
        ("en_us-4-300", "en", ["de"]),
        ("en_us-4-301", "en", ["de"]),
        ("de_de-4-300", "de", ["en"]),
        ("de_de-4-301", "de", ["en"]),
    ]


def test_transcript_may_be_normalised_and_translations_stay_raw(root):
    utterance = read(corpus(root, transcript="normalised"))[0][0]
    assert (utterance.transcript, utterance.translations) == ("he said no", {"de": 'Er sagte "nein.'})


@pytest.mark.parametrize(
    ("names", "languages"),
    [
        (["en_us", "cmn_hans_cn", "de_de"], ["en", "zh-CN", "de"]),
        (["en", "zh", "de"], ["en", "zh", "de"]),
        (["en-US", "zh-CN", "de-DE"], ["en-US", "zh-CN", "de-DE"]),
    ],
)
def test_languages_go_by_the_codes_of_the_field_too(root, names, languages):
    reader = corpus(root, names, names)
    assert reader.sources == dict(zip(["en_us", "cmn_hans_cn", "de_de"], languages, strict=True))
    assert [found.source_language for found in read(reader, "dev")[0]] == languages
    assert set(read(reader, "dev")[0][0].translations) == set(languages[1:])


def test_all_languages_are_known():
    assert len(CODES) == len({language_code(code) for code in CODES}) == 102
    assert Fleurs("nowhere", list(CODES), [language_code(code) for code in CODES]).sources["yue_hant_hk"] == "yue"


@pytest.mark.parametrize("place", ["", "data"])
@pytest.mark.parametrize("lists", ["", "metadata"])
@pytest.mark.parametrize("audio", ["audio", ""])
def test_copies_in_other_layouts_are_read(tmp_path, place, lists, audio):
    folder = write_language(tmp_path / place, "de_de")
    if not audio:
        shutil.copytree(folder / "audio", folder, dirs_exist_ok=True)
        shutil.rmtree(folder / "audio")
    if lists:
        (tmp_path / lists / "de_de").mkdir(parents=True)
        for path in folder.glob("*.tsv"):
            path.rename(tmp_path / lists / "de_de" / path.name)
    reader = corpus(tmp_path, ["de_de"], [])
    assert reader.splits() == ["train", "dev", "test"]
    assert len(reader.files()) == 3
    assert [found.id for found in read(reader, "test")[0]] == ["de_de-4-300", "de_de-4-301"]


def test_packed_clips_come_with_the_command_that_unpacks_them(root):
    audio = root / "en_us/audio"
    with tarfile.open(audio / "test.tar.gz", "w:gz") as archive:
        archive.add(audio / "test", arcname="test")
    shutil.rmtree(audio / "test")
    with pytest.raises(UserError, match=r"The clips of FLEURS are packed: '.*en_us/audio/test\.tar\.gz'") as error:
        read(corpus(root), "test")
    command = str(error.value).split("archives: ")[1]
    subprocess.run(command, shell=True, check=True)
    assert [found.duration_s for found in read(corpus(root), "test")[0]] == [0.45, 0.6]


def test_sentences_without_translation_are_counted_and_kept(root):
    change_rows(root / "de_de/train.tsv", lambda rows: rows[1:2])
    utterances, tally = read(corpus(root))
    assert [list(found.translations) for found in utterances] == [[], ["de"], []]
    assert tally.changed == {"the sentence is not in de, and has no translation": 2}
    assert not tally.rejected


def test_the_first_of_several_texts_is_taken(root):
    def change(rows):
        rows[2][2] = "Er sagte nein."

    change_rows(root / "de_de/train.tsv", change)
    utterances, tally = read(corpus(root))
    assert utterances[2].translations == {"de": 'Er sagte "nein.'}
    assert tally.changed == {"sentence of several texts in de_de, of which the first one is taken": 1}


def test_clips_that_are_listed_twice(root):
    for split in ("train", "test"):
        change_rows(root / f"en_us/{split}.tsv", lambda rows: [*rows, rows[0]])
    utterances, tally = read(corpus(root))
    assert len(utterances) == len(CLIPS["train"])
    assert tally.rejected == {"the same clip again": 1}
    utterances, tally = read(corpus(root), "test")
    assert [found.id for found in utterances] == ["en_us-4-300", "en_us-4-301", "en_us-4-300-2"]
    assert (tally.rejected, tally.changed) == ({}, {"the same clip again, numbered": 1})


def test_clips_that_cannot_be_read(root):
    for clip in ("train/100", "test/300"):
        (root / f"en_us/audio/{clip}.wav").write_bytes(b"")
    (root / "en_us/audio/train/101.wav").unlink()
    assert read(corpus(root))[1].rejected == {"clip is missing, empty or damaged": 2}
    utterances, tally = read(corpus(root), "test")
    assert [found.duration_s for found in utterances] == [1 / 16_000, 0.6]
    assert not tally.rejected


def test_line_ends_of_windows_are_read(root):
    path = root / "en_us/train.tsv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert read(corpus(root))[0][0].id == "en_us-1-10004088536354799741"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        (["5", "9.wav", "Cut o"], "3 fields instead of 7"),
        ([""], "1 fields instead of 7"),
        (["5", "9.wav", "a", "b", "c", "1", "MALE", "more"], "8 fields instead of 7"),
        (["id", "file_name", "raw", "text", "c h", "num_samples", "gender"], "the first field is not the number"),
        (["5", "", "a", "b", "c", "1", "MALE"], "no clip is named"),
        (["5", "9.wav", "a\0", "b", "c", "1", "MALE"], "a NUL character"),
    ],
)
def test_wrong_rows_are_counted_and_named_in_a_test_set(root, fields, reason):
    for split in ("train", "test"):
        change_rows(root / f"en_us/{split}.tsv", lambda rows: [rows[0], fields, *rows[1:]])
    utterances, tally = read(corpus(root))
    assert len(utterances) == len(CLIPS["train"])
    ((counted, count),) = tally.rejected.items()
    assert counted.startswith(f"row of en_us: {reason}")
    assert count == 1
    with pytest.raises(UserError, match=rf"en_us/test\.tsv, line 2: {reason}.* test set must be whole"):
        read(corpus(root), "test")


def test_lists_that_are_marked_cut_off_or_empty(root):
    path = root / "en_us/train.tsv"
    content = path.read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + content)
    utterances, tally = read(corpus(root))
    assert (len(utterances), tally) == (3, Tally())
    path.write_bytes(content[:-3])
    assert read(corpus(root))[1].changed == {"no line feed ends train.tsv, which may be cut off": 1}
    path.write_bytes(b"")
    with pytest.raises(UserError, match=r"en_us/train\.tsv' is empty"):
        read(corpus(root))


def test_list_that_is_not_utf8_is_named(root):
    (root / "en_us/train.tsv").write_bytes(b"\xff\xfe1\t")
    with pytest.raises(UserError, match=r"en_us/train\.tsv' is not UTF-8"):
        read(corpus(root))


def test_what_is_missing_is_named(root):
    with pytest.raises(UserError, match=r"No FLEURS in fr_fr in .*'fr_fr/<split>\.tsv'"):
        corpus(root, targets=["fr_fr"]).splits()
    (root / "de_de/train.tsv").unlink()
    assert corpus(root).splits() == ["dev", "test"]
    (root / "de_de/dev.tsv").unlink()
    (root / "en_us/test.tsv").unlink()
    with pytest.raises(UserError, match=r"No split of FLEURS .* in each of the languages en_us, de_de"):
        corpus(root).splits()
    shutil.rmtree(root / "en_us/audio")
    with pytest.raises(UserError, match=r"No clips of FLEURS in en_us, dev: looked for '.*en_us/audio/dev'"):
        list(corpus(root, targets=[]).read("dev", Tally()))


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ([], {}, "at least one language in `sources`"),
        (["en_uk"], {}, r"FLEURS `sources`: unknown language 'en_uk'\. Did you mean 'en'"),
        (["english"], {}, r"unknown language 'english'\. Did you mean 'en'"),
        (["en-GB"], {}, r"FLEURS has no language 'en-GB'\. It has 'en_us'\."),
        (["zh-TW"], {}, r"FLEURS has no language 'zh-TW'\. It has 'cmn_hans_cn'\."),
        (["br"], {}, r"FLEURS has no language 'br'\. Name its 102 languages as it does"),
        (["en_us", "en"], {}, r"FLEURS `sources` names en_us twice: en_us, en\."),
        (["en_us"], {"transcript": "normalized"}, r"'normalized' of FLEURS\. Did you mean 'normalised'\?"),
    ],
)
def test_wrong_options_are_refused(root, sources, options, message):
    with pytest.raises(UserError, match=message):
        corpus(root, sources, **options)


def test_translation_needs_targets(root):
    with pytest.raises(UserError, match=r"The tasks asr, st need languages to translate into: give `targets`"):
        FleursDataModule(str(root), tasks=["asr", "st"])


def test_selections_have_manifests_of_their_own(root):
    options = [{}, {"transcript": "normalised"}, {"sources": ["de"]}, {"targets": ["de"]}]
    assert len({FleursDataModule(str(root), **some).manifest_dir for some in options}) == 4

"""Datamodules under Lightning: preparation, options, ranks, the command line's way of building them, mixtures."""

import gc
import multiprocessing
import os
import signal
from itertools import chain
from types import SimpleNamespace

import pytest
import soundfile
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import LightningCLI

import speechllm.data
from speechllm.data import CoVoST2DataModule, MixtureDataModule, MustCDataModule, SpeechDataModule, TableDataModule
from speechllm.data.augmentation.augment import Augmentation
from speechllm.data.manifest import manifest_path
from speechllm.errors import UserError
from tests.corpora.covost2 import write_covost2
from tests.corpora.must_c import tone, write_must_c


class Recorder(LightningModule):
    """A model that only writes down the batches it is given."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.trained, self.validated, self.tested = [], [], []

    def training_step(self, batch, index):
        self.trained.append((self.current_epoch, batch.rows))
        return self.weight * batch.audio_lengths.sum()

    def validation_step(self, batch, index):
        self.validated += batch.rows

    def test_step(self, batch, index):
        self.tested += batch.rows

    def predict_step(self, batch, index):
        return batch.rows

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def must_c(tmp_path):
    return write_must_c(tmp_path / "must_c", ("de", "fr"))


@pytest.fixture
def trainer(tmp_path):
    return Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=tmp_path,
    )


def prepared(root, **options):
    datamodule = MustCDataModule(str(root), **({"num_workers": 0} | options))
    datamodule.prepare_data()
    return datamodule


def test_classes_come_by_name():
    assert issubclass(CoVoST2DataModule, SpeechDataModule)
    assert {"CoVoST2DataModule", "MixtureDataModule", "MustCDataModule"} <= set(speechllm.data.__all__)
    with pytest.raises(AttributeError, match="Did you mean 'MustCDataModule'"):
        _ = speechllm.data.MustcDataModule


def test_second_preparation_finds_the_first(must_c, caplog):
    datamodule = prepared(must_c)
    before = manifest_path(datamodule.manifest_dir, "train").stat().st_mtime_ns
    caplog.clear()
    datamodule.prepare_data()
    assert manifest_path(datamodule.manifest_dir, "train").stat().st_mtime_ns == before
    assert not caplog.records

    text = must_c / "en-de/data/train/txt/train.de"
    text.write_text(text.read_text(encoding="utf-8").replace("Danke", "Vielen Dank"), encoding="utf-8")
    datamodule.prepare_data()
    assert "writing the manifests" in caplog.text
    assert datamodule.train_rows().rows[0].utterance.translations["de"].startswith("Vielen Dank")


def test_selections_do_not_share_manifests(must_c):
    folders = {
        prepared(must_c, **options).manifest_dir
        for options in ({}, {"targets": ["de", "fr"]}, {"clean_transcripts": []}, {"version": "v2"})
    }
    assert len(folders) == 4
    assert all(folder.parent == must_c / "manifests" for folder in folders)


def test_manifests_may_stand_elsewhere(must_c, tmp_path):
    datamodule = prepared(must_c, manifest_dir=str(tmp_path / "elsewhere"))
    assert manifest_path(tmp_path / "elsewhere", "train").is_file()
    assert not (must_c / "manifests").exists()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="manifest_dir"):
        prepared(must_c, manifest_dir=str(tmp_path / "file" / "x"))
    assert len(datamodule.train_rows().rows) == 4


def test_absent_corpus_and_absent_manifests(tmp_path):
    datamodule = MustCDataModule(str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"No MuST-C partition en-de in .*nowhere"):
        datamodule.prepare_data()
    with pytest.raises(UserError, match="No manifest of the split 'train'"):
        datamodule.setup("fit")


def test_a_name_that_no_file_can_have_counts_as_silence(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(0.5), 16_000)
    rows = ["audio,transcript,translation_de", "a.wav,Yes.,Ja.", f"{'long' * 200}.wav,No.,Nein."]
    (tmp_path / "test.csv").write_text("".join(f"{row}\n" for row in rows))
    data = TableDataModule(str(tmp_path), source="en", num_workers=0)
    data.prepare_data()
    (batch,) = data.test_dataloader()
    assert sorted(batch.audio_lengths.tolist()) == [0, 8_000]


def test_training_limits_are_counted_and_spare_the_test_set(must_c):
    datamodule = prepared(must_c, min_duration_s=0.6, max_duration_s=0.65)
    with pytest.raises(UserError, match=r"left out, shorter than 0.6 s: 3; left out, longer than 0.65 s: 1"):
        datamodule.train_rows()
    datamodule.max_duration_s = 30.0
    assert datamodule.train_rows().rows.durations_s.tolist() == [0.7]
    assert len(datamodule.eval_rows("test")) == 5


def test_validation_takes_a_fixed_evenly_spaced_subset(must_c):
    rows = prepared(must_c, targets=["de", "fr"], max_val_utterances=2).eval_rows("dev")
    assert [row.utterance.id for row in rows] == ["en-de_ted_1_000000", "en-fr_ted_1_000000"]
    assert len(prepared(must_c, targets=["de", "fr"], max_val_utterances=None).eval_rows("dev")) == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": ["ast"]}, "Unknown task 'ast'. Did you mean 'st'"),
        ({"tasks": []}, "must not be empty"),
        ({"batch_seconds": 0.0}, "`batch_seconds` must be above 0"),
        ({"max_utterances": 0}, "`max_utterances` must be at least 1"),
        ({"num_workers": -1}, "`num_workers` must be at least 0"),
        ({"test_noise_snr": 90.0}, "`test_noise_snr` must be from -30 to 60 dB"),
        ({"max_val_utterances": 0}, "`max_val_utterances` must be at least 1"),
        ({"min_duration_s": 5.0, "max_duration_s": 2.0}, "`min_duration_s`"),
    ],
)
def test_options_that_cannot_work(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        MustCDataModule(str(tmp_path), **options)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_trainer_fits_validates_tests_and_predicts(must_c, trainer, num_workers):
    datamodule = MustCDataModule(
        str(must_c), targets=["de", "fr"], tasks=["asr", "st"], max_utterances=2, num_workers=num_workers
    )
    model = Recorder()
    trainer.fit(model, datamodule=datamodule)
    epochs = [[rows for epoch, rows in model.trained if epoch == number] for number in (0, 1)]
    assert [sorted(chain(*batches)) for batches in epochs] == [list(range(11))] * 2
    assert epochs[0] != epochs[1]
    assert sorted(set(model.validated)) == list(range(6))

    trainer.test(model, datamodule=datamodule)
    assert sorted(model.tested) == list(range(15))
    predicted = trainer.predict(model, datamodule=datamodule)
    assert sorted(chain(*predicted)) == list(range(15))


def test_workers_outlive_a_sigterm_to_the_whole_job(must_c):
    """So that the step under way can be finished, and the checkpoint written; they end with the process they serve."""
    loader = prepared(must_c, num_workers=1, max_utterances=1).train_dataloader()
    batches = iter(loader)
    first = next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGTERM)
    rest = list(batches)
    assert len(first) == 1
    assert len(rest) == len(list(loader.sampler)) - 1 > 2
    assert worker.is_alive()
    del batches, loader
    gc.collect()
    worker.join(timeout=10)
    assert not worker.is_alive()


def attach(datamodule, rank, world_size, use_distributed_sampler=False):
    datamodule.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        limit_val_batches=1.0,
        fit_loop=SimpleNamespace(
            epoch_loop=SimpleNamespace(batch_progress=SimpleNamespace(total=SimpleNamespace(processed=0)))
        ),
        _accelerator_connector=SimpleNamespace(use_distributed_sampler=use_distributed_sampler),
    )
    return datamodule


def test_processes_that_share_layers_out_see_the_same_rows(must_c):
    seen = []
    for rank in range(4):
        datamodule = attach(prepared(must_c, max_utterances=2), rank, 4)
        dealt = {"num_replicas": 2, "rank": rank // 2}
        datamodule.trainer.strategy = SimpleNamespace(distributed_sampler_kwargs=dealt)
        loaders = (datamodule.train_dataloader(), datamodule.test_dataloader())
        seen.append([batch.rows for loader in loaders for batch in loader])
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_ranks_share_training_and_test_rows_out(must_c):
    trained, tested = [], []
    for rank in range(2):
        datamodule = attach(prepared(must_c, targets=["de", "fr"], max_utterances=2), rank, 2)
        trained.append([batch.rows for batch in datamodule.train_dataloader()])
        tested.append([batch.rows for batch in datamodule.test_dataloader()])
    assert len(trained[0]) == len(trained[1])
    assert sorted(chain(*trained[0], *trained[1])) == list(range(8))
    assert sorted(chain(*tested[0], *tested[1])) == list(range(10))


def test_rows_that_are_decoded_are_left_out_of_tests_alone(must_c):
    datamodule = prepared(must_c)
    datamodule.decoded = {0, 3}
    for dataloader in (datamodule.test_dataloader, datamodule.predict_dataloader):
        assert sorted(row for batch in dataloader() for row in batch.rows) == [1, 2, 4]
    assert 0 in [row for batch in datamodule.val_dataloader() for row in batch.rows]
    datamodule.decoded = range(5)
    (batch,) = datamodule.test_dataloader()
    assert (len(batch), batch.audio.shape) == (0, (0, 0))
    datamodule.setup("test")
    assert sum(len(batch) for batch in datamodule.test_dataloader()) == 5, "another test knows nothing of it"


def test_fingerprint_of_what_is_tested_on(must_c):
    mark = prepared(must_c).test_fingerprint()
    assert prepared(must_c, max_utterances=1, seed=7).test_fingerprint() == mark
    for options in ({"tasks": ["asr", "st"]}, {"targets": ["fr"]}, {"test_noise_snr": 5.0}):
        assert prepared(must_c, **options).test_fingerprint() != mark


def test_kinds_of_utterances(must_c, tmp_path):
    datamodule = mixture(must_c, tmp_path)
    datamodule.prepare_data()
    assert ("must_c.tst-COMMON", "st", "en", "de") in datamodule.eval_kinds("test")
    assert {(task, target) for _, task, _, target in datamodule.eval_kinds("dev")} >= {("asr", "en"), ("st", "de")}


def test_trainer_that_would_replace_the_sampler(must_c):
    datamodule = attach(prepared(must_c), 0, 2, use_distributed_sampler=True)
    for dataloader in (datamodule.train_dataloader, datamodule.test_dataloader):
        with pytest.raises(UserError, match="use_distributed_sampler: false"):
            dataloader()
    assert attach(datamodule, 0, 1, use_distributed_sampler=True).test_dataloader()


def mixture(must_c, tmp_path, **options):
    covost2 = write_covost2(tmp_path / "covost2")
    parts = [
        MustCDataModule(str(must_c), tasks=["asr", "st"], num_workers=0, batch_seconds=0.1),
        CoVoST2DataModule(str(covost2), num_workers=0),
    ]
    return MixtureDataModule(parts, num_workers=0, **options)


def test_mixture_has_all_rows_of_its_parts(must_c, tmp_path, trainer):
    datamodule = mixture(must_c, tmp_path)
    datamodule.prepare_data()
    datamodule.setup("fit")
    batches = list(datamodule.train_dataloader())
    assert sorted(name for batch in batches for name in batch.corpora) == ["covost2"] * 3 + ["must_c"] * 7
    assert max(len(batch) for batch in batches) > 1  # the mixture's own batch_seconds, not the part's

    found = {}
    for batch in datamodule.test_dataloader():
        found |= dict(zip(batch.rows, batch.corpora, strict=True))
    assert [found[row] for row in range(13)] == ["must_c.tst-COMMON"] * 10 + ["covost2"] * 3
    model = Recorder()
    trainer.fit(model, datamodule=datamodule)
    assert sorted(chain(*(rows for epoch, rows in model.trained if epoch == 1))) == list(range(10))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": [1.0, 2.0]}, "a number above 0 for each of the 1 parts"),
        ({"weights": [0.0]}, "a number above 0"),
        ({"temperature": 0.0}, "`temperature` must be above 0"),
        ({"weights": [1.0], "temperature": 2.0}, "`weights` or `temperature`"),
    ],
)
def test_mixtures_that_cannot_be(tmp_path, options, message):
    with pytest.raises(UserError, match="at least one datamodule"):
        MixtureDataModule([])
    with pytest.raises(UserError, match=message):
        MixtureDataModule([MustCDataModule(str(tmp_path))], **options)


@pytest.mark.parametrize(
    ("options", "rows"),
    [({"weights": [1.0, 4.0]}, (2, 8)), ({"temperature": 1.0}, (7, 3)), ({"temperature": 1e9}, (5, 5)), ({}, (7, 3))],
)
def test_parts_of_a_mixture_are_weighed(must_c, tmp_path, options, rows):
    datamodule = mixture(must_c, tmp_path, **options)
    datamodule.prepare_data()
    corpora = [name for batch in datamodule.train_dataloader() for name in batch.corpora]
    assert (corpora.count("must_c"), corpora.count("covost2")) == rows


def test_a_mixture_scores_what_it_is_not_trained_on(must_c, tmp_path):
    covost2 = CoVoST2DataModule(str(write_covost2(tmp_path / "covost2")), num_workers=0)
    datamodule = MixtureDataModule([prepared(must_c)], test_parts=[covost2], num_workers=0)
    datamodule.prepare_data()
    assert {name for batch in datamodule.train_dataloader() for name in batch.corpora} == {"must_c"}
    assert {name for batch in datamodule.val_dataloader() for name in batch.corpora} == {"must_c"}
    tested = [name for batch in datamodule.test_dataloader() for name in batch.corpora]
    assert (tested.count("must_c.tst-COMMON"), tested.count("covost2")) == (5, 3)


def audio_of(loader):
    """Return each row's audio by id and task."""
    return {
        (batch.ids[place], batch.tasks[place], batch.target_languages[place]): batch.audio[place, :length]
        for batch in loader
        for place, length in enumerate(batch.audio_lengths.tolist())
    }


def test_augmentation_depends_on_seed_epoch_and_utterance_alone(must_c):
    augment = Augmentation(speeds=(0.9, 1.1), noise="white", noise_probability=1.0, gain_db=(-6.0, -3.0))
    plain = audio_of(prepared(must_c).train_dataloader())
    data = prepared(must_c, augment=augment)
    first = audio_of(data.train_dataloader())
    other = audio_of(prepared(must_c, augment=augment, num_workers=2, max_utterances=2).train_dataloader())
    assert first.keys() == plain.keys() == other.keys()
    assert any(len(first[key]) != len(plain[key]) for key in plain)
    same = [key for key in first if len(first[key]) == len(other[key])]
    assert same
    for key in same:
        # A worker has one thread, and sums in another order than several.
        torch.testing.assert_close(first[key], other[key], rtol=0, atol=1e-5)
    loader = data.train_dataloader()
    loader.sampler.begin_epoch(1)
    later = audio_of(loader)
    assert all(len(first[key]) != len(later[key]) or not torch.equal(first[key], later[key]) for key in first)
    assert audio_of(data.val_dataloader()).keys()
    for key, audio in audio_of(data.test_dataloader()).items():
        assert torch.equal(audio, audio_of(prepared(must_c).test_dataloader())[key]), "test audio stays as it is"


def test_test_audio_in_noise(must_c):
    clean = audio_of(prepared(must_c).test_dataloader())
    noisy = audio_of(prepared(must_c, test_noise_snr=5.0).test_dataloader())
    again = audio_of(prepared(must_c, test_noise_snr=5.0, seed=7, num_workers=2).test_dataloader())
    assert prepared(must_c, test_noise_snr=5.0).test_name == "test_white_5dB"
    assert (
        prepared(must_c, test_noise_snr=-2.5, test_noise="babble:data/musan").test_name
        == "test_babble_data_musan_-2.5dB"
    )
    assert prepared(must_c).test_name == "test"
    (batch,) = prepared(must_c, test_noise_snr=5.0).test_dataloader()
    assert set(batch.corpora) == {"must_c.tst-COMMON+white_5dB"}
    with pytest.raises(UserError, match="test_noise: nowhere"):
        prepared(must_c, test_noise_snr=5.0, test_noise="nowhere").setup("test")
    with pytest.raises(UserError, match=r"augment\.noise: nowhere"):
        prepared(must_c, augment=Augmentation(noise="nowhere")).setup("fit")
    for key, audio in noisy.items():
        torch.testing.assert_close(audio, again[key], rtol=0, atol=1e-5)  # every system hears the same
        if len(audio):
            speech = clean[key] * (audio @ clean[key] / clean[key].square().sum())  # scaled where it would clip
            noise = audio - speech
            assert 10 * torch.log10(speech.square().mean() / noise.square().mean()) == pytest.approx(5.0, abs=0.2)


@pytest.mark.parametrize("world_size", [1, 2])
def test_tasks_and_targets_of_an_utterance_come_together(must_c, world_size):
    for rank in range(world_size):
        options = {"targets": ["de", "fr"], "tasks": ["asr", "st"], "draw_together": True, "max_utterances": 6}
        data = attach(prepared(must_c, **options), rank, world_size)
        seen = set()
        for batch in data.train_dataloader():
            assert not seen & set(batch.ids)
            seen |= set(batch.ids)
            for place, first in enumerate(batch.audio_of):
                assert batch.ids[first] == batch.ids[place]
            assert len(set(batch.audio_of)) == len(set(batch.ids))
        assert seen


def cli(args):
    return LightningCLI(
        Recorder, SpeechDataModule, subclass_mode_data=True, subclass_mode_model=False, run=False, args=args
    ).datamodule


def test_recipes_name_datamodules_by_their_bare_names(must_c, tmp_path):
    config = tmp_path / "recipe.yaml"
    config.write_text(
        "data:\n  class_path: MixtureDataModule\n  init_args:\n    seed: 7\n    parts:\n"
        "      - class_path: MustCDataModule\n"
        f"        init_args: {{root: {must_c}, targets: [de, fr], max_duration_s: 20}}\n"
        f"      - class_path: CoVoST2DataModule\n        init_args: {{root: {tmp_path}, pairs: [en_de]}}\n"
    )
    flags = ["--data.augment", "{speeds: [0.9, 1.0], noise: white}", "--data.test_noise_snr", "5"]
    datamodule = cli(["--config", str(config), "--data.init_args.batch_seconds", "80", *flags])
    assert datamodule.augment == Augmentation(speeds=(0.9, 1.0), noise="white")
    assert datamodule.test_noise_snr == 5.0
    assert isinstance(datamodule, MixtureDataModule)
    assert (datamodule.seed, datamodule.batch_seconds) == (7, 80.0)
    assert [type(part).__name__ for part in datamodule.parts] == ["MustCDataModule", "CoVoST2DataModule"]
    assert datamodule.parts[0].max_duration_s == 20


def test_help_shows_the_options_of_a_datamodule(capsys):
    with pytest.raises(SystemExit):
        cli(["--data.help", "MustCDataModule"])
    text = capsys.readouterr().out
    for option in ("root", "targets", "manifest_dir", "batch_seconds", "max_val_utterances", "eval_batch_seconds"):
        assert f"--data.init_args.{option}" in text or f"--data.{option}" in text or f"{option} " in text
    assert "Largest size of a training batch in seconds" in text
    assert "default_manifest_dir" not in text

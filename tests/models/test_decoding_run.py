"""Which passes over a test split are continued."""

from types import SimpleNamespace

import pytest

from speechllm.models.decoding_run import begin_run


@pytest.mark.parametrize("limit", [1, 5, 0.5])
def test_a_few_batches_are_not_continued(tmp_path, limit):
    """A limit of 1 is one batch, and one of 1.0 all of them."""
    data = SimpleNamespace(test_fingerprint=lambda: "rows", decoded=frozenset({3}))
    trainer = SimpleNamespace(
        datamodule=data,
        predicting=False,
        limit_test_batches=limit,
        ckpt_path=str(tmp_path / "a.ckpt"),
        fast_dev_run=False,
    )
    run = begin_run("test", trainer, SimpleNamespace(), tmp_path, {})
    assert (run.taken_over, data.decoded) == (0, ())
    assert list(tmp_path.iterdir()) == []

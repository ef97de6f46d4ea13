"""What the start of a training run says of the LLM's attention, and that packed training gives the same weights."""

import pytest
import torch

from tests.models.conftest import SPECS


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "LLM attention: sdpa; sequences padded (packing needs a GPU)"),
        ({"packing": True}, "LLM attention: sdpa; sequences packed (one sequence at a time: packing needs a GPU)"),
    ],
)
def test_fit_says_what_computes_attention(options, message, build, trainer, eight, as_loader, monkeypatch):
    said = []
    monkeypatch.setattr("speechllm.models.speech_llm.rank_zero_info", said.append)
    trainer(max_steps=1).fit(build(decoder={**SPECS["decoder"], **options}), as_loader([eight]))
    assert [line for line in said if line.startswith("LLM attention")] == [message]


def test_options_of_speed_give_the_same_weights(build, trainer, eight, as_loader):
    """Three steps, packed and with layers computed again, end where padded ones do."""
    results, batches = [], [eight.select(rows) for rows in ([0, 1, 2], [3, 4, 5], [6, 7])]
    for options in ({}, {"packing": True}, {"packing": True, "checkpoint_layers": "all"}):
        model = build(decoder={**SPECS["decoder"], **options})
        trainer(max_steps=3).fit(model, as_loader(batches))
        results.append(torch.cat([p.detach().flatten() for p in model.parameters() if p.requires_grad]))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=1e-3, atol=1e-4)  # of steps of 1e-2

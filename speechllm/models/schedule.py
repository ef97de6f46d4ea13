"""Learning-rate schedules."""

import math


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the factor on the peak learning rate: linear warm-up from 0, then a cosine to 0 (spec §15.1).

    Args:
        step: Optimiser step, from 0.
        warmup_steps: Steps of the warm-up.
        total_steps: Step at which the rate reaches 0; it stays there.

    Returns:
        0–1.
    """
    if step < warmup_steps:
        return step / warmup_steps
    progress = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    return 0.5 * (1 + math.cos(math.pi * progress))


def warmup_inverse_sqrt(step: int, warmup_steps: int) -> float:
    """Return the factor on the peak learning rate: linear warm-up from 0, then 1 / sqrt(step) (spec §15.2; Noam).

    Args:
        step: Optimiser step, from 0.
        warmup_steps: Steps of the warm-up, at least 1.

    Returns:
        0–1; 1 at the end of the warm-up.
    """
    return min(step / warmup_steps, math.sqrt(warmup_steps / max(step, 1)))

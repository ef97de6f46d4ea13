"""Rows that need no files: for tests of what comes after manifests."""

import numpy as np

from speechllm.data.rows import Row


class ListedRows:
    """Rows of utterances in memory, one a task.

    Args:
        utterances: The utterances.
        task: Their task.
        target: Their target language.
    """

    def __init__(self, utterances, task="st", target="de"):
        self.listed, self.task, self.target = list(utterances), task, target
        self.durations_s = np.array([utterance.duration_s for utterance in self.listed])
        self.utterances = np.arange(len(self.listed))

    def __len__(self):
        return len(self.listed)

    def __getitem__(self, number):
        utterance = self.listed[number]
        return Row(utterance, self.task, self.target, utterance.corpus)


def random_durations_s(count, seed=0, longest_s=12.0):
    return np.random.default_rng(seed).uniform(0.5, longest_s, count)

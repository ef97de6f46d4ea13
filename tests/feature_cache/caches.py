"""Caches of tiny encoders and clips of noise that the tests share."""

import numpy as np
import soundfile
import torch

from speechllm.encoders.cached import describe_encoder, plain_spec
from speechllm.feature_cache.audio_keys import file_key
from speechllm.feature_cache.filling import CacheFiller, Counts
from speechllm.feature_cache.folder import create_folder
from speechllm.feature_cache.store import FeatureStore
from speechllm.registry import ENCODERS
from tests.tiny import make_batch, noise

LENGTHS = (8_000, 16_000, 4_000, 12_000, 9_000)


def spec_of(name="whisper", folder=None, **options):
    """Return the spec of a registered encoder at its tiny size, with a cache where a folder is given."""
    spec = {"name": name, **ENCODERS.get(name).tiny, **options}
    return spec if folder is None else spec | {"cache": str(folder)}


def build_plain(spec, seed=0):
    """Build an encoder without its cache, the same whenever it is called."""
    torch.manual_seed(seed)
    return ENCODERS.build(plain_spec(spec)).eval()


def build_cached(spec, seed=0):
    """Build an encoder with its cache, with the weights of :func:`build_plain`."""
    torch.manual_seed(seed)
    return ENCODERS.build(spec).eval()


def write_cache(folder, spec, clips=None, batch_size=2, storage="bf16", paths=None, seed=0):
    """Fill a cache with clips, as one process; return the frames of each clip as they were computed, and counts."""
    clips = noise(*LENGTHS) if clips is None else clips
    encoder = build_plain(spec, seed)
    settings = create_folder(folder, describe_encoder(spec, encoder, storage))
    computed = []

    def encode(audio, lengths):
        with torch.no_grad():
            frames = encoder(audio, lengths)
        computed.extend(frames.select([row]) for row in range(len(lengths)))
        return frames

    filler = CacheFiller(folder, settings, encode, FeatureStore(folder))
    numbers = [range(first, min(first + batch_size, len(clips))) for first in range(0, len(clips), batch_size)]
    batches = (make_batch(clips, rows) for rows in numbers)

    def keys(batch):
        return [None if paths is None else key_of(paths[row]) for row in batch.rows]

    counts = Counts()
    for some in filler.fill(batches, keys):
        counts += some
    return computed, counts


def key_of(path):
    """Return the key of a whole file, as datasets ask for it."""
    return file_key(str(path), 0.0, soundfile.info(path).duration, None)


def write_clips(folder, lengths=LENGTHS):
    """Write clips of noise as float wav files; return their paths and samples."""
    folder.mkdir(exist_ok=True)
    paths, clips = [], noise(*lengths)
    for number, clip in enumerate(clips):
        paths.append(folder / f"{number}.wav")
        soundfile.write(paths[-1], np.asarray(clip), 16_000, subtype="FLOAT")
    return paths, clips

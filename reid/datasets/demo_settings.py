"""Settings of a demo dataset. Separate from the code that draws it, so that a command line can be parsed without numpy."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from reid.errors import ConfigError


@dataclass(frozen=True)
class DemoSettings:
    """The settings that determine a demo dataset's content.

    Args:
        train_ids, test_ids: identities, each seen by 2 to 6 cameras; at most 9999 together.
        tracklets_per_id: mean over identities, 2..999.
        min_frames, max_frames: range of the tracklet lengths, within 2..999, drawn uniformly.
        distractors, junk: tracklets of pid 0 and of pid -1 in the test set.
        intruders: expected share of frames that show another person or background, in [0, 0.15].
        label_noise: share of training tracklets labelled as another training identity, in [0, 1].
        noise_seed: seed of the wrong labels only.
        seed: of everything else.
    Raises:
        ConfigError: a setting is out of its range.
    """

    train_ids: int = 125
    test_ids: int = 50
    tracklets_per_id: int = 12
    min_frames: int = 4
    max_frames: int = 10
    distractors: int = 80
    junk: int = 30
    intruders: float = 0.08
    label_noise: float = 0.3
    noise_seed: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        checks = {
            "train_ids and test_ids must be at least 2 and 9999 at most together": (
                min(self.train_ids, self.test_ids) >= 2 and self.train_ids + self.test_ids <= 9999
            ),
            "tracklets_per_id must lie in 2..999": 2 <= self.tracklets_per_id <= 999,
            "min_frames and max_frames must satisfy 2 <= min <= max <= 999": 2
            <= self.min_frames
            <= self.max_frames
            <= 999,
            "distractors and junk must lie in 0..9999": 0 <= self.distractors <= 9999 and 0 <= self.junk <= 9999,
            "intruders must lie in [0, 0.15]": 0 <= self.intruders <= 0.15,
            "label_noise must lie in [0, 1]": 0 <= self.label_noise <= 1,
            "seed and noise_seed must not be negative": min(self.seed, self.noise_seed) >= 0,
        }
        if failed := [rule for rule, holds in checks.items() if not holds]:
            raise ConfigError(*(f"demo dataset: {rule}, got {dataclasses.asdict(self)}." for rule in failed))

"""Noise on tracklets, frames and persons. The oracle is the file name: every frame's says whose it is and where it was taken."""

import csv
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import pytest

from reid.datasets.changes import Noisy, Persons
from reid.datasets.noise import uniform_others
from reid.datasets.noise_manifest import NOISES, Manifest, write_noise
from reid.datasets.tracklet_noise import DRAWN, World
from reid.errors import ConfigError, DataError
from reid.tracklets import IdNames, Split

IN_NAME = re.compile(rb"p(\d+)/p\d+_c(\d+)_t(\d+)_f(\d+)\.jpg")
KINDS = sorted(DRAWN)
OF_FRAMES = ("switches", "intruders")
WITH_NAMES = IdNames({pid: f"person {pid:02}" for pid in range(1, 40)})


def tracklets(root: str = "train", persons: range = range(1, 13), seed: int = 0, nobody: bool = False) -> Split:
    """Some six tracklets of 1 to 9 frames for each person, in three cameras; distractors and junk where nobody is asked for."""
    rng, names, lengths, pid, camid, keys = np.random.default_rng(seed), [], [], [], [], []
    for person in persons:
        for number in range(int(rng.integers(4, 9))):
            camera, length = int(rng.integers(1, 4)), int(rng.integers(1, 10))
            key = f"{'n' if nobody else 'p'}{person}c{camera}t{number}"
            names += [
                f"p{0 if nobody else person}/p{person}_c{camera}_t{number}_f{f}.jpg".encode() for f in range(length)
            ]
            lengths.append(length)
            pid.append(-(person % 2) if nobody else person)
            camid.append(camera)
            keys.append(key)
    stop = np.cumsum(lengths)
    return Split(
        Path("/data") / root, np.array(names), stop - lengths, stop, np.array(pid), np.array(camid), np.array(keys)
    )


CLEAN, NOBODY = tracklets(), tracklets("test", range(100, 108), nobody=True)


def world(split: Split = CLEAN, nobody: Split = NOBODY) -> World:
    def reference(asked: Split, gallery: str | None) -> np.ndarray:
        rows = np.array(
            [np.random.default_rng([ord(c) for c in asked.key(i)]).normal(size=6) for i in range(len(asked))]
        )
        rows[:, 0] += 2 * (asked.pid % 3)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    return World(nobody, frozenset({50, 51}), np.arange(len(split)), reference)


def made(
    kind: str, rate: float = 0.3, seed: int = 7, split: Split = CLEAN, names: IdNames | None = None, **options
) -> Noisy:
    return NOISES[kind](rate=rate, seed=seed, **options).apply(Noisy.of(split, names or IdNames()), world(split))


def shown(noisy: Noisy) -> list[list[tuple[int, ...]]]:
    """Person, camera, tracklet and frame of every picture of every tracklet, from the file names."""
    split = noisy.split
    return [
        [tuple(map(int, IN_NAME.search(split.names[f]).groups())) for f in range(split.start[i], split.stop[i])]
        for i in range(len(split))
    ]


def same(a: Split, b: Split) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("names", "start", "stop", "pid", "camid", "keys")
    )


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_there_after_it_is_what_the_file_names_say(kind: str) -> None:
    noisy = made(kind)
    pictures, split = shown(noisy), noisy.split
    person_F = np.concatenate([[person for person, *_ in tracklet] for tracklet in pictures])
    told_F = noisy.before.pid_F[split.frames()]
    np.testing.assert_array_equal(np.where(told_F < 0, 0, told_F), person_F)
    intact_T, intact_F = noisy.before.labelled(split)
    np.testing.assert_array_equal(intact_F[split.frames()], person_F == np.repeat(split.pid, split.lengths))
    own = [re.match(r"[pn](\d+)c", split.key(i))[1] for i in range(len(split))]  # a key stays its tracklet's
    np.testing.assert_array_equal(intact_T, [int(person) == pid for person, pid in zip(own, split.pid, strict=True)])
    assert not intact_F.all()


@pytest.mark.parametrize("kind", KINDS)
def test_it_replays_from_its_manifest_on_a_copy_elsewhere(kind: str, tmp_path: Path) -> None:
    for names in (IdNames(), WITH_NAMES):
        noisy = made(kind, names=names)
        write_noise(tmp_path / "noise.csv", noisy.changes, noisy.names)
        copy = replace(CLEAN, root=Path("/elsewhere/train"))
        there = replace(NOBODY, root=Path("/elsewhere/test"))
        again = Manifest(str(tmp_path / "noise.csv")).apply(Noisy.of(copy, names), world(nobody=there))
        assert same(again.split, noisy.split)
        assert again.names == noisy.names
        assert again.changes == noisy.changes
        assert again.split.root.is_relative_to("/elsewhere")
        write_noise(tmp_path / "again.csv", again.changes, again.names)
        assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "noise.csv").read_bytes()


def test_all_kinds_together_replay_in_their_order(tmp_path: Path) -> None:
    noisy = Noisy.of(CLEAN, WITH_NAMES)
    for seed, kind in enumerate(["fragments", *KINDS, "switches"]):
        noisy = NOISES[kind](rate=0.2, seed=seed).apply(noisy, world())
    write_noise(tmp_path / "noise.csv", noisy.changes, noisy.names)
    again = Manifest(str(tmp_path / "noise.csv")).apply(Noisy.of(CLEAN, WITH_NAMES), world())
    assert same(again.split, noisy.split)
    assert again.names == noisy.names
    person_F = np.concatenate([[person for person, *_ in tracklet] for tracklet in shown(noisy)])
    told_F = noisy.before.pid_F[noisy.split.frames()]
    np.testing.assert_array_equal(np.where(told_F < 0, 0, told_F), person_F)


@pytest.mark.parametrize("kind", KINDS)
def test_lower_rates_are_contained_in_higher_ones_and_seeds_differ(kind: str) -> None:
    low, high, other = made(kind, 0.1), made(kind, 0.3), made(kind, 0.3, seed=8)
    assert 0 < len(low.changes) < len(high.changes)
    assert set(low.changes) < set(high.changes)
    assert made(kind, 0.3).changes == high.changes
    assert {c._replace(seed=0) for c in other.changes} != {c._replace(seed=0) for c in high.changes}
    untouched = made(kind, 0.0)
    assert not untouched.changes
    assert same(untouched.split, CLEAN)
    with pytest.raises(ConfigError, match=r"rate: expected >= 0 and <= 1"):
        made(kind, 1.5)


@pytest.mark.parametrize("kind", OF_FRAMES)
def test_frames_are_exchanged_between_two_persons_of_one_camera(kind: str) -> None:
    noisy, before = made(kind), shown(Noisy.of(CLEAN, IdNames()))
    after = shown(noisy)
    assert sorted(chain(*after)) == sorted(chain(*before))  # every picture once, as before
    assert [len(tracklet) for tracklet in after] == [len(tracklet) for tracklet in before]
    touched = [i for i, tracklet in enumerate(after) if tracklet != before[i]]
    assert len(touched) == 2 * round(0.3 * len(CLEAN) / 2)
    for i in touched:
        foreign = [k for k, (new, old) in enumerate(zip(after[i], before[i], strict=True)) if new != old]
        assert foreign == list(range(foreign[0], foreign[-1] + 1))  # one run
        assert {after[i][k][0] for k in foreign}.isdisjoint({int(CLEAN.pid[i])})
        assert len({after[i][k][:3] for k in foreign}) == 1  # of one other tracklet
        assert after[i][foreign[0]][1] == CLEAN.camid[i]
        if kind == "switches":
            assert foreign[-1] == len(after[i]) - 1
            assert foreign[0] > 0
        else:
            assert len(foreign) <= min(3, len(after[i]) // 2)


def test_unknown_cameras_have_partners_too() -> None:
    nowhere = replace(CLEAN, camid=np.full(len(CLEAN), -1))
    assert len(made("switches", 0.7, split=nowhere).changes) > len(made("switches", 0.3, split=nowhere).changes)


def test_fragments_keep_every_frame_once_under_new_persons() -> None:
    noisy, before = made("fragments", pieces=3), shown(Noisy.of(CLEAN, IdNames()))
    cut = {change.key for change in noisy.changes}
    assert len(cut) == round(0.3 * len(CLEAN))
    assert len(noisy.split) == len(CLEAN) + 2 * len(cut)
    pieces = dict(zip(noisy.split.keys.tolist(), shown(noisy), strict=True))
    for i, whole in enumerate(before):
        key = CLEAN.key(i)
        parts = [pieces[key]] + [pieces[name] for name in (f"{key}~2", f"{key}~3") if name in pieces]
        assert list(chain(*parts)) == whole
        assert len(parts) == (3 if key in cut else 1)
    new = noisy.split.pid[len(CLEAN) :]
    assert len(set(new.tolist())) == len(new)
    assert new.min() > 51  # nobody's elsewhere


def test_persons_are_split_and_merged() -> None:
    halves = made("split_identities", 0.5).split
    moved = halves.pid != CLEAN.pid
    assert len(np.unique(CLEAN.pid[moved])) == 6
    for person in np.unique(CLEAN.pid[moved]):
        own = CLEAN.pid == person
        assert moved[own].sum() == own.sum() // 2
        assert len(np.unique(halves.pid[own & moved])) == 1
    merged = made("merged_identities", 0.5).split
    pairs = {(int(b), int(a)) for a, b in zip(merged.pid, CLEAN.pid, strict=True) if a != b}
    assert len(pairs) == 3
    assert len({person for pair in pairs for person in pair}) == 6
    gone = {second for second, _ in pairs}
    assert gone.isdisjoint(merged.pid.tolist())
    with pytest.raises(ConfigError, match="rate 1 leaves 1 of 2 persons"):
        made("merged_identities", 1.0, split=tracklets(persons=range(1, 3)))


def test_nearest_is_the_person_with_the_nearest_mean() -> None:
    noisy, features = made("nearest"), world().reference(CLEAN, None)
    assert len(noisy.changes) == round(0.3 * len(CLEAN))
    for change in noisy.changes:
        row = CLEAN.keys.tolist().index(change.key)
        cosine = {}
        for person in set(CLEAN.pid.tolist()) - {change.true_pid}:
            mean = features[person == CLEAN.pid].mean(0)
            cosine[person] = float(features[row] @ mean / np.linalg.norm(mean))
        assert change.given_pid == max(cosine, key=cosine.get)
    alone = tracklets(persons=range(1, 2))
    with pytest.raises(ConfigError, match="nearest: expected at least 2 persons"):
        made("nearest", split=alone)


def test_label_rules_are_those_of_the_class_labels() -> None:
    labels, pids = CLEAN.labels()
    np.testing.assert_array_equal(made("uniform_others").split.pid, pids[uniform_others(labels, len(pids), 0.3, 7)])
    backwards = replace(world(), order=np.arange(len(CLEAN))[::-1])
    noisy = NOISES["uniform_others"](rate=0.3, seed=7).apply(Noisy.of(CLEAN, IdNames()), backwards)
    np.testing.assert_array_equal(noisy.split.pid[::-1], pids[uniform_others(labels[::-1], len(pids), 0.3, 7)])


def test_background_is_of_the_datasets_own() -> None:
    noisy = made("background")
    added = noisy.split.keys[len(CLEAN) :].tolist()
    assert len(added) == round(0.3 * len(CLEAN))
    assert noisy.split.root == Path("/data")
    for row, key in enumerate(added, start=len(CLEAN)):
        assert noisy.split[row].paths == NOBODY[NOBODY.keys.tolist().index(key)].paths
        assert noisy.split.pid[row] in CLEAN.pid
    assert noisy.split[0].paths == CLEAN[0].paths
    assert np.all(noisy.row_T[len(CLEAN) :] == -1)
    none = NOBODY.select(np.arange(0))
    with pytest.raises(ConfigError, match="no distractors"):
        NOISES["background"](0.1, 0).apply(Noisy.of(CLEAN, IdNames()), world(nobody=none))
    with pytest.raises(
        ConfigError, match=r"asks for \d+ tracklets of no known person, but there are \d+; expected at most 0\.\d"
    ):
        made("background", 1.0)


def test_the_truth_travels_with_frames_where_disk_labels_were_wrong() -> None:
    """The dataset's labels are wrong for some tracklets; noise on top does not know, `persons` does."""
    truth_T = CLEAN.pid.astype(np.int64)
    disk = CLEAN.with_pid(uniform_others(truth_T - 1, 12, 0.3, 1) + 1)
    noisy = made("switches", split=disk)
    truth: Persons = noisy.persons(truth_T, disk)
    person_F = np.concatenate([[person for person, *_ in tracklet] for tracklet in shown(noisy)])
    np.testing.assert_array_equal(truth.pid_F[noisy.split.frames()], person_F)
    np.testing.assert_array_equal(truth.pid_T, truth_T)
    assert (noisy.before.pid_T == disk.pid).all()


HEADER = "key,frame,true_pid,given_pid,kind,seed,source_key,source_frame"
A, B = CLEAN.key(0), CLEAN.key(len(CLEAN) - 1)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("p1c9t9,,1,2,nearest,0,,", "row 2: no training tracklet has the key 'p1c9t9'"),
        (f"{A},,2,3,nearest,0,,", f"row 2: {A} is of person 1, not of 2"),
        (f"{A},,1,77,nearest,0,,", "row 2, column given_pid: no training person is called '77'"),
        (f"{A},,alice,2,nearest,0,,", "row 2, column true_pid: no training person is called 'alice'"),
        (f"{A},,1,50,split_identities,0,,", "column given_pid: '50' cannot be the id of a new person"),
        (f"{A},,1,2,neerest,0,,", "column kind: expected one of .*nearest.*, got 'neerest'"),
        (f"{A},,1,2,nearest,x,,", "column seed: expected a whole number of at least 0, got 'x'"),
        (f"{A},99,12,1,switches,0,{B},0", f"row 2: tracklet {A} has frames 0 to .*, no frame 99"),
        (f"{A},0,12,1,switches,0,{B},99", f"row 2: tracklet {B} has frames 0 to .*, no frame 99"),
        (f"{A},0,1,1,switches,0,{B},0", f"row 2: {B} is of person 12, not of 1"),
        (f"{A},0,12,2,switches,0,{B},0", f"row 2: tracklet {A} is labelled 1, not 2"),
        (f"{A},0,12,1,switches,0,{B},", "row 2, column source_frame: is required with a frame and a source_key"),
        (f"{A},0,1,60,fragments,0,,", f"row 2: tracklet {A}: frames .* are moved out of it; expected all"),
        ("x,,0,1,background,0,x,", "row 2: no distractor or junk tracklet of the dataset has the key 'x'"),
        (f"{A},,1,2", "row 2: expected 8 cells, got 4"),
    ],
)
def test_a_row_that_fits_nothing_is_an_error(row: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_text(f"{HEADER}\n{row}\n")
    with pytest.raises(DataError, match=words) as caught:
        Manifest(str(tmp_path / "noise.csv")).apply(Noisy.of(CLEAN, IdNames()), world())
    assert str(caught.value).startswith(str(tmp_path / "noise.csv"))
    assert len(caught.value.problems) == 1


def test_six_columns_are_enough_for_labels_and_the_last_row_counts(tmp_path: Path) -> None:
    (tmp_path / "noise.csv").write_text(
        f"key,frame,true_pid,given_pid,kind,seed\n{A},,1,2,nearest,0\n\n{A},,1,3,nearest,1\n"
    )
    noisy = Manifest(str(tmp_path / "noise.csv")).apply(Noisy.of(CLEAN, IdNames()), world())
    assert noisy.split.pid[0] == 3
    with pytest.raises(DataError, match="cannot read this noise manifest: No such file"):
        Manifest(str(tmp_path / "none.csv")).apply(Noisy.of(CLEAN, IdNames()), world())
    (tmp_path / "noise.csv").write_text("")
    with pytest.raises(DataError, match="row 1: expected the columns key,frame,true_pid"):
        Manifest(str(tmp_path / "noise.csv")).apply(Noisy.of(CLEAN, IdNames()), world())


def test_persons_are_written_as_the_dataset_calls_them(tmp_path: Path) -> None:
    noisy = made("split_identities", names=WITH_NAMES)
    write_noise(tmp_path / "noise.csv", noisy.changes, noisy.names)
    with open(tmp_path / "noise.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == HEADER.split(",")
    assert all(row["given_pid"] == f"{row['true_pid']}~2" for row in rows)
    assert {row["frame"] for row in rows} == {""}
    assert noisy.names.person(int(noisy.split.pid.max())).endswith("~2")


def test_keys_must_tell_tracklets_apart() -> None:
    twice = replace(CLEAN, keys=np.array(["same"] * len(CLEAN)))
    with pytest.raises(DataError, match="two training tracklets have the same key 'same'"):
        made("switches", split=twice)

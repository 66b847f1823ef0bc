"""What the first lines of a run say of its settings."""

from pathlib import Path

import pytest

from tests.commands.conftest import CONFIG, call


@pytest.mark.parametrize(
    ("overrides", "warned"),
    [([], False), (["train.eval_freq=50"], True), (["train.eval_freq=50", "data.holdout=0.4"], False)],
)
def test_evaluating_held_out_identities_needs_some(
    workplace: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], warned: bool
) -> None:
    (workplace / "run.yaml").write_text(CONFIG.replace("resnet10t", "test_resnet"))
    assert call("train", "run.yaml", "--dry-run", *overrides) == 0
    line = "train.eval_freq=50 has no effect: no identities are held out to evaluate; set data.holdout=0.1, say"
    assert capsys.readouterr().err.splitlines().count(line) == warned

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""The image tokenizer on real pictures: what the discriminator's start costs."""

import json
import pathlib
import subprocess
import sys

import pytest

EMOJI = pathlib.Path(__file__).resolve().parents[2] / "shared" / "data" / "emoji"
START, MAX_LOSS_DB = 400, 0.5


def parti(*command: str) -> None:
    subprocess.run([sys.executable, "-m", "parti", *command], check=True)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(not EMOJI.is_dir(), reason="the emoji pictures are not beside this clone")
def test_survives_the_start_of_the_discriminator(tmp_path: pathlib.Path) -> None:
    pairs, run = tmp_path / "pairs", tmp_path / "run"
    size = ["--image_size=32", "--validation_fraction=0.1"]
    parti("clean", f"--input={EMOJI}/*.tar", f"--output={pairs}", *size)
    settings = {
        "MODEL_DIR": f"'{run}'",
        "PAIRS_DIR": f"'{pairs}'",
        "IMAGE_SIZE": 32,
        "CODEBOOK_SIZE": 512,
        "TRAIN_STEPS": 800,
        "EVAL_PERIOD": 100,
        "losses.LossWeights.adversarial": 0.1,
        "adversary.AdversarialConfig.adversarial_start": START,
        "adversary.AdversarialConfig.adversarial_ramp": 100,
    }
    gin = [f"--gin.{name}={value}" for name, value in settings.items()]
    parti("train", "--gin_file=t5x_configs/experiments/tokenizer_64.gin", *gin)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    psnr = {row["step"]: row["psnr"] for row in rows if row["split"] == "validation"}
    after = [value for step, value in psnr.items() if step > START]
    assert len(after) == 4
    assert min(after) > psnr[START] - MAX_LOSS_DB
    last = rows[-1]
    assert last["adversarial_weight"] == pytest.approx(0.1)
    assert last["codebook_usage"] > 0.9

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What a reader sees of `parti clean`: report.json, and report.html that shows the pictures too."""

from parti.pipelines import clean_report_old

# Until the command calls `write`.
NUM_SAMPLES, STAGES, Stage = (
    clean_report_old.NUM_SAMPLES,
    clean_report_old.STAGES,
    clean_report_old.Stage,
)
render, thumbnail, megabytes = (
    clean_report_old.render,
    clean_report_old.thumbnail,
    clean_report_old.megabytes,
)

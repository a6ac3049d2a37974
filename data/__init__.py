# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""What is known of texts, images and records, without a framework: numpy and Pillow.

Rooms, each importing only those before it: storage, text, images, decontamination, scenes.
"""

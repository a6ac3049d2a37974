# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Downloads with bounded time, size and retries; refuses private addresses."""

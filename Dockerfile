# An image for the workers of Beam jobs, and for the launcher: docs/dataflow.md tells how to use it.
#   docker build -t IMAGE .
# The version of Beam is that of constraints.txt; the entry point is Beam's own.
FROM apache/beam_python3.11_sdk:2.77.0

WORKDIR /opt/parti
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY stages stages
COPY data data
COPY tasks tasks
COPY models models
COPY engine engine
COPY pipelines pipelines
COPY t5x_configs t5x_configs
COPY workflow workflow
COPY parti parti
RUN pip install --no-cache-dir -c constraints.txt 'setuptools>=77' '.[gcp]' \
    && python -c 'import parti.pipelines.clean_pairs'

ENV TF_CPP_MIN_LOG_LEVEL=3

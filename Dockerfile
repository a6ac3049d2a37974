# One image for the workers of Beam jobs, the launcher and training: docs/dataflow.md tells how to use it.
#   docker build -t IMAGE .                                  CPUs
#   docker build -t IMAGE --build-arg ACCELERATOR=cuda .     NVIDIA GPUs; the driver (580 or newer) is the machine's
#   docker build -t IMAGE --build-arg ACCELERATOR=tpu .      TPUs
# All versions are those of constraints.txt, Beam's too; the entry point is Beam's own.
FROM apache/beam_python3.11_sdk:2.77.0

ARG ACCELERATOR=
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
RUN pip install --no-cache-dir -c constraints.txt 'setuptools>=77' ".[gcp,aws${ACCELERATOR:+,$ACCELERATOR}]" \
    && JAX_PLATFORMS=cpu python -c 'import parti.pipelines.clean_pairs, parti.pipelines.generate, parti.engine.train'

# Where Google's machines put the driver's libraries; what NVIDIA's container runtime is asked for.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TF_CPP_MIN_LOG_LEVEL=3

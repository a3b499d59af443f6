# GPU image: docker build -f docker/gpu.Dockerfile -t ipu-chem:gpu .
#            docker run --rm --gpus all -v "$PWD/runs:/work/runs" ipu-chem:gpu \
#                train --config qm9_u0 --accelerator cuda --out runs/first
# The host needs NVIDIA's driver and Container Toolkit; the CUDA libraries come with torch's wheel.
# Files in a mounted folder belong to you with --user "$(id -u)".
FROM python:3.11-slim-bookworm

# RDKit's drawing code loads the first two even where nothing is drawn; torch.compile needs the compiler. Debian
# keeps one version only: none to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libxrender1 libxext6 gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY .ci/constraints.txt .ci/constraints.txt
COPY packing packing
COPY ipu_chem ipu_chem
RUN pip install --no-cache-dir -c .ci/constraints.txt ".[gpu,plot]"

ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
RUN useradd --create-home chemist && mkdir /work && chown chemist /work
USER chemist
WORKDIR /work
ENTRYPOINT ["ipu-chem"]
CMD ["--help"]

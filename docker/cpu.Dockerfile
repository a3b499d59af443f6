# CPU image: docker build -f docker/cpu.Dockerfile -t ipu-chem:cpu .
#            docker run --rm -v "$PWD/demo:/work/demo" ipu-chem:cpu train --config nci3d_demo --out demo
# Files in a mounted folder belong to you with --user "$(id -u)".
FROM python:3.11-slim-bookworm

# RDKit's drawing code loads these two even where nothing is drawn. Debian keeps one version only: none to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libxrender1 libxext6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY .ci/constraints.txt .ci/constraints.txt
COPY packing packing
COPY ipu_chem ipu_chem
RUN pip install --no-cache-dir -c .ci/constraints.txt \
    --extra-index-url https://download.pytorch.org/whl/cpu ".[cpu,plot]"

RUN useradd --create-home chemist && mkdir /work && chown chemist /work
USER chemist
WORKDIR /work
ENTRYPOINT ["ipu-chem"]
CMD ["--help"]

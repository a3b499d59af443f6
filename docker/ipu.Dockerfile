# IPU image, on Graphcore's with the Poplar SDK 3.3: Python 3.8, torch 2.0.1 and PopTorch are there already.
#   docker build -f docker/ipu.Dockerfile -t ipu-chem:ipu .                       # runs ipu-chem
#   docker build -f docker/ipu.Dockerfile -t ipu-chem:pod --target benchmarks .   # runs python -m benchmarks.pod
#
# gc-docker comes with the SDK; it is docker run with the IPUs of your partition handed in:
#   gc-docker -- --rm -v "$PWD/runs:/work/runs" ipu-chem:ipu train --config qm9_u0_pod16 --out runs/first
#   gc-docker -- --rm -v "$PWD/pod:/work" ipu-chem:pod --run schnet_qm9_train_gen_pod16
#   gc-docker -- --rm --entrypoint python ipu-chem:pod -m benchmarks.throughput --accelerator ipu
# Without it, on machines that reach their IPUs over the network (gc-docker --echo prints what yours needs):
#   docker run --rm --network host --ipc host --ulimit memlock=-1:-1 --cap-add IPC_LOCK --device /dev/infiniband/ \
#       -v "$IPUOF_CONFIG_PATH:/ipuof.conf" -e IPUOF_CONFIG_PATH=/ipuof.conf ipu-chem:ipu doctor
# Without an IPU, on the SDK's simulator: docker run --rm -e POPTORCH_IPU_MODEL=1 ipu-chem:ipu ...
# Files in a mounted folder belong to you with --user "$(id -u)"; not root, which mpirun under poprun refuses.
FROM graphcore/pytorch:3.3.0-ubuntu-20.04-20230703 AS base

# RDKit's drawing code loads these two even where nothing is drawn. Ubuntu keeps one version only: none to pin.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends libxrender1 libxext6 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY .ci/constraints.txt .ci/constraints.txt
COPY packing packing
COPY ipu_chem ipu_chem
# Ubuntu's pip does not know the wheels of today. The image's own torch and PopTorch must come through unchanged.
RUN versions='from importlib.metadata import version; print(version("torch"), version("poptorch"))' \
    && before="$(python3 -c "$versions")" \
    && python3 -m pip install --no-cache-dir pip==25.0.1 \
    && python3 -m pip install --no-cache-dir -c .ci/constraints.txt ".[ipu,plot]" \
    && test "$(python3 -c "$versions")" = "$before"
COPY benchmarks benchmarks

# The benchmarks are started as `python`, from any folder, and write to /work alone.
RUN command -v python || ln -s "$(command -v python3)" /usr/local/bin/python
ENV PYTHONPATH=/src:$PYTHONPATH PYTORCH_CACHE_DIR=/work/pt_cache
RUN useradd --create-home chemist && mkdir /work && chown chemist /work
USER chemist
WORKDIR /work

FROM base AS benchmarks
ENTRYPOINT ["python", "-m", "benchmarks.pod"]
CMD ["--list"]

FROM base AS train
ENTRYPOINT ["ipu-chem"]
CMD ["--help"]

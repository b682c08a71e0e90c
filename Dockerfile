# Image of the server with the tiny checkpoints. docs/deploy.md explains the arguments.
#   docker build -t focusdiff .                         on a CPU
#   docker build -t focusdiff --build-arg VARIANT=cuda .    on an NVIDIA GPU
#   docker build -t focusdiff-triton --target triton .      a Triton server with the same models, for a front
ARG BASE=debian:bookworm-slim
ARG VARIANT=cpu

FROM ${BASE} AS python
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates python3 \
 && rm -rf /var/cache/apt/* /var/lib/apt/lists/*
ENV PATH=/opt/focusdiff/bin:$PATH

FROM python AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3-venv \
 && rm -rf /var/cache/apt/* /var/lib/apt/lists/* \
 && python3 -m venv /opt/focusdiff
WORKDIR /build
# Where packages come from. Arguments of this stage are no part of the image.
ARG VARIANT PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_CERT
# constraints.txt names PyTorch's build for CPUs; PyPI's, of the same version, is the one for CUDA. spandrel, for
# --upscaler, comes without what it declares: torchvision must match the build of PyTorch, and is not needed.
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=bind,source=pyproject.toml,target=pyproject.toml \
    --mount=type=bind,source=constraints.txt,target=given.txt \
    if [ "$VARIANT" = cuda ]; then sed 's/^\(torch==.*\)+cpu$/\1/' given.txt; else cat given.txt; fi > constraints.txt \
 && python3 -c 'import tomllib; of = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*of["dependencies"], *of["optional-dependencies"]["triton"], sep="\n")' > requirements.txt \
 && pip install --disable-pip-version-check -c constraints.txt -r requirements.txt \
 && pip install --disable-pip-version-check -c constraints.txt --no-deps spandrel einops
# What serving never opens: headers, programs and tests of PyTorch, tests of others, pip.
COPY . src
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --no-deps ./src \
 && site=$(python3 -c 'import sysconfig; print(sysconfig.get_path("purelib"))') \
 && ls "$site"/model/cpu/built/*.so \
 && find "$site/torch/bin" -type f ! -name torch_shm_manager -delete \
 && rm -r "$site/torch/include" "$site/torch/test" "$site"/pip "$site"/pip-*.dist-info \
 && for name in numpy pandas scipy sympy networkx; do \
      find "$site/$name" -type d -name tests -prune -exec rm -r {} +; done

FROM build AS triton-server
RUN --mount=type=cache,target=/root/.cache/pip \
    python3 -m venv /opt/pip \
 && /opt/pip/bin/pip install --disable-pip-version-check --no-deps --target /opt/focusdiff/triton nvidia-pytriton==0.7.0

FROM python AS runtime-cpu

# Triton compiles a launcher for each kernel when it is first used
FROM python AS runtime-cuda
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev python3-dev \
 && rm -rf /var/cache/apt/* /var/lib/apt/lists/*

FROM runtime-${VARIANT} AS server
RUN useradd --uid 10001 --no-create-home --home-dir /data focusdiff \
 && install -d -o focusdiff -g focusdiff /data
COPY --from=build /opt/focusdiff /opt/focusdiff
RUN --mount=type=bind,source=deploy/licences.py,target=/tmp/licences.py \
    python3 /tmp/licences.py /usr/share/doc/focusdiff/licences.tsv

ARG BASE VERSION=unknown REVISION=unknown
LABEL org.opencontainers.image.title="FocusDiff" \
      org.opencontainers.image.description="Serves autoregressive text-to-image models over OpenAI's Images API" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"

# Everything that is written goes to one place, so that the rest can be read-only.
ENV HOME=/data \
    XDG_CACHE_HOME=/data/cache \
    XDG_DATA_HOME=/data \
    HF_HOME=/data/huggingface \
    FOCUSDIFF_STORE=/data/pictures \
    FOCUSDIFF_HOST=0.0.0.0 \
    FOCUSDIFF_PORT=8000
WORKDIR /data
VOLUME /data
EXPOSE 8000
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --retries=3 \
    CMD ["/usr/bin/python3", "-ISc", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['FOCUSDIFF_PORT'] + '/health/ready', timeout=3)"]
ENTRYPOINT ["focusdiff-serve"]
CMD ["--model", "tiny", "--model", "tiny-base", "--judge", "exact"]

# Triton's Python backend needs the interpreter as a library.
FROM server AS triton
USER 0
RUN apt-get update \
 && apt-get install -y --no-install-recommends "libpython$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])')" \
 && rm -rf /var/cache/apt/* /var/lib/apt/lists/*
COPY --from=triton-server /opt/focusdiff/triton /opt/focusdiff/triton
USER 10001:10001
EXPOSE 8001 8002 8003
ENV FOCUSDIFF_HTTP_PORT=8003
HEALTHCHECK --interval=5s --timeout=4s --start-period=120s --retries=3 \
    CMD ["/usr/bin/python3", "-ISc", "import os, urllib.request as web; web.urlopen('http://127.0.0.1:' + os.environ['FOCUSDIFF_HTTP_PORT'] + '/v2/health/ready', timeout=3)"]
ENTRYPOINT ["focusdiff-triton", "/data/triton", "--serve"]
CMD ["--model", "tiny", "--model", "tiny-base"]

FROM server

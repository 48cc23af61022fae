# The project for a CPU, or with other arguments for CUDA: make image, make image-cuda.
ARG BASE=python:3.11-slim
FROM ${BASE}

# torch.compile and Triton want a compiler; a base without Python wants python3 python3-venv, too.
ARG PACKAGES="g++"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ${PACKAGES} \
    && rm -rf /var/lib/apt/lists/*

RUN useradd --create-home --uid 10001 sdxl \
    && mkdir --parents /sdxl/multirun /store \
    && chown -R sdxl:sdxl /sdxl /store \
    && python3 -m venv /opt/venv \
    && chown -R sdxl:sdxl /opt/venv
ENV PATH=/opt/venv/bin:$PATH \
    SDXL_STORE=/store \
    PYTHONUNBUFFERED=1
USER 10001
WORKDIR /sdxl

# torch before the project: a change of the code does not download it again.
ARG TORCH=torch
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY --chown=sdxl constraints.txt ./
RUN python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
    --extra-index-url ${TORCH_INDEX} ${TORCH}

ARG EXTRAS=serve,quality
COPY --chown=sdxl . ./
RUN python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[${EXTRAS}]"

VOLUME /store /sdxl/multirun
EXPOSE 8000
ENTRYPOINT ["python", "-m", "sdxl"]
CMD ["--help"]

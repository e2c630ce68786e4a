# The service as an image: `docker build -t shopcast .`
#   VARIANT=cpu (default) or cuda: whether it insists on a GPU.
#   TORCH_INDEX: package index to take PyTorch from. The default index's wheels for x86-64 bring CUDA
#   along; PyTorch's index of CPU wheels (pytorch.org, "Get started") makes an image 5 GB smaller.
ARG PYTHON=3.12.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=""
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
WORKDIR /src
RUN python -m venv /opt/shopcast
# what is large and changes seldom first, so that it stays in the layer cache
COPY constraints.txt ./
RUN /opt/shopcast/bin/pip install --constraint constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch
COPY pyproject.toml README.md LICENSE ./
COPY app app
COPY models models
COPY migrations migrations
RUN /opt/shopcast/bin/pip install --constraint constraints.txt '.[postgres,plot]'

FROM python:${PYTHON}-slim-bookworm
ARG VARIANT=cpu
LABEL org.opencontainers.image.title="Shopcast" \
      org.opencontainers.image.description="Self-hosted forecasting for shops" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/shopcast shopcast \
    && install --directory --owner=shopcast --group=shopcast /var/lib/shopcast
COPY --from=build /opt/shopcast /opt/shopcast
ENV PATH=/opt/shopcast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HF_HUB_OFFLINE=1 \
    ORT_DISABLE_TELEMETRY=1 \
    SHOPCAST_HOST=0.0.0.0 \
    SHOPCAST_DATA_DIR=/var/lib/shopcast \
    SHOPCAST_DEVICE=${VARIANT}
USER 10001:10001
WORKDIR /var/lib/shopcast
VOLUME /var/lib/shopcast
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["shopcast", "serve"]

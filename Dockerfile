# segsearch for NVIDIA's GPUs; docs/how-to/containers.md has the commands.
# torch's wheels bring CUDA; the base tells the container runtime to add the GPUs and the driver.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# Ubuntu keeps no older versions of its packages, so none can be pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV PATH=/opt/segsearch/bin:$PATH
COPY requirements.lock /tmp/
RUN python3 -m venv /opt/segsearch && pip install --no-cache-dir -r /tmp/requirements.lock
COPY . /tmp/segsearch
RUN pip install --no-cache-dir --no-deps --no-build-isolation /tmp/segsearch

# Mount your folder here. Caches stay in it, also for a user whom the image doesn't know (--user).
WORKDIR /work
ENV HOME=/work RAY_USAGE_STATS_ENABLED=0
RUN chmod 1777 /work
USER 1000
CMD ["segsearch", "--help"]

# One image for engines, workers and the command line: what it does is its first argument.
#
#   docker build -t windlass .
#   docker run --rm windlass --help

# Server, C client library and this number belong together: the client speaks to servers of its own minor version only.
ARG FDB_VERSION=7.3.79
ARG PYTHON_IMAGE=python:3.12-slim-bookworm

FROM foundationdb/foundationdb:${FDB_VERSION} AS foundationdb

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
RUN python -m venv /opt/windlass
COPY . .
RUN /opt/windlass/bin/pip install '.[all]'

FROM ${PYTHON_IMAGE}
# libseccomp narrows what a jailed child may ask of the kernel; without it the worker says so and goes on without.
# Not pinned: Debian keeps only the newest build of a package, so a pin breaks with the next security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libseccomp2 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --home-dir /var/lib/windlass --create-home windlass
COPY --from=foundationdb /usr/lib/libfdb_c.so /usr/lib/libfdb_c.so
COPY --from=build /opt/windlass /opt/windlass
COPY --chmod=755 docker/entrypoint.sh docker/engine_health.py /usr/local/lib/windlass/
# Fail the build, not the first start, when the library does not load on this base or a package is missing.
RUN ldconfig \
    && /opt/windlass/bin/python -c 'import ctypes; ctypes.CDLL("libfdb_c.so")' \
    && /opt/windlass/bin/windlass --help > /dev/null
ENV PATH=/opt/windlass/bin:$PATH PYTHONUNBUFFERED=1
USER 10001
WORKDIR /var/lib/windlass
VOLUME /var/lib/windlass
EXPOSE 7711
ENTRYPOINT ["/usr/local/lib/windlass/entrypoint.sh"]
CMD ["--help"]

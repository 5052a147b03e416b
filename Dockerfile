# docker build -t duplexd .
# docker run --read-only --tmpfs /run/duplexd:uid=10809,gid=10809 -v duplexd-etc:/etc/duplexd:ro \
#     -v duplexd-data:/data -v duplexd-state:/var/lib/duplexd duplexd
FROM python:3.11-slim-bookworm AS build
WORKDIR /src
# Libraries first, by the hashes that are pinned: they change less often than the code.
COPY configs configs
RUN python -m venv /opt/duplexd && /opt/duplexd/bin/pip install --no-cache-dir --require-hashes \
    --requirement configs/requirements/runtime.txt
RUN python -m venv /opt/tools && /opt/tools/bin/pip install --no-cache-dir --require-hashes \
    --requirement configs/requirements/build.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY docs docs
COPY systemd systemd
COPY duplexd duplexd
RUN /opt/tools/bin/pip wheel --no-deps --no-build-isolation --wheel-dir dist . \
 && /opt/duplexd/bin/pip install --no-cache-dir --no-deps --no-index dist/*.whl

FROM python:3.11-slim-bookworm
RUN groupadd --system --gid 10809 duplexd \
 && useradd --system --uid 10809 --gid duplexd --home-dir /var/lib/duplexd \
    --shell /usr/sbin/nologin duplexd \
 && install -d -o duplexd -g duplexd -m 0750 /var/lib/duplexd /data \
 && install -d -o duplexd -g duplexd -m 0755 /run/duplexd /etc/duplexd
COPY --from=build /opt/duplexd /opt/duplexd
ENV PATH=/opt/duplexd/bin:$PATH PYTHONDONTWRITEBYTECODE=1 DUPLEXD_SOCKET=/run/duplexd/control.sock
USER duplexd
VOLUME ["/var/lib/duplexd", "/data"]
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=2m \
    CMD ["duplexctl", "health", "--service"]
ENTRYPOINT ["duplexd"]
CMD ["run", "--config", "/etc/duplexd/duplexd.toml"]

# syntax=docker/dockerfile:1
# Weir alone in its image: the binary, the C library it runs on, CA certificates, an unprivileged user. For amd64 and arm64:
#   docker buildx build --platform linux/amd64,linux/arm64 -t weir .
# tools/check-dockerfile runs these stages in a clean root, without an engine.
#
# glibc with its own allocator, by measurement (amd64, medians of five rounds in turn, one worker): CPU for a transaction differs by less
# than the noise (8 %) between glibc and static musl, malloc and mimalloc; mimalloc starts with 10 MB more and takes longer for big
# results in TLS (1.2 to 1.6 times). An idle client costs 2.1 KB (9.6 KB in TLS) with glibc's malloc, 2.2 (10.7) with musl's, 1.0 (10.7)
# with mimalloc. musl would be the smaller image; its malloc has one lock for all threads, and many workers were not measured.

FROM rust:1.95.0-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates gcc libc6-dev
WORKDIR /src
COPY . .
# The caches are the builder's: neither ends up in a layer.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    tools/cargo build --locked --release --bin weir && install -D target/release/weir /image/usr/bin/weir
# Function names stay, for backtraces; lines don't, which saves most of the size.
RUN strip --strip-debug /image/usr/bin/weir
# What the binary loads, at the paths it looks at; name resolution is in libc.so.6 itself.
RUN ldd /image/usr/bin/weir | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "/image$library"; done
RUN install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt \
    && echo 'weir:x:10001:10001::/:/usr/sbin/nologin' > /image/etc/passwd \
    && echo 'hosts: files dns' > /image/etc/nsswitch.conf

# RDS's certificate authorities, where Weir looks for them; only if you say by --build-arg RDS_BUNDLE_SHA256=... which ones you have
# checked. Otherwise mount the file there, or name it by AURORA_CA_FILE.
ARG RDS_BUNDLE_URL=https://truststore.pki.rds.amazonaws.com/global/global-bundle.pem
ARG RDS_BUNDLE_SHA256=
RUN [ -z "$RDS_BUNDLE_SHA256" ] || { apt-get install -y --no-install-recommends curl \
    && install -d /image/etc/ssl/rds && curl -fsS "$RDS_BUNDLE_URL" -o /image/etc/ssl/rds/global-bundle.pem \
    && echo "$RDS_BUNDLE_SHA256  /image/etc/ssl/rds/global-bundle.pem" | sha256sum -c; }

FROM scratch
COPY --from=build /image /
USER 10001:10001
EXPOSE 5432 5433 5434 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/bin/weir", "check", "--alive"]
ENTRYPOINT ["/usr/bin/weir"]

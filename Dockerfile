# An image with static binaries: docker buildx build --platform linux/amd64,linux/arm64 -t setupkey-operator .
# The labels: --build-arg VERSION=0.1.0, REVISION, SOURCE and CREATED. Without these, they are empty.

# A static binary does not list its crates, so the SBOM is made from Cargo.lock in the build context.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
# All binaries of the image, separated by blanks. The first is its command. `make image` reads this line too.
ARG BINARIES="setupkey-operator kubectl-setupkey"

FROM rust:1.98.0-alpine3.24@sha256:a10e64dd139b7387337c7fbe8aca31b959b57b2fd4c8ae20a02cf1d6ea424dce AS build
ARG BINARIES
RUN apk add --no-cache musl-dev ca-certificates-bundle
WORKDIR /src
COPY . .
RUN cargo build --release --locked $(printf -- '--bin %s ' $BINARIES) \
    && mkdir -p /root-of-image/etc/ssl/certs \
    && for binary in $BINARIES; do cp "target/release/$binary" /root-of-image/; done \
    # For machines that join: `enroll` trusts the authorities that it finds here.
    && cp /etc/ssl/certs/ca-certificates.crt /root-of-image/etc/ssl/certs/

FROM scratch
ARG VERSION REVISION SOURCE CREATED
LABEL org.opencontainers.image.title="setupkey-operator" \
      org.opencontainers.image.description="A Kubernetes operator that makes network setup keys a resource" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE" \
      org.opencontainers.image.created="$CREATED"
COPY --from=build /root-of-image/ /
# The nonroot user of distroless, as a number, so that runAsNonRoot can verify it.
USER 65532:65532
ENTRYPOINT ["/setupkey-operator"]

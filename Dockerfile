# An image with one static binary: docker buildx build --platform linux/amd64,linux/arm64 -t setupkey-operator .

# A static binary does not list its crates, so the SBOM is made from Cargo.lock in the build context.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

FROM rust:1.98.0-alpine3.24@sha256:a10e64dd139b7387337c7fbe8aca31b959b57b2fd4c8ae20a02cf1d6ea424dce AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin setupkey-operator

FROM scratch
COPY --from=build /src/target/release/setupkey-operator /setupkey-operator
# The nonroot user of distroless, as a number, so that runAsNonRoot can verify it.
USER 65532:65532
ENTRYPOINT ["/setupkey-operator"]

# An image with one static binary: docker buildx build --platform linux/amd64,linux/arm64 -t setupkey-operator .

# A static binary does not list its crates, so the SBOM is made from Cargo.lock in the build context.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

FROM rust:1-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin setupkey-operator

FROM scratch
COPY --from=build /src/target/release/setupkey-operator /setupkey-operator
# The nonroot user of distroless, as a number, so that runAsNonRoot can verify it.
USER 65532:65532
ENTRYPOINT ["/setupkey-operator"]

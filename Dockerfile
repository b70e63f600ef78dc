# A static binary and nothing else: docker buildx build --platform linux/amd64,linux/arm64 -t setupkey-operator .

# A static binary names no crates, so the SBOM is made from Cargo.lock in the context.
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true

FROM rust:1-alpine AS build
RUN apk add --no-cache musl-dev
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin setupkey-operator

FROM scratch
COPY --from=build /src/target/release/setupkey-operator /setupkey-operator
# distroless' nonroot, by number, so that Kubernetes can tell that it is not root.
USER 65532:65532
ENTRYPOINT ["/setupkey-operator"]

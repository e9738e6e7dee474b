# An image that holds ddollar and nothing else; the binary is static and brings its certificates.
#
#   docker build -t ddollar .
#   docker run --rm ddollar rehearse
#
# To use it in an image of your own, which has the command to run (examples/entrypoint.sh goes with it):
#
#   COPY --from=ddollar /ddollar /usr/local/bin/ddollar
#
# As a proxy for the programs on this machine; without a volume, its secret changes at each start:
#
#   docker run --rm -p 127.0.0.1:4141:4141 -v ddollar-state:/state -e ANTHROPIC_API_KEY \
#       ddollar proxy --listen 0.0.0.0:4141 --allow-remote
FROM rust:1-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools
WORKDIR /source
COPY . .
# ring's C code would otherwise be compiled with glibc's headers.
ENV TARGET_CC=musl-gcc
RUN target="$(uname -m)-unknown-linux-musl" \
    && rustup target add "$target" \
    && cargo build --release --locked --target "$target" \
    && cp "target/$target/release/ddollar" /ddollar

FROM scratch
COPY --from=build /ddollar /ddollar
ENV XDG_STATE_HOME=/state
ENTRYPOINT ["/ddollar"]
CMD ["help"]

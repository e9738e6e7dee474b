#!/bin/sh
# The entry point of a container: the image's command runs under ddollar, which as process 1 also
# reaps what is left behind. The image 'ddollar' is made by the Dockerfile of this repository.
#
#   FROM debian:stable-slim
#   COPY --from=ddollar /ddollar /usr/local/bin/ddollar
#   COPY examples/entrypoint.sh /usr/local/bin/
#   ENTRYPOINT ["entrypoint.sh"]
#   CMD ["claude", "-p", "work through TODO.md"]
#
#   docker run -v "$HOME/.config/ddollar/tokens:/run/secrets/tokens:ro" \
#       -v ddollar-state:/state IMAGE
set -eu

# Tokens as a mounted file, one a line; or as variables, as everywhere.
tokens=/run/secrets/tokens
if [ -e "$tokens" ]; then
    if [ ! -r "$tokens" ]; then
        echo "entrypoint.sh: $tokens is mounted, but user $(id -u) cannot read it" >&2
        echo "hint: run the container with --user, as the owner of the file" >&2
        exit 125
    fi
    export ANTHROPIC_API_KEYS_FILE="${ANTHROPIC_API_KEYS_FILE:-$tokens}"
fi
# On a volume, so that the next container knows which tokens are spent, and 'ddollar report' works.
if [ -d /state ]; then
    export XDG_STATE_HOME="${XDG_STATE_HOME:-/state}"
fi
# Exit code 75: not finished, start a container again later. exec: 'docker stop' signals ddollar, which
# ends the command in order within --grace.
exec ddollar supervise --grace 8s --max-wait "${DDOLLAR_MAX_WAIT:-6h}" -- "$@"

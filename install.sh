#!/bin/sh
# Installs ddollar for this user: no root, nothing but one program file. From a release:
#
#   curl --proto '=https' -sSfL https://github.com/OWNER/ddollar/releases/latest/download/install.sh | sh
#
# DDOLLAR_VERSION (v0.3.0; the latest), DDOLLAR_BIN (~/.local/bin), DDOLLAR_REPOSITORY and
# DDOLLAR_RELEASES (another address with the same files) change what is taken from where.
set -eu
repository=${DDOLLAR_REPOSITORY:-}

fail() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

# All of it is read before any of it is run, so that half a script does nothing.
main() {
    [ -n "$repository$releases" ] || fail "set DDOLLAR_REPOSITORY=OWNER/ddollar"
    case $(uname -s) in
    Linux) system=unknown-linux-musl ;;
    Darwin) system=apple-darwin ;;
    *) fail "there is no binary for $(uname -s); try: cargo install ddollar --locked" ;;
    esac
    case $(uname -m) in
    x86_64 | amd64) machine=x86_64 ;;
    aarch64 | arm64) machine=aarch64 ;;
    *) fail "there is no binary for $(uname -m); try: cargo install ddollar --locked" ;;
    esac
    name=ddollar-$machine-$system
    folder=${DDOLLAR_BIN:-$HOME/.local/bin}
    case $folder in
    /*) ;;
    "~" | "~/"*) fail "DDOLLAR_BIN: only a shell knows '~', and not within quotes; give the whole path" ;;
    *) folder=$PWD/$folder ;;
    esac
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 1' INT TERM HUP

    cd "$work"
    # Not over http, also not because of a redirect; from a folder if the caller names one.
    set -- --proto '=https' --tlsv1.2
    case $releases in file://*) set -- --proto '=file' ;; esac
    for file in "$name.tar.gz" SHA256SUMS; do
        curl "$@" -sSfL --retry 3 -o "$file" "$releases/$file" || fail "cannot get $releases/$file"
    done
    grep " [ *]\{0,1\}$name.tar.gz\$" SHA256SUMS >sum || fail "SHA256SUMS does not name $name.tar.gz"
    if command -v sha256sum >/dev/null; then
        sha256sum -c sum >/dev/null || fail "the SHA-256 sum is wrong; nothing was installed"
    else
        shasum -a 256 -c sum >/dev/null || fail "the SHA-256 sum is wrong; nothing was installed"
    fi
    tar -xzf "$name.tar.gz"
    mkdir -p "$folder"
    [ ! -d "$folder/ddollar" ] || fail "$folder/ddollar is a folder; nothing was installed"
    # In one step, so that a ddollar that runs keeps its file; and only what runs there.
    new=$folder/.ddollar.$$
    trap 'rm -rf "$work" "$new"' EXIT
    cp "$name/ddollar" "$new"
    chmod 755 "$new"
    program=$("$new" version 2>&1) ||
        fail "a program in $folder cannot be run; nothing was installed: $program"
    mv "$new" "$folder/ddollar"
    echo "installed $program as $folder/ddollar"
    case :$PATH: in *":$folder:"*) ;; *) echo "hint: $folder is not in your PATH" ;; esac
}

version=${DDOLLAR_VERSION:-latest}
case $version in latest) path=latest/download ;; *) path=download/$version ;; esac
releases=${DDOLLAR_RELEASES:-${repository:+https://github.com/$repository/releases/$path}}
main

#!/usr/bin/env bash
# From nothing to a running container, showing each command.
set -euo pipefail
cd "$(dirname "$0")/.."

quoted() {
    local word line=
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=-]* | '') line+=" '$word'" ;;
            *) line+=" $word" ;;
        esac
    done
    printf '%s' "${line# }"
}
show() {
    printf '\n$ %s\n' "$(quoted "$@")"
    "$@"
}

# What follows runs as an ordinary user, also when this script does not.
as_user() {
    if [ "$(id -u)" = 0 ]; then
        printf '\n[%s]$ %s\n' coracle-test "$(quoted "$@")"
        (cd "$stage" && setpriv --reuid coracle-test --regid coracle-test --clear-groups --no-new-privs \
            env -i HOME=/var/lib/coracle-test USER=coracle-test PATH="$stage/bin:/usr/bin:/bin" TERM="${TERM:-dumb}" "$@")
    else
        printf '\n$ %s\n' "$(quoted "$@")"
        (cd "$stage" && PATH="$stage/bin:$PATH" "$@")
    fi
}

show scripts/setup.sh demo
show cargo build --release

# A folder that the other user may read, wherever the checkout lies.
stage=$(mktemp -d /tmp/coracle-demo.XXXXXX)
trap 'rm -rf "$stage"' EXIT
target=${CARGO_TARGET_DIR:-target}
install -D -m 0755 "$target/release/coracle" "$stage/bin/coracle"

show scripts/demo-image.sh "$stage/busybox"
chmod 0755 "$stage"
[ "$(id -u)" != 0 ] || chown coracle-test "$stage"

as_user id
as_user coracle build busybox.sqfs oci:busybox
as_user ls -l busybox.sqfs
as_user coracle inspect busybox.sqfs
as_user coracle inspect --superblock busybox.sqfs
as_user coracle run busybox.sqfs
# The variables are the container's.
# shellcheck disable=SC2016
as_user coracle exec busybox.sqfs sh -c 'id; echo "in $VESSEL:"; ls -l /bin/busybox; df -h / | cat'
as_user sh -c 'echo piped through | coracle exec busybox.sqfs tr a-z A-Z'
as_user sh -c 'coracle exec busybox.sqfs sh -c "exit 42"; echo "exit status $?"'
as_user sh -c 'coracle spec --steps busybox.sqfs true'

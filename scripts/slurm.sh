#!/usr/bin/env bash
# A Slurm of several nodes on this machine, for tests: each node and the login node `head` has network, mounts, host
# name and /dev/shm of its own, and the nodes reach one another over a bridge that exists nowhere else.
#
#   slurm.sh up DIR            starts it; everything it writes is in DIR
#   slurm.sh as DIR USER CMD…  runs a command as a user on the login node
#   slurm.sh down DIR          ends it, and whatever still runs in its namespaces
#
# NODES (2) and CPUS (4 each, claimed) are read by `up`. Needs root.
set -euo pipefail

verb=${1:-} dir=${2:-}
[ -n "$dir" ] || { echo "usage: slurm.sh up|as|down DIR [USER COMMAND...]" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "slurm.sh: namespaces and daemons need root" >&2; exit 1; }
export SLURM_CONF=$dir/etc/slurm.conf
subnet=10.77.0

living() {
    local state
    read -r state 2>/dev/null <"/proc/$1/stat" || return 1
    case ${state##*) } in [ZX]*) return 1 ;; esac
}
# end PID-FILE : asks, waits, insists.
end() {
    local pid
    [ -s "$1" ] || return 0
    pid=$(cat "$1")
    if living "$pid"; then
        kill -TERM "$pid" 2>/dev/null || true
        for _ in {1..100}; do living "$pid" || break; sleep 0.05; done
        if living "$pid"; then kill -KILL "$pid" 2>/dev/null || true; fi
    fi
    rm -f "$1"
}
# within NODE COMMAND… : in the namespaces of a node.
within() {
    local node=$1
    shift
    nsenter -t "$(cat "$dir/pid/ns.$node")" -n -m -u -- "$@"
}

hold() {
    # The process that holds a node's namespaces; they end with it.
    # shellcheck disable=SC2016
    setsid unshare --net --uts --mount --propagation private bash -c \
        'hostname "$1"; echo $$ >"$2.new"; mv "$2.new" "$2"; exec sleep infinity' hold "$1" "$dir/pid/ns.$1" \
        </dev/null >/dev/null 2>&1 9>&- &
    for _ in {1..100}; do [ -s "$dir/pid/ns.$1" ] && break; sleep 0.05; done
    mkdir -p "$dir/own/$1/tmp"
    chmod 1777 "$dir/own/$1/tmp"
    within "$1" mount --bind "$dir/own/$1" "$dir/here"
    within "$1" mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    within "$1" ip link set lo up
}
configure() {
    local index
    cat <<C
ClusterName=test
SlurmctldHost=head($subnet.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$dir/here/munge.sock
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
SlurmctldPidFile=$dir/pid/slurmctld
SlurmdPidFile=$dir/pid/slurmd.%n
SlurmctldLogFile=$dir/log/slurmctld
SlurmdLogFile=$dir/log/slurmd.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
# The PMIx plugin makes a folder here on each node and fails when another node has made it.
TmpFS=$dir/here/tmp
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
PlugStackConfig=$dir/etc/plugstack.conf
ReturnToService=2
MessageTimeout=20
KillWait=5
InactiveLimit=0
PropagateResourceLimits=NONE
C
    for ((index = 1; index <= nodes; index++)); do
        echo "NodeName=node$index NodeHostname=node$index NodeAddr=$subnet.$((10 + index)) CPUs=$cpus RealMemory=2000"
    done
    echo "PartitionName=test Nodes=node[1-$nodes] Default=YES MaxTime=30 State=UP"
}
up() {
    local node index=0 ready
    nodes=${NODES:-2} cpus=${CPUS:-4}
    umask 022
    mkdir -p "$dir"/{etc,pid,log,state,spool,here,own}
    if compgen -G "$dir/pid/*" >/dev/null; then echo "slurm.sh: $dir is in use; run slurm.sh down $dir" >&2; exit 1; fi
    trap down ERR
    dd if=/dev/urandom of="$dir/etc/munge.key" bs=128 count=1 status=none
    chmod 600 "$dir/etc/munge.key"
    printf '127.0.0.1 localhost\n%s.1 head\n' "$subnet" >"$dir/etc/hosts"
    : >"$dir/etc/plugstack.conf"
    configure >"$SLURM_CONF"
    hold head
    within head ip link add br0 type bridge
    within head ip addr add "$subnet.1/24" dev br0
    within head ip link set br0 up
    for ((index = 1; index <= nodes; index++)); do
        node=node$index
        hold "$node"
        within head ip link add "v$node" type veth peer name eth0 netns "$(cat "$dir/pid/ns.$node")"
        within head ip link set "v$node" master br0 up
        within "$node" ip addr add "$subnet.$((10 + index))/24" dev eth0
        within "$node" ip link set eth0 up
        echo "$subnet.$((10 + index)) $node" >>"$dir/etc/hosts"
    done
    for node in head $(seq -f 'node%g' "$nodes"); do
        within "$node" mount --bind "$dir/etc/hosts" /etc/hosts
        within "$node" munged --num-threads=2 --key-file="$dir/etc/munge.key" --socket="$dir/here/munge.sock" \
            --pid-file="$dir/pid/munged.$node" --log-file="$dir/log/munged.$node" --seed-file="$dir/own/$node/seed"
    done
    within head slurmctld -f "$SLURM_CONF"
    for node in $(seq -f 'node%g' "$nodes"); do
        mkdir -p "$dir/spool/$node"
        within "$node" slurmd -f "$SLURM_CONF" -N "$node"
    done
    for _ in {1..120}; do
        ready=$(within head sinfo -h -N -o %t 2>/dev/null | grep -c '^idle' || true)
        [ "$ready" = "$nodes" ] && return 0
        sleep 0.25
    done
    tail -n 20 "$dir"/log/* >&2
    down
    exit 1
}
down() {
    local file mine space holders=' ' spaces=' ' found pid
    [ -d "$dir/pid" ] || return 0
    for file in "$dir"/pid/slurmd.* "$dir/pid/slurmctld" "$dir"/pid/munged.*; do end "$file"; done
    # A step's daemon can outlive its node's. What still runs in a namespace of ours is ours.
    mine=$(readlink /proc/self/ns/net)
    for file in "$dir"/pid/ns.*; do
        if [ -s "$file" ] && living "$(cat "$file")"; then
            space=$(readlink "/proc/$(cat "$file")/ns/net" || true)
            holders+="$(cat "$file") "
            [ "$space" = "$mine" ] || spaces+="$space "
        fi
    done
    for found in /proc/[0-9]*; do
        pid=${found#/proc/}
        space=$(readlink "$found/ns/net" 2>/dev/null || true)
        [ -n "$space" ] || continue
        case $spaces in *" $space "*) case $holders in *" $pid "*) ;; *) kill -KILL "$pid" 2>/dev/null || true ;; esac ;; esac
    done
    for file in "$dir"/pid/ns.*; do end "$file"; done
}
case $verb in
    up) up ;;
    down) down ;;
    as)
        user=$3
        shift 3
        within head setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --reset-env -- \
            env SLURM_CONF="$SLURM_CONF" "$@"
        ;;
    *) echo "slurm.sh: no such verb: $verb" >&2; exit 2 ;;
esac

#!/usr/bin/env bash
# One training stage, or another verb that ranks share, under torchrun: run it on every machine; they find each other.
#
#   launchers/torchrun.sh RECIPE --stage STAGE --nodes N --master_addr A [--ranks R] [--master_port P] [--restarts K]
#                         [--node_rank I] [--interface NAME] [--no-preflight] [key=value ...] [--debug] [--dry-run]
#   launchers/torchrun.sh RECIPE --verb VERB [the same]
#
# N: machines; R: ranks on each (default: its GPUs, or 1); A: a name or address of one of the machines, where all of them
# meet, at port P (default 29500). I: this machine's number, 0 for that of A; needed where A is a name that this machine
# does not know as its own. --restarts: how often torchrun starts all ranks again when one of them fails; they go on from
# the newest checkpoint. Ranks that are told to stop (TERM or USR1 to this process, on any machine) write a checkpoint and
# are not started again, and this script ends with 85, on every machine.
# --interface: the network that NCCL and gloo take. --no-preflight: train without looking at the hosts first.
# --dry-run prints the command, quoted for a shell, and runs nothing.
# VERB: doctor (look at the hosts), precompute, prepare, align, synthesize, select, measure or evaluate (the last two with
# --checkpoint C).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

read_arguments "--nodes --ranks --master_addr --master_port --restarts --node_rank" "$@"
find_programs
NODES=${NODES:-1}
((NODES == 1)) || [[ -n $MASTER_ADDR_OPTION ]] || fail "$NODES machines need --master_addr" "name one of them"
if [[ -z $RANKS ]]; then
    RANKS=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true
    ((RANKS > 0)) || RANKS=1
fi

[[ -z $NODE_RANK ]] || ((NODE_RANK < NODES)) || fail "--node_rank is $NODE_RANK, of $NODES machines" "count from 0"

# The id keeps this job's ranks apart from those of another one that meets at the same place.
COMMAND=("$ENVIRONMENT_PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$RANKS" --rdzv-backend c10d
    --rdzv-endpoint "${MASTER_ADDR_OPTION:-127.0.0.1}:${MASTER_PORT_OPTION:-29500}" --rdzv-id "salad-ds-${WORK[0]}-${STAGE:-all}"
    --max-restarts "${RESTARTS:-0}")
[[ -z $NODE_RANK ]] || COMMAND+=(--rdzv-conf "is_host=$((NODE_RANK == 0))")
COMMAND+=(--module salad_ds "${WORK[@]}")
show_only

# torchrun takes every exit code but 0 for a failure, and would start the ranks again: told to stop, they end with 0 and
# leave this file.
SALAD_DS_STOPPED=$(mktemp -u "${TMPDIR:-/tmp}/salad-ds-stopped.XXXXXXXXXX")
export SALAD_DS_STOPPED TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-300}
RESTARTS=0  # those are torchrun's

# The ranks, not torchrun: told itself, it would leave the other machines' waiting for it, for five minutes.
tell() {
    local ranks
    mapfile -t ranks < <(pgrep -P "$1")
    ((${#ranks[@]})) || ranks=("$1")
    kill -TERM "${ranks[@]}"
    (
        while kill -0 "${ranks[@]}" 2>/dev/null; do sleep 0.2; done
        # Without that file they died of it, before they could listen, and would be started again.
        [[ -e $SALAD_DS_STOPPED ]] || kill -TERM "$1" 2>/dev/null
    ) &
}

launch_again

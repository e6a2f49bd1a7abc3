#!/usr/bin/env bash
# One training stage, or another verb that ranks share, under torchrun: run it on every machine; they find each other.
#
#   launchers/torchrun.sh RECIPE --stage STAGE --nodes N --master_addr A [--ranks R] [--master_port P] [--restarts K]
#                         [key=value ...] [--debug] [--dry-run]
#   launchers/torchrun.sh RECIPE --verb VERB [the same]
#
# N: machines; R: ranks on each (default: its GPUs, or 1); A: a name or address of one of the machines, where all of them
# meet, at port P (default 29500). --restarts: how often torchrun starts all ranks again when one of them fails; they go
# on from the newest checkpoint. --dry-run prints the command, quoted for a shell, and runs nothing.
# VERB: precompute, prepare, align, synthesize, select, measure or evaluate (the last two with --checkpoint C).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

read_arguments "--nodes --ranks --master_addr --master_port --restarts" "$@"
find_programs
NODES=${NODES:-1}
((NODES == 1)) || [[ -n $MASTER_ADDR_OPTION ]] || fail "$NODES machines need --master_addr" "name one of them"
if [[ -z $RANKS ]]; then
    RANKS=$(compgen -G '/dev/nvidia[0-9]*' | wc -l) || true
    ((RANKS > 0)) || RANKS=1
fi

# The id keeps this job's ranks apart from those of another one that meets at the same place.
COMMAND=("$ENVIRONMENT_PYTHON" -m torch.distributed.run --nnodes "$NODES" --nproc-per-node "$RANKS" --rdzv-backend c10d
    --rdzv-endpoint "${MASTER_ADDR_OPTION:-127.0.0.1}:${MASTER_PORT_OPTION:-29500}" --rdzv-id "salad-ds-${WORK[0]}-${STAGE:-all}"
    --max-restarts "${RESTARTS:-0}" --module salad_ds "${WORK[@]}")
launch

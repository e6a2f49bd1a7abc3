#!/usr/bin/env bash
# One training stage, or another verb that ranks share, on Kubernetes: torchrun.sh in every pod of a JobSet or PyTorchJob.
#
#   launchers/kubernetes.sh RECIPE --stage STAGE --image IMAGE --claim CLAIM [--nodes N] [--ranks R] [--kind KIND] [--name NAME]
#                           [--grace SECONDS] [--restarts K] [--interface NAME] [--no-preflight] [key=value ...] [--debug]
#                           [--dry-run]
#   launchers/kubernetes.sh RECIPE --verb VERB [the same]
#
# IMAGE has this repository at /salad_ds, where RECIPE is looked for, and its environment active. CLAIM: a volume claim that
# all pods can write (ReadWriteMany), mounted at /salad_ds/runs, so workdir must lie there, as in every recipe here.
# N: machines (1). R: GPUs on each, one rank per GPU (8). KIND: jobset (default) or pytorchjob. NAME: of the job (salad).
# --grace: seconds for a checkpoint when a pod is told to stop (300). --restarts: how often torchrun starts the ranks again.
# --interface: the network that NCCL and gloo take. --no-preflight: train without looking at the hosts first.
# --dry-run prints the manifest instead of handing it to kubectl. By hand: launchers/kubernetes/*.yaml.
# VERB: doctor (look at the hosts), precompute, prepare, align, synthesize, select, measure or evaluate (the last two with
# --checkpoint C).
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launchers/common.sh
source "$HERE/common.sh"

KIND=jobset NAME=salad IMAGE="" CLAIM="" GRACE=300 WORDS=() OWN="--nodes --ranks --restarts"
while (($#)); do  # this launcher's options; the others are torchrun.sh's
    if [[ $1 == --*=* ]]; then
        set -- "${1%%=*}" "${1#*=}" "${@:2}"
    fi
    case $1 in
        --kind | --name | --image | --claim | --grace)
            [[ $# -gt 1 && $2 != --* ]] || fail "$1 has no value" "see $0 --help"
            case $1 in
                --kind) KIND=$2 ;;
                --name) NAME=$2 ;;
                --image) IMAGE=$2 ;;
                --claim) CLAIM=$2 ;;
                --grace) GRACE=$2; is_number "$1" "$2" ;;
            esac
            shift ;;
        *) WORDS+=("$1") ;;
    esac
    shift
done
read_arguments "$OWN" "${WORDS[@]}"
[[ $KIND == jobset || $KIND == pytorchjob ]] || fail "--kind is '$KIND'" "it is jobset or pytorchjob"
# Pods add -workers-0-I or -worker-I, and all of it may have 63 characters.
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] || fail "--name is '$NAME'" "take at most 40 small letters, digits and -"
[[ -n $IMAGE ]] || fail "no image was given" "add --image IMAGE, with this repository at /salad_ds and its environment"
[[ -n $CLAIM ]] || fail "no volume claim was given" "add --claim CLAIM, a ReadWriteMany one for /salad_ds/runs"
find_programs

INSIDE=()  # what read_arguments has checked, less what the manifest says itself
for ((i = 0; i < ${#WORDS[@]}; i++)); do
    case ${WORDS[i]} in
        --nodes | --ranks) i=$((i + 1)) ;;
        --nodes=* | --ranks=* | --dry-run) ;;
        *) INSIDE+=("${WORDS[i]}") ;;
    esac
done
MANIFEST=$("$ENVIRONMENT_PYTHON" "$HERE/kubernetes/render.py" "$KIND" "$NAME" "$IMAGE" "$CLAIM" "${NODES:-1}" "${RANKS:-8}" \
    "$GRACE" "${INSIDE[@]}")
if [[ -n $DRY_RUN ]]; then
    printf '%s\n' "$MANIFEST"
    exit 0
fi
command -v kubectl >/dev/null || fail "there is no kubectl" "install it, or take what --dry-run prints elsewhere"
kubectl create -f - <<<"$MANIFEST"

# What the launchers share: arguments, the environment, and how a command is shown or started. Sourced, never run.
# shellcheck shell=bash disable=SC2034

fail() {  # what, mend
    printf '%s: %s\n' "$(basename "$0")" "$1" >&2
    [[ $# -lt 2 ]] || printf '  mend: %s\n' "$2" >&2
    exit 2
}

usage() {  # the comment at the head of the launcher
    sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0"
}

is_number() {  # option, value, least: 1 unless given
    [[ $2 =~ ^(0|[1-9][0-9]*)$ && $2 -ge ${3:-1} ]] || fail "$1 is '$2', not a number of at least ${3:-1}" "see $0 --help"
}

# What ranks are told by variables; launchers that start them through another machine's shell take these along.
PROPAGATED='^(NCCL|GLOO_|TORCH_NCCL|PYTORCH_|UCX_|MLFLOW|HF_|OMP_|CUDA_VISIBLE|DS_ACCELERATOR|SALAD_DS)'
STOPPED=85  # what a rank that was told to stop ends with, after its checkpoint (salad_ds/train/stop.py)

# read_arguments "OPTIONS THIS LAUNCHER TAKES" "$@"
# Sets RECIPE STAGE RANKS HOSTFILE MASTER_ADDR_OPTION MASTER_PORT_OPTION NODES NODE_RANK RESTARTS NO_SSH DRY_RUN, PASSED: the
# overrides, and WORK: what salad_ds is called with, such as (train RECIPE key=value --stage STAGE --preflight).
# --interface NAME becomes NCCL_SOCKET_IFNAME and GLOO_SOCKET_IFNAME.
read_arguments() {
    local known=" $1 --stage --checkpoint --verb --interface " option verb=train checkpoint="" preflight=yes
    shift
    RECIPE="" STAGE="" RANKS="" HOSTFILE="" MASTER_ADDR_OPTION="" MASTER_PORT_OPTION="" NODES="" NODE_RANK="" RESTARTS=""
    NO_SSH="" DRY_RUN="" PASSED=()
    while (($#)); do
        option=${1%%=*}
        if [[ $1 == --*=* ]]; then  # --stage=stage1 is --stage stage1
            set -- "$option" "${1#*=}" "${@:2}"
        fi
        case $1 in
            -h | --help) usage; exit 0 ;;
            --dry-run) DRY_RUN=yes ;;
            --debug) PASSED+=(--debug) ;;
            --no-preflight) preflight="" ;;
            --no_ssh)
                [[ $known == *" $1 "* ]] || fail "there is no option $1" "see $0 --help"
                NO_SSH=yes ;;
            --*)
                [[ $known == *" $1 "* ]] || fail "there is no option $1" "see $0 --help"
                [[ $# -gt 1 && $2 != --* ]] || fail "$1 has no value" "see $0 --help"
                case $1 in
                    --stage) STAGE=$2 ;;
                    --checkpoint) checkpoint=$2 ;;
                    --verb) verb=$2 ;;
                    --interface)
                        [[ $2 =~ ^[A-Za-z0-9_.:-]+$ ]] || fail "--interface is '$2', not the name of one" "ip -brief address lists them"
                        export NCCL_SOCKET_IFNAME="=$2" GLOO_SOCKET_IFNAME=$2 ;;
                    --ranks) RANKS=$2; is_number "$1" "$2" ;;
                    --nodes) NODES=$2; is_number "$1" "$2" ;;
                    --node_rank) NODE_RANK=$2; is_number "$1" "$2" 0 ;;
                    --restarts) RESTARTS=$2; is_number "$1" "$2" 0 ;;
                    --hostfile) HOSTFILE=$2 ;;
                    --master_addr) MASTER_ADDR_OPTION=$2 ;;
                    --master_port) MASTER_PORT_OPTION=$2; is_number "$1" "$2" ;;
                esac
                shift ;;
            *=*) PASSED+=("$1") ;;
            *)
                [[ -z $RECIPE ]] || fail "'$1' is neither an option nor key=value, and the recipe is $RECIPE" \
                    "write overrides as key.sub=value"
                RECIPE=$1 ;;
        esac
        shift
    done
    [[ -n $RECIPE ]] || fail "no recipe was given" "see $0 --help"
    [[ -f $RECIPE ]] || fail "recipe $RECIPE does not exist" "give the path of a YAML recipe"
    WORK=("$verb" "$RECIPE" "${PASSED[@]}")
    case $verb in
        train)
            [[ -n $STAGE ]] || fail "no stage was given" "add --stage stage1"
            WORK+=(--stage "$STAGE")
            [[ -z $preflight ]] || WORK+=(--preflight) ;;
        doctor)
            WORK=(doctor --cluster "$RECIPE" "${PASSED[@]}")
            [[ -z $STAGE ]] || WORK+=(--stage "$STAGE") ;;
        measure | evaluate) [[ -z $checkpoint ]] || WORK+=(--checkpoint "$checkpoint") ;;
        precompute | prepare | align | synthesize | select) ;;
        *) fail "--verb is '$verb', which is not done by several ranks" "the other verbs are not launched: salad-ds $verb" ;;
    esac
    [[ $verb == train || $verb == doctor || -z $STAGE ]] || fail "$verb has no stages" "leave --stage out"
    [[ $verb == measure || $verb == evaluate || -z $checkpoint ]] || fail "$verb takes no --checkpoint" "leave it out"
}

find_programs() {  # the environment that is active; else the one that `make setup` made. Sets ENVIRONMENT_PYTHON
    if [[ -z ${VIRTUAL_ENV:-} && -x $HERE/../.venv/bin/deepspeed ]]; then
        PATH=$(cd "$HERE/../.venv/bin" && pwd):$PATH
        export PATH
    fi
    command -v deepspeed >/dev/null || fail "there is no deepspeed on the PATH" "make setup, or activate your environment"
    ENVIRONMENT_PYTHON=$(dirname "$(command -v deepspeed)")/python
    [[ -x $ENVIRONMENT_PYTHON ]] || ENVIRONMENT_PYTHON=python3
}

ranks_of_recipe() {  # of the stage; of the widest one where none was given
    "$ENVIRONMENT_PYTHON" - "$RECIPE" "$STAGE" "${PASSED[@]}" <<'PYTHON'
import sys

from salad_ds.config import load_recipe
from salad_ds.errors import SaladError

path, stage, *overrides = sys.argv[1:]
try:
    recipe = load_recipe(path, [text for text in overrides if text != "--debug"])
    if stage and stage not in recipe.stages:
        raise SaladError(f"{path} has no stage {stage!r}", f"its stages are {', '.join(recipe.stages) or 'none'}")
except SaladError as error:
    sys.exit(f"{error.what}" + (f"\n  mend: {error.mend}" if error.mend else ""))
chosen = [recipe.stages[stage]] if stage else recipe.stages.values()
print(max((settings.ranks for settings in chosen), default=1))
PYTHON
}

show() {  # WORDS ...: the command, quoted for a shell
    printf '%q' "$1"
    printf ' %q' "${@:2}"
    printf '\n'
}

without_gpu() {
    ! compgen -G '/dev/nvidia[0-9]*' >/dev/null && [[ ! -e /dev/dxg && ! -e /dev/kfd ]]
}

show_only() {  # COMMAND, where that was asked for
    [[ -n $DRY_RUN ]] || return 0
    [[ -z ${GLOO_SOCKET_IFNAME:-} ]] || printf 'with GLOO_SOCKET_IFNAME=%s NCCL_SOCKET_IFNAME=%s\n' \
        "$GLOO_SOCKET_IFNAME" "${NCCL_SOCKET_IFNAME:-}" >&2
    show "${COMMAND[@]}"
    exit 0
}

tell() {  # PROCESS: tell the job that it was started as to stop; some launchers have another way
    kill -TERM "$1"
}

# RESTARTS times, while the job fails. One that was told to stop (this process by TERM, INT or USR1, or its ranks) is not
# started again: it ends with 85 if its ranks have written a checkpoint.
launch_again() {
    local code tries=${RESTARTS:-0} told="" job=""
    show_only
    without_gpu && export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}  # else each process looks, and says what it found
    trap 'told=yes; [[ -z $job ]] || tell "$job" 2>/dev/null || true' TERM INT USR1
    while :; do
        "${COMMAND[@]}" &
        job=$!
        code=0
        wait "$job" || code=$?
        while kill -0 "$job" 2>/dev/null; do  # a signal ends `wait` before the job
            code=0
            wait "$job" || code=$?
        done
        job=""
        if [[ -n ${SALAD_DS_STOPPED:-} && -e $SALAD_DS_STOPPED ]]; then
            rm -f "$SALAD_DS_STOPPED"
            code=$STOPPED
        fi
        [[ -z $told || $code -ne 0 ]] || code=143  # `deepspeed` says 0 of a child that died of a signal
        if ((code == 0 || code == STOPPED || tries == 0)) || [[ -n $told ]]; then
            exit "$code"
        fi
        tries=$((tries - 1))
        printf '%s: ended with exit code %s; starting again from its newest checkpoint (%s more times)\n' \
            "$(basename "$0")" "$code" "$tries" >&2
        sleep 5
        [[ -z $told ]] || exit "$code"
    done
}

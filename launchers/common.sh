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

is_number() {  # option, value
    [[ $2 =~ ^[1-9][0-9]*$ ]] || fail "$1 is '$2', not a number above 0" "see $0 --help"
}

# read_arguments "OPTIONS THIS LAUNCHER TAKES" "$@"
# Sets RECIPE STAGE RANKS HOSTFILE MASTER_ADDR_OPTION MASTER_PORT_OPTION DRY_RUN, PASSED: the overrides, and WORK: what
# salad_ds is called with, such as (train RECIPE key=value --stage STAGE).
read_arguments() {
    local known=" $1 --stage --verb " option verb=train
    shift
    RECIPE="" STAGE="" RANKS="" HOSTFILE="" MASTER_ADDR_OPTION="" MASTER_PORT_OPTION="" DRY_RUN="" PASSED=()
    while (($#)); do
        option=${1%%=*}
        if [[ $1 == --*=* ]]; then  # --stage=stage1 is --stage stage1
            set -- "$option" "${1#*=}" "${@:2}"
        fi
        case $1 in
            -h | --help) usage; exit 0 ;;
            --dry-run) DRY_RUN=yes ;;
            --debug) PASSED+=(--debug) ;;
            --*)
                [[ $known == *" $1 "* ]] || fail "there is no option $1" "see $0 --help"
                [[ $# -gt 1 && $2 != --* ]] || fail "$1 has no value" "see $0 --help"
                case $1 in
                    --stage) STAGE=$2 ;;
                    --verb) verb=$2 ;;
                    --ranks) RANKS=$2 ;;
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
            WORK+=(--stage "$STAGE") ;;
        precompute) [[ -z $STAGE ]] || fail "precompute has no stages: it reads the texts of all" "leave --stage out" ;;
        *) fail "--verb is '$verb', not train or precompute" "the other verbs are not launched: salad-ds $verb" ;;
    esac
}

find_deepspeed() {  # the environment that is active; else the one that `make setup` made
    if [[ -z ${VIRTUAL_ENV:-} && -x $HERE/../.venv/bin/deepspeed ]]; then
        PATH=$(cd "$HERE/../.venv/bin" && pwd):$PATH
        export PATH
    fi
    command -v deepspeed >/dev/null || fail "there is no deepspeed on the PATH" "make setup, or activate your environment"
    DEEPSPEED_PYTHON=$(dirname "$(command -v deepspeed)")/python
    [[ -x $DEEPSPEED_PYTHON ]] || DEEPSPEED_PYTHON=python3
}

ranks_of_recipe() {  # of the stage; of the widest one where none was given
    "$DEEPSPEED_PYTHON" - "$RECIPE" "$STAGE" "${PASSED[@]}" <<'PYTHON'
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

launch() {  # COMMAND, shown or started in this process's place
    if [[ -n $DRY_RUN ]]; then
        printf '%q' "${COMMAND[0]}"
        printf ' %q' "${COMMAND[@]:1}"
        printf '\n'
        exit 0
    fi
    # Without a GPU: DeepSpeed is told so (else each process looks, and says what it found).
    if ! compgen -G '/dev/nvidia[0-9]*' >/dev/null && [[ ! -e /dev/dxg && ! -e /dev/kfd ]]; then
        export DS_ACCELERATOR=${DS_ACCELERATOR:-cpu}
    fi
    exec "${COMMAND[@]}"
}

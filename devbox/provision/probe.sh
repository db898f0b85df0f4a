# The probe run, after the prelude and the settings of the run: facts, journal, a run in progress, and then each
# step's state. Everything is framed by lines that begin with the nonce; nothing here changes anything.
frame() { printf '%s %s\n' "$nonce" "$*"; }

print_facts() {
  frame facts
  [ ! -r /etc/os-release ] || while IFS='=' read -r name value; do
    value=${value#[\"\']} value=${value%[\"\']}
    case $name in
      ID) field os "$value" ;;
      ID_LIKE) field like "$value" ;;
      VERSION_ID) field version "$value" ;;
      VERSION_CODENAME) field codename "$value" ;;
    esac
  done </etc/os-release
  value=''
  [ ! -r /proc/sys/kernel/arch ] || read -r value </proc/sys/kernel/arch  # since Linux 6.1
  field arch "${value:-$(uname -m)}"
  field init "$init"
  field manager "$manager"
  frame volatile
  if read -r value </proc/sys/kernel/random/boot_id; then field boot "$value"; fi
}

print_journal() {
  frame journal
  [ -d "$journal" ] || return 0
  set +f
  set -- "$journal"/*
  set -f
  for path do
    shift
    case $path in
      *.pending) value=''; read -r value <"$path"; field pending "${path##*/} $value" ;;
      *'/*') ;;
      *) set -- "$@" "$path" ;;
    esac
  done
  [ $# = 0 ] || cat -- "$@"
}

# The run that is going on, if there is one: its id is its nonce too.
print_running() {
  frame running
  [ ! -e "$base/current" ] || {
    read -r value <"$base/current"
    if is_held; then printf '%s\n' "$value"; fi
  }
}

# Prints the state of step $1 as `probe` says it, and how the probe ended. Not in a subshell, for the sake of its 7 ms.
look() {
  frame state "$1"
  probe </dev/null 2>/dev/null
  frame ended "$1" $?
}

# Prints the text that step $1 would make of its file, where `preview` can tell it.
previewed() {
  value=$(preview </dev/null 2>/dev/null) || return 0
  frame new "$1"
  printf '%s\n' "$value"
}

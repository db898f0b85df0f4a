# apk: what is asked for is written into its world file, so a version that is asked for stays.
refresh() { patiently apk --wait 300 update; }
install() { patiently apk --wait 300 add "$@"; }
upgrade() { patiently apk --wait 300 add --upgrade "$@"; }
remove() { patiently apk --wait 300 del "$@"; }
# `~` takes every version that begins so; an exact one has its release, too.
spec() {
  begin=${2%"*"}
  case $begin in
    *[*?[]*) fail "$1=$2: apk takes a pattern only with its \`*\` at the end." ;;
    "$2") case $2 in *-r[0-9]*) printf '%s=%s' "$1" "$2" ;; *) printf '%s~%s' "$1" "$2" ;; esac ;;
    *) begin=${begin%-r} begin=${begin%[.-]}; printf '%s~%s' "$1" "$begin" ;;
  esac
}
is_locked() { return 1; }  # it waits by itself
explain() {
  [ -r "$etc/apk/world" ] || return 0
  while IFS= read -r line; do
    case $line in *[=~\<\>]*) ;; *) continue ;; esac
    case " $names " in *" ${line%%[=~<>]*} "*) printf 'The world file of apk in the guest asks for %s.\n' "$line" >&2 ;; esac
  done <"$etc/apk/world"
}
prepare() { :; }

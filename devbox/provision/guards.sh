# Kills a guard whose time is over: $1 is the shell whose guards these are, $2 their limit in seconds. Ends with that
# shell, or soon after it.
set -f

# Sets $parent to the parent of a process; the name of its program, in parentheses, may hold anything.
parent_of() {
  parent=''
  read -r parent <"/proc/$1/stat" || return 1
  parent=${parent##*') '} parent=${parent#* } parent=${parent%% *}
}

# Kills a process and all that comes from it and has not been left to itself, whatever group or session it is in: `su`
# makes one of its own. Stopped first, so that none starts another meanwhile. A guard only looks: no TERM, no grace.
end_tree() {
  tree=" $1 " grown=1
  while [ -n "$grown" ]; do
    kill -STOP $tree
    grown=''
    set +f
    set -- /proc/[0-9]*
    set -f
    for path do
      path=${path#/proc/}
      parent_of "$path" || continue
      case $tree in
        *" $path "*) ;;
        *" $parent "*) tree="$tree$path " grown=1 ;;
      esac
    done
  done
  kill -KILL $tree
}

seen='' pause=$(($2 / 12))
[ $pause != 0 ] || pause=1
while sleep $pause; do
  parent_of self
  [ "$parent" = "$1" ] || exit 0
  if ! read -r guard rest <"/proc/$1/fd/8"; then seen=''; continue; fi
  read -r now rest </proc/uptime
  now=${now%.*}
  [ "$guard" = "$seen" ] || seen=$guard since=$now
  [ $((now - since)) -le "$2" ] || end_tree "$guard"
done

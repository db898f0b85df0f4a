# What every package manager does for a `packages` step. Before it stand the step's lists (names, present, absent,
# latest, index) and the functions of one manager: prepare, refresh, install, upgrade, remove, spec, is_locked, explain.

# Runs a package manager, and again while another program holds its lock, for up to five minutes of the whole step;
# sets status.
attempt=0
patiently() {
  while :; do
    { status=0; "$@" || status=$?; printf '%s\n' $status >"$files/status"; } 2>&1 | tee "$files/said"
    read -r status <"$files/status"
    [ "$status" != 0 ] || return 0
    said=$(cat "$files/said")
    [ $attempt -lt 100 ] && is_locked || return "$status"
    [ $attempt != 0 ] || echo "Another program holds the lock of $manager; waiting for it…"
    attempt=$((attempt + 1))
    sleep 3
  done
}

give_up() { explain; fail "$1"; }

fresh=''
# The mark that the index is new is made only when it is.
refresh_once() {
  [ -z "$fresh" ] || return 0
  fresh=1
  if refresh; then mkdir -p "$state" && : >"$state/index"
  elif [ -n "$index" ]; then give_up 'The package index could not be refreshed.'
  else echo 'The package index could not be refreshed; going on with the old one.'; fi
}

# try install|upgrade NAME…
try() {
  index_is_fresh || refresh_once
  "$@" && return 0
  # An index that is fresh by its age may still name files that the mirror has replaced.
  [ -z "$fresh" ] || give_up "$manager could not $1 the packages."
  echo 'Trying again with a new index…'
  refresh_once
  "$@" || give_up "$manager could not $1 the packages."
}

prepare
[ -z "$index" ] || index_is_fresh || refresh_once
load_packages $names
gone=''
for name in $absent; do ! package_version "$name" || gone="$gone $name"; done
if [ -n "$gone" ] && [ "$manager" != apt ]; then
  remove $gone || give_up "$manager could not remove the packages."
  load_packages $names  # some take what nothing else needs with it
  gone=''
fi
set --
versioned=''
for wanted in $present; do
  name=${wanted%%=*} wanted=${wanted#"${wanted%%=*}"} wanted=${wanted#=}
  if [ -z "$wanted" ]; then
    package_is_present "$name" || set -- "$@" "$name"
  elif ! package_fits "$name" "$wanted"; then
    versioned=1
    index_is_fresh || refresh_once  # which version fits is looked up there
    word=$(spec "$name" "$wanted")
    set -- "$@" "$word"
  fi
done
newer=''
if [ -n "$latest" ]; then
  load_candidates $latest
  [ "$candidates" != '?' ] || { refresh_once; load_candidates $latest; }
  for name in $latest; do
    if ! package_version "$name"; then set -- "$@" "$name"
    elif ! package_is_latest "$name"; then newer="$newer $name"; fi
  done
fi
if [ "$manager" = apt ]; then
  if [ $# != 0 ] || [ -n "$newer" ]; then
    set -- "$@" $newer
    for name in $gone; do set -- "$@" "$name-"; done
    gone='' newer=''
  fi
  [ -z "$gone" ] || remove $gone || give_up 'apt could not remove the packages.'
fi
[ $# = 0 ] || try install "$@"
[ -z "$newer" ] || try upgrade $newer

# Some managers succeed without having done what was asked.
load_packages $names
for wanted in $present; do
  name=${wanted%%=*} wanted=${wanted#"${wanted%%=*}"} wanted=${wanted#=}
  if [ -z "$wanted" ]; then
    package_is_present "$name" || give_up "$name is still not installed. Name packages here, not groups of them."
  elif ! package_fits "$name" "$wanted"; then
    package_version "$name" || version='not installed'
    give_up "$name is $version: none of the guest's repositories offers the version $wanted."
  fi
done
for name in $absent; do ! package_version "$name" || give_up "$name is still installed."; done

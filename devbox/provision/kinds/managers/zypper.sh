# zypper: its exit status tells more than success, and it takes no patterns in versions.
export ZYPP_LOCK_TIMEOUT=300
zypp() {
  patiently zypper --non-interactive "$@" && return 0
  case $status in
    102) echo 'This asks for a reboot of the guest.' ;;
    103) echo 'This has changed zypper itself.' ;;
    *) return "$status" ;;
  esac
}
refresh() { zypp refresh; }
# 106 says that a repository could not be refreshed and was left out: whether it mattered is seen afterwards.
install() { zypp install ${lean:+--no-recommends} --auto-agree-with-licenses ${versioned:+--oldpackage} "$@" || [ "$status" = 106 ]; }
upgrade() { zypp update --auto-agree-with-licenses "$@" || [ "$status" = 106 ]; }
remove() { zypp remove "$@" || [ "$status" = 104 ]; }  # 104: there is none
spec() {
  case $2 in *[*?[]*) ;; *) printf '%s=%s' "$1" "$2"; return ;; esac
  # `  | name | package | version | arch | repository`, the newest first
  zypper --non-interactive --no-refresh -q search -s -t package --match-exact -- "$1" 2>/dev/null >"$files/offered" || :
  while IFS='|' read -r _ _ _ offered _; do
    offered=${offered#" "} offered=${offered%%" "*}
    if [ -n "$offered" ] && version_fits "$offered" "$2"; then printf '%s=%s' "$1" "$offered"; return; fi
  done <"$files/offered"
  printf '%s' "$1"
}
is_locked() { [ "$status" = 7 ]; }
explain() {
  case $status in
    4) echo 'zypper found no way to have all of these at once.' >&2 ;;
    104) echo 'None of the repositories of the guest has a package by one of these names.' >&2 ;;
    106) echo 'A repository could not be refreshed and was left out.' >&2 ;;
    107) echo 'The packages are there, but a script of one of them has failed.' >&2 ;;
  esac
}
prepare() { :; }

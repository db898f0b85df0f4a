# Of a checkout, both in the probe and in the action, as the step's account. $1 dest, $2 url, $3 ref ("" is the default
# branch), then "1" or "" for: submodules, force, update.
dest=$1 url=$2 ref=$3 submodules=$4 force=$5 update=$6
export GIT_TERMINAL_PROMPT="${GIT_TERMINAL_PROMPT:-0}" GIT_OPTIONAL_LOCKS=0
# Never the repository that $dest may lie in.
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

# Sets default (the default branch), sort (branch, tag, commit) and commit by what the remote says.
ask_remote() {
  remote=$(git ls-remote --symref "$url" HEAD "refs/heads/$ref" "refs/tags/$ref" "refs/tags/$ref^{}") || return 1
  remote=$nl$remote$nl default='' sort='' commit=''
  case $remote in *"${nl}ref: refs/heads/"*) default=${remote#*"${nl}ref: refs/heads/"} default=${default%%	*} ;; esac
  if [ -n "$ref" ]; then
    find_remote branch "refs/heads/$ref" || find_remote tag "refs/tags/$ref^{}" || find_remote tag "refs/tags/$ref" ||
      { is_hexadecimal && sort=commit commit=$ref; } || :
  elif find_remote branch HEAD; then
    ref=$default
    [ -n "$ref" ] || sort=commit ref=$commit  # its HEAD is no branch
  fi
}

find_remote() {
  case $remote in *"	$2$nl"*) ;; *) return 1 ;; esac
  sort=$1 commit=${remote%"	$2$nl"*} commit=${commit##*"$nl"}
}

is_hexadecimal() { case $ref in *[!0-9a-f]*) return 1 ;; ???????*) ;; *) return 1 ;; esac; }

# Sets commit to what is known here of $ref.
ask_here() {
  commit=''
  branch=refs/remotes/origin/${ref:-HEAD} tag=refs/tags/$ref
  known=$nl$(git for-each-ref --format='%(refname) %(objectname) %(*objectname)' "$branch" "$tag")$nl
  for name in "$branch" "$tag"; do
    case $known in
      *"$nl$name "*)
        commit=${known#*"$nl$name "} commit=${commit%%"$nl"*}
        commit=${commit% } commit=${commit##* }
        return
        ;;
    esac
  done
  ! is_hexadecimal || commit=$ref
}

look() {
  command -v git >/dev/null && [ -e "$dest/.git" ] && cd "$dest" || return 0
  head=$(git rev-parse -q --verify HEAD) || return 0
  field url "$(git config remote.origin.url)"
  asked=${ref:-the default branch}
  if [ -n "$update" ]; then ask_remote || return 1; else ask_here; fi
  if [ -e .git/devbox-checkout ]; then field ref "$head (cut off half-way)"  # else a later run would go over new work
  else case $head in "${commit:-none}"*) field ref "$asked" ;; *) field ref "$head" ;; esac; fi
  if [ -n "$submodules" ]; then
    case $nl$(git submodule status --recursive) in *"$nl"[-+U]*) field submodules different ;; *) field submodules ready ;; esac
  fi
  if [ -n "$force" ]; then
    if [ -z "$(git status --porcelain -uno)" ]; then field tree clean; else field tree changed; fi
  fi
}

# After git.sh. $7: depth, "" for all.
have git || fail 'git is not installed in this machine; add `packages: [git]` in an earlier step.'
depth=$7
ask_remote || fail "$url cannot be read; what git says of it is above."
[ -n "$sort" ] || fail "$url has no branch or tag ${ref:-at all}."

bring() {
  if [ -z "$depth" ]; then git fetch -q --tags --force origin '+refs/heads/*:refs/remotes/origin/*'
  else
    case $sort in
      branch) git fetch -q --depth "$depth" origin "+refs/heads/$ref:refs/remotes/origin/$ref" ;;
      tag) git fetch -q --depth "$depth" origin "+refs/tags/$ref:refs/tags/$ref" ;;
      commit) git fetch -q --depth "$depth" origin "$ref" || git fetch -q --tags origin '+refs/heads/*:refs/remotes/origin/*' ;;
    esac
  fi
  ! git rev-parse -q --verify "refs/remotes/origin/${default:-.}" >/dev/null || git remote set-head origin "$default"
  case $sort in
    branch) place=refs/remotes/origin/$ref ;;
    tag) place=refs/tags/$ref ;;
    commit)
      place=$ref
      git cat-file -e "$ref^{commit}" 2>/dev/null || git fetch -q origin "$ref" || fail "$url has no commit $ref."
      ;;
  esac
  target=$(git rev-parse -q --verify "$place^{commit}") || fail "$url has no commit $ref."
}

# Shows $target in the folder. What refs/devbox names came from the remote, whatever becomes of its branches.
show() {
  : >"$mark"
  case $sort in
    branch) git checkout -q ${1:+"$1"} -B "$ref" "refs/remotes/origin/$ref" ;;
    *) git checkout -q ${1:+"$1"} --detach "$target" ;;
  esac
  git update-ref refs/devbox/checkout "$target"
  if [ -n "$submodules" ]; then
    git submodule sync -q --recursive
    git submodule update -q --init --recursive ${force:+--force} ${depth:+--depth "$depth"}
  fi
  rm -f "$mark"
}

# Whether the commit is one of the remote's, so that leaving it loses nothing.
is_known() { [ -n "$(git for-each-ref --count=1 --contains "$1" refs/remotes refs/tags refs/devbox)" ]; }

# Fails when the move to $target would lose work.
spare_work() {
  [ -z "$changes" ] || fail "$dest has changes that are not committed (commit or stash them, or set \`force\`):$nl$changes"
  [ -n "$known_head" ] || fail "$dest is at a commit that $url does not have (push it, or set \`force\`): $(git log -1 --format='%h %s')"
  [ -n "$known_branch" ] || fail "The branch $ref in $dest has commits that $url does not have (push them, or set \`force\`)."
}

begin() {
  git init -q "$1" && cd "$1" && git remote add origin "$url"
  git symbolic-ref HEAD refs/heads/devbox-has-not-finished
  mark=$(git rev-parse --git-dir)/devbox-checkout
}

if [ ! -e "$dest" ] && [ ! -L "$dest" ]; then
  aside=$dest.devbox-clone
  trap 'cd /; rm -rf "$aside"' EXIT
  rm -rf "$aside"
  mkdir -p "${dest%/*}/" "$aside" || fail "$(id -un) may not write in ${dest%/*}; make $dest for it in an earlier step, or use \`as: root\`."
  begin "$aside"
  bring
  show
  cd /
  mv "$aside" "$dest"
  exit 0
fi
[ -d "$dest" ] || fail "$dest is there and is not a folder."
if [ ! -e "$dest/.git" ]; then
  cd "$dest"
  [ -z "$(ls -A | grep -v '^\.devbox-clone$')" ] || fail "$dest is there, is not empty, and is not a checkout."
  rm -rf .devbox-clone
  begin .devbox-clone
  bring
  cd ..
  mv .devbox-clone/.git .git  # without a commit still, so that it is not taken for a finished one
  rmdir .devbox-clone
  mark=.git/devbox-checkout
  show -f
  exit 0
fi
cd "$dest"
mark=$(git rev-parse --git-dir)/devbox-checkout
head=$(git rev-parse -q --verify HEAD) || head=''
changes=$(git status --porcelain -uno | head -n 10) known_head=1 known_branch=1
[ -z "$head" ] || is_known "$head" || known_head=''
if [ "$sort" = branch ] && git rev-parse -q --verify "refs/heads/$ref" >/dev/null; then
  is_known "refs/heads/$ref" || known_branch=''
fi
[ "$(git config remote.origin.url)" = "$url" ] || git remote set-url origin "$url" 2>/dev/null || git remote add origin "$url"
bring
if [ -e "$mark" ] || [ -z "$head" ]; then
  rm -f "$(git rev-parse --git-dir)/index.lock"  # of a run that was cut off
  show -f
elif [ -n "$force" ]; then show -f
elif [ "$head" != "$target" ]; then
  spare_work
  show
elif [ -n "$submodules" ]; then show
fi

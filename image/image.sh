#!/usr/bin/env bash
# Build, run and push images with docker or podman, or with buildah if neither is running.
#
#   image/image.sh engine                              print the engine: docker, podman or buildah
#   image/image.sh build TAG [-f DOCKERFILE] [CONTEXT] [--build-arg NAME=VALUE]...
#   image/image.sh run [-v FROM:TO[:ro]] [-e NAME[=VALUE]]... [-w FOLDER] TAG COMMAND...
#   image/image.sh rm TAG
#   image/image.sh push TAG
#
# `run` tries an image with this machine's network, like docker's --network host.
#
# With buildah, commands run in a chroot as root, with a /dev/shm of 64 MB as with docker, and without limits
# of memory or network. No image is pulled: a base image that is not in the storage is replaced by a
# debootstrap tree of $SUITE (bookworm), which is correct for Debian bases only. This needs the Debian packages
# buildah, crun and debootstrap; the storage is $RAY_MR_IMAGE_STORE (/var/tmp/ray-mr-images).
set -euo pipefail

say() { echo "image.sh: $*" >&2; }
die() { say "$@"; exit 1; }

find_engine() {
  local name
  for name in docker podman; do
    if command -v "$name" >/dev/null && "$name" info >/dev/null 2>&1; then echo "$name"; return; fi
  done
  for name in buildah crun debootstrap; do
    command -v "$name" >/dev/null || die "docker and podman are not running, and $name is not installed:" \
      "apt-get install buildah crun debootstrap"
  done
  unshare --mount --pid --fork true 2>/dev/null ||
    die "docker and podman are not running, and buildah needs root with the right to create namespaces"
  echo buildah
}

# ---- buildah

store=${RAY_MR_IMAGE_STORE:-/var/tmp/ray-mr-images}
suite=${SUITE:-bookworm}
driver=overlay
authorities=/etc/ssl/certs/ca-certificates.crt

buildah_() {
  BUILDAH_ISOLATION=chroot buildah --root "$store/root" --runroot "$store/run" \
    --storage-driver "$driver" --registries-conf "$store/registries.conf" "$@"
}

prepare() {
  mkdir -p "$store"
  echo 'unqualified-search-registries = []' >"$store/registries.conf"
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$store/policy.json"
  exec 9>"$store/lock"
  flock 9
  if ! buildah_ info >/dev/null 2>&1; then driver=vfs; fi # overlay does not work on top of every file system
}

# NAME: create a local image with this name from a debootstrap tree, unless it exists.
stand_in() {
  local tree="$store/rootfs-$suite" container mirror
  if buildah_ inspect --type image "$1" >/dev/null 2>&1; then return; fi
  if [ ! -d "$tree" ]; then
    rm -rf "$tree.part"
    debootstrap --variant=minbase "$suite" "$tree.part" >"$store/debootstrap.log" ||
      { tail -5 "$store/debootstrap.log" >&2; die "debootstrap failed"; }
    rm -rf "$tree.part/var/cache/apt/archives"/*.deb
    mirror=$(sed -nE '1s/^deb +([^ ]+) .*/\1/p' "$tree.part/etc/apt/sources.list")
    printf 'deb %s %s main\n' "$mirror" "$suite" "$mirror" "$suite-updates" \
      "$mirror-security" "$suite-security" >"$tree.part/etc/apt/sources.list"
    mv "$tree.part" "$tree"
  fi
  container=$(buildah_ from scratch)
  buildah_ add -q "$container" "$tree" / >/dev/null
  buildah_ config --cmd /bin/bash "$container"
  buildah_ commit -q --rm "$container" "$1" >/dev/null
  say "$1 is replaced by debootstrap's $suite"
}

# DOCKERFILE [NAME=VALUE]...: print the base images, with ARGs replaced.
bases() {
  local file=$1 stages pair
  shift
  # Values of arguments override the defaults: the first rule that matches a name changes it.
  local rules=()
  for pair in "$@"; do rules+=(-e "s|\\$\\{?${pair%%=*}\\}?|${pair#*=}|g"); done
  while read -r pair; do rules+=(-e "s|\\$\\{?${pair%%=*}\\}?|${pair#*=}|g"); done \
    < <(sed -nE 's/^ARG +([A-Za-z_0-9]+)="?([^" ]+)"? *$/\1=\2/p' "$file")
  stages=$(sed -nE 's/^FROM .* [Aa][Ss] +([^ ]+).*/\1/p' "$file")
  sed -nE 's/^FROM +(--platform=[^ ]+ +)?([^ ]+).*/\2/p' "$file" | sed -E -e '' "${rules[@]}" | sort -u |
    grep -vxF -e scratch ${stages:+-e "$stages"} || true
}

# Print this machine's pip.conf, with its certificate authorities at the path they have in the build.
pip_settings() {
  echo '[global]'
  if [ -e "$authorities" ]; then echo 'cert = /run/authorities.crt'; fi
  if [ -n "${PIP_INDEX_URL:-}" ]; then echo "index-url = $PIP_INDEX_URL"; fi
  if [ -e /etc/pip.conf ]; then
    sed -E '/^\[global\]/d; /^ *cert *=/d'"${PIP_INDEX_URL:+; /^ *index-url *=/d}" /etc/pip.conf
  fi
}

buildah_build() { # TAG DOCKERFILE CONTEXT [NAME=VALUE]...
  local tag=$1 file=$2 context=$3 base name options=()
  shift 3
  bases "$file" "$@" >"$store/bases"
  while read -r base; do stand_in "$base"; done <"$store/bases"
  for name in "$@"; do options+=(--build-arg "$name"); done
  # This machine's access to the package indexes, mounted for the build only.
  pip_settings >"$store/pip.conf"
  options+=(-v "$store/pip.conf:/etc/pip.conf:ro")
  if [ -e "$authorities" ]; then options+=(-v "$authorities:/run/authorities.crt:ro"); fi
  for name in http_proxy https_proxy no_proxy; do
    if [ -n "${!name:-}" ]; then options+=(--build-arg "$name=${!name}"); fi
  done
  buildah_ bud --isolation chroot --network host --pull-never --layers --format docker \
    --signature-policy "$store/policy.json" "${options[@]}" -t "$tag" -f "$file" "$context"
}

buildah_run() { # OPTION... TAG COMMAND...
  local options=() tag container code=0
  while [[ ${1:-} == -* ]]; do
    case $1 in
      -v) options+=(-v "$2") ;;
      -e) if [[ $2 == *=* ]]; then options+=(-e "$2"); else options+=(-e "$2=${!2-}"); fi ;;
      -w) options+=(--workingdir "$2") ;;
      *) die "run: unknown option $1" ;;
    esac
    shift 2
  done
  tag=$1
  shift
  container=$(buildah_ from --pull-never --signature-policy "$store/policy.json" "$tag")
  flock -u 9
  export -f buildah_
  export store driver
  # buildah ignores the entrypoint of the image, which is tini.
  unshare --mount --pid --fork --kill-child --mount-proc bash -c '
    mount -t tmpfs -o size=64m,mode=1777 shm /dev/shm && buildah_ run --isolation chroot --network host "$@"
  ' run "${options[@]}" "$container" -- /usr/bin/tini -s -- "$@" || code=$?
  flock 9
  buildah_ rm "$container" >/dev/null
  return "$code"
}

# ---- commands

command=${1:-}
[ $# -gt 0 ] && shift
engine=$(find_engine)
case $command in
  engine) echo "$engine" ;;
  build)
    tag=${1:?build needs a TAG}
    shift
    file="" context="." values=()
    while [ $# -gt 0 ]; do
      case $1 in
        -f) file=$2; shift ;;
        --build-arg) values+=("$2"); shift ;;
        *) context=$1 ;;
      esac
      shift
    done
    file=${file:-$context/Dockerfile}
    if [ "$engine" = buildah ]; then
      prepare
      buildah_build "$tag" "$file" "$context" "${values[@]}"
    else
      "$engine" build -t "$tag" -f "$file" "${values[@]/#/--build-arg=}" "$context"
    fi
    ;;
  run)
    if [ "$engine" = buildah ]; then prepare; buildah_run "$@"; else "$engine" run --rm --network host "$@"; fi
    ;;
  rm)
    if [ "$engine" = buildah ]; then prepare; buildah_ rmi "$@"; else "$engine" rmi "$@"; fi
    ;;
  push)
    if [ "$engine" = buildah ]; then
      prepare
      options=()
      # As with docker, a registry on this machine needs no certificate.
      case $1 in 127.0.0.1:* | localhost:*) options+=(--tls-verify=false) ;; esac
      buildah_ push --signature-policy "$store/policy.json" "${options[@]}" "$@"
    else
      "$engine" push "$@"
    fi
    ;;
  *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
esac

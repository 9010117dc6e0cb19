#!/bin/sh
# Installs the Debian packages that building and testing need and that are
# missing: a C compiler for the race detector, jq for the commands of the
# troubleshooting guide, curl as one of the clients in pods. What the local cluster needs it installs itself.
set -eu
packages=""
command -v cc >/dev/null 2>&1 || packages="gcc libc6-dev"
command -v jq >/dev/null 2>&1 || packages="$packages jq"
command -v curl >/dev/null 2>&1 || packages="$packages curl"
[ -n "$packages" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
	echo "Missing programs; install the packages that provide them (on Debian, as root: apt-get install $packages)." >&2
	exit 1
fi
echo "installing $packages"
apt-get update -qq
# shellcheck disable=SC2086 # a list of words
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends $packages >/dev/null

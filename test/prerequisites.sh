#!/bin/sh
# Installs the Debian packages that building and testing need and that are
# missing: a C compiler for the race detector. What the local cluster needs it
# installs itself.
set -eu
if command -v cc >/dev/null 2>&1; then
	exit 0
fi
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" -ne 0 ]; then
	echo "A C compiler is needed for the race detector: install gcc (on Debian, as root: apt-get install gcc libc6-dev)." >&2
	exit 1
fi
echo "installing gcc, which the race detector needs"
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends gcc libc6-dev >/dev/null

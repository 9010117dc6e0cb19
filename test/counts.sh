#!/bin/sh
# Adds up the test results in files of `go test -json` and prints the closing
# line. Fails when a test failed or none ran.
set -eu
count() {
	action=$1
	shift
	cat "$@" | grep "\"Action\":\"$action\"" | grep -c '"Test":' || true
}
passed=$(count pass "$@")
failed=$(count fail "$@")
skipped=$(count skip "$@")
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

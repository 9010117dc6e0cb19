#!/bin/sh
# Runs every fuzz target for the given time. An input that fails is kept by go
# under the package's testdata/fuzz, from where ordinary tests run it again. By
# default go spends a minute to shorten each input that reaches new code: with
# large inputs that would be all it does.
set -eu
time=$1
count=0
for file in $(git grep -l '^func Fuzz' -- '*_test.go'); do
	package=./$(dirname "$file")
	for target in $(sed -n 's/^func \(Fuzz[A-Za-z0-9]*\)(.*/\1/p' "$file"); do
		echo "fuzz: $package $target for $time"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" -fuzzminimizetime 10x
		count=$((count + 1))
	done
done
echo "fuzz: $count targets, $time each, no failure"

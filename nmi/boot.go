package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// bootTime reads when this machine was booted, by its clock of now (proc_stat(5)).
func bootTime(file string) (time.Time, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return time.Time{}, fmt.Errorf("finding out when the node was booted: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 2 && f[0] == "btime" {
			seconds, err := strconv.ParseInt(f[1], 10, 64)
			if err != nil || seconds <= 0 {
				return time.Time{}, errors.Join(fmt.Errorf("finding out when the node was booted: btime of %s is %q", file, f[1]), err)
			}
			return time.Unix(seconds, 0), nil
		}
	}
	return time.Time{}, fmt.Errorf("finding out when the node was booted: %s has no line btime", file)
}

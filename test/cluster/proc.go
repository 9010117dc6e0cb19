package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// procStat is the part of /proc/<pid>/stat that identifies a process for as long as the machine runs.
type procStat struct {
	state byte
	// startTicks is the start time in clock ticks since boot: with the pid it is unique.
	startTicks uint64
}

// parseStat reads the content of /proc/<pid>/stat. The command name in it may hold
// blanks and parentheses, so fields are counted from the last closing one.
func parseStat(data []byte) (procStat, error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return procStat{}, errors.New("no command name")
	}
	fields := strings.Fields(string(data[end+1:]))
	const stateField, startField = 0, 19 // fields 3 and 22 of proc(5)
	if len(fields) <= startField {
		return procStat{}, fmt.Errorf("%d fields after the command name, want more than %d", len(fields), startField)
	}
	start, err := strconv.ParseUint(fields[startField], 10, 64)
	if err != nil {
		return procStat{}, fmt.Errorf("start time: %w", err)
	}
	return procStat{state: fields[stateField][0], startTicks: start}, nil
}

// processInfo is what can be seen of a running process.
type processInfo struct {
	pid     int
	stat    procStat
	exe     string
	args    []string
	cgroups string
}

// inspect looks at a process; ok is false when it is gone or already a zombie.
func inspect(pid int) (processInfo, bool) {
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	data, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return processInfo{}, false
	}
	stat, err := parseStat(data)
	if err != nil || stat.state == 'Z' || stat.state == 'X' {
		return processInfo{}, false
	}
	info := processInfo{pid: pid, stat: stat}
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err == nil {
		info.exe = strings.TrimSuffix(exe, " (deleted)")
	}
	if data, err := os.ReadFile(filepath.Join(dir, "cmdline")); err == nil {
		info.args = strings.Split(strings.TrimSuffix(string(data), "\x00"), "\x00")
	}
	if data, err := os.ReadFile(filepath.Join(dir, "cgroup")); err == nil {
		info.cgroups = string(data)
	}
	return info, true
}

// processes lists all processes of the machine but this one.
func processes() ([]processInfo, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("listing processes: %w", err)
	}
	var all []processInfo
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if info, ok := inspect(pid); ok {
			all = append(all, info)
		}
	}
	return all, nil
}

// serverPrograms are the programs Up starts, and containerd's shims: only these are
// recognised by an argument below the run directory. A shell or editor that merely
// names the directory is not ours.
var serverPrograms = map[string]bool{
	"etcd": true, "kube-apiserver": true, "kube-controller-manager": true, "kube-scheduler": true,
	"kube-proxy": true, "kubelet": true, "containerd": true, "containerd-shim-runc-v2": true,
}

// belongsTo says whether a process is part of the cluster in runDir: one of its servers, a
// program built into programDir that was given a path below runDir, or a process in a container.
func (p processInfo) belongsTo(runDir, programDir string) bool {
	if inCgroup(p.cgroups, cgroupName) {
		return true
	}
	if !serverPrograms[filepath.Base(p.exe)] && !strings.HasPrefix(p.exe, programDir+"/") {
		return false
	}
	for _, arg := range p.args {
		if strings.HasPrefix(arg, runDir+"/") || strings.Contains(arg, "="+runDir+"/") {
			return true
		}
	}
	return false
}

// owns says whether a process is part of this cluster.
func (c *Cluster) owns(p processInfo) bool { return p.belongsTo(c.paths.root, c.builder.BinaryDir()) }

// inCgroup reports whether /proc/<pid>/cgroup places a process below the top-level cgroup name.
func inCgroup(cgroups, name string) bool {
	for line := range strings.Lines(cgroups) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) == 3 && (parts[2] == "/"+name || strings.HasPrefix(parts[2], "/"+name+"/")) {
			return true
		}
	}
	return false
}

func (p processInfo) String() string {
	return fmt.Sprintf("process %d %s", p.pid, strings.Join(p.args, " "))
}

// bootID identifies the current boot of the machine.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("reading the boot ID: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

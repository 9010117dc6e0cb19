package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// mount is an entry of /proc/self/mountinfo.
type mount struct{ target, fsType string }

// parseMountinfo reads mountinfo as proc(5) describes it; blanks in paths are octal escapes there.
func parseMountinfo(data string) []mount {
	var mounts []mount
	for line := range strings.Lines(data) {
		before, after, ok := strings.Cut(line, " - ")
		fields, rest := strings.Fields(before), strings.Fields(after)
		const targetField = 4
		if !ok || len(fields) <= targetField || len(rest) == 0 {
			continue
		}
		mounts = append(mounts, mount{target: unescapeMount(fields[targetField]), fsType: rest[0]})
	}
	return mounts
}

func unescapeMount(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

func listMounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("listing mounts: %w", err)
	}
	return parseMountinfo(string(data)), nil
}

// mountsBelow returns the targets below dir, innermost and latest first, which is the order to unmount them in.
func mountsBelow(mounts []mount, dir string) []string {
	var targets []string
	for _, m := range mounts {
		if strings.HasPrefix(m.target, dir+"/") || m.target == dir {
			targets = append(targets, m.target)
		}
	}
	slices.Reverse(targets)
	slices.SortStableFunc(targets, func(a, b string) int { return strings.Count(b, "/") - strings.Count(a, "/") })
	return targets
}

// cgroupDirs returns the cluster's cgroup in every mounted hierarchy where it exists.
func cgroupDirs() ([]string, error) {
	mounts, err := listMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		if m.fsType != "cgroup" && m.fsType != "cgroup2" {
			continue
		}
		if dir := filepath.Join(m.target, cgroupName); fileExists(dir) && !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// ensureCgroup creates the kubelet's cgroup root, which it expects to exist.
func ensureCgroup() error {
	mounts, err := listMounts()
	if err != nil {
		return err
	}
	for _, m := range mounts {
		if m.fsType != "cgroup" && m.fsType != "cgroup2" {
			continue
		}
		dir := filepath.Join(m.target, cgroupName)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("creating the cluster's cgroup: %w", err)
		}
		if err := inheritCPUSet(m.target, dir); err != nil {
			return err
		}
	}
	return nil
}

// inheritCPUSet fills in what a new cgroup v1 cpuset lacks: no process can join one without processors and memory.
func inheritCPUSet(parent, child string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		have, err := os.ReadFile(filepath.Join(child, name))
		if err != nil || strings.TrimSpace(string(have)) != "" {
			continue // another controller, or already set
		}
		value, err := os.ReadFile(filepath.Join(parent, name))
		if err != nil || strings.TrimSpace(string(value)) == "" {
			continue // cgroup v2: an empty value means that of the parent
		}
		if err := os.WriteFile(filepath.Join(child, name), value, 0o644); err != nil {
			return fmt.Errorf("setting %s of the cluster's cgroup: %w", name, err)
		}
	}
	return nil
}

// removeCgroups removes the emptied hierarchies from the leaves up.
func removeCgroups() error {
	dirs, err := cgroupDirs()
	if err != nil {
		return err
	}
	for _, root := range dirs {
		var all []string
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("listing cgroups: %w", err)
		}
		for _, dir := range slices.Backward(all) {
			if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("removing a cgroup: %w", err)
			}
		}
	}
	return nil
}

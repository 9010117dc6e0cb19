package cluster

import (
	"context"
	"fmt"
	"slices"
	"strings"
)

// Leftovers lists everything of the cluster that this machine still has: processes, mounts,
// interfaces, addresses, iptables rules, cgroups and files. While the cluster runs that is the
// cluster itself; after Down it must be empty. Each line is for people and names one thing.
func (c *Cluster) Leftovers(ctx context.Context) ([]string, error) {
	if err := requireRootOnLinux("look for leftovers of a cluster"); err != nil {
		return nil, err
	}
	var found []string
	all, err := processes()
	if err != nil {
		return nil, err
	}
	for _, p := range all {
		if c.owns(p) {
			found = append(found, p.String())
		}
	}
	mounts, err := listMounts()
	if err != nil {
		return nil, err
	}
	for _, target := range mountsBelow(mounts, c.paths.root) {
		found = append(found, "mount "+target)
	}
	links, err := listLinks(ctx)
	if err != nil {
		return nil, err
	}
	found = append(found, linkLeftovers(links)...)
	states, err := ownedRules(ctx)
	if err != nil {
		return nil, err
	}
	for _, variant := range iptablesVariants {
		found = append(found, states[variant].lines(variant)...)
	}
	cgroups, err := cgroupDirs()
	if err != nil {
		return nil, err
	}
	for _, dir := range cgroups {
		found = append(found, "cgroup "+dir)
	}
	files, err := c.strayFiles()
	if err != nil {
		return nil, err
	}
	if fileExists(c.paths.root) {
		files = append(files, c.paths.root)
	}
	for _, f := range files {
		found = append(found, "file "+f)
	}
	return found, nil
}

// linkLeftovers finds the bridge, interfaces of pods on it, and the metadata address.
func linkLeftovers(links []ipLink) []string {
	var found []string
	for _, l := range links {
		switch {
		case l.Name == bridgeName:
			found = append(found, "interface "+l.Name)
		case l.Master == bridgeName:
			found = append(found, fmt.Sprintf("interface %s on %s", l.Name, bridgeName))
		}
	}
	if has(links, loopback, metadataAddress) {
		found = append(found, "address "+metadataAddress+" on "+loopback)
	}
	slices.SortFunc(found, strings.Compare)
	return found
}

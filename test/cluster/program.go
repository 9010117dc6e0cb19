package cluster

import "context"

// Program is a further program that belongs to the cluster: it is started
// detached, logs into the run directory, and goes with Down. One of its
// arguments must be a path below RunDir, by which Down recognises a process
// whose pid file was lost.
type Program struct {
	// Name of its pid file and log.
	Name string
	// GoPackage is a main package of this repository, relative to its root.
	GoPackage string
	Args      []string
	// Inputs are files that it reads once at its start; a change of one restarts it.
	Inputs []string
}

// EnsureProgram builds and starts a program unless it already runs with the same
// binary, arguments and inputs.
func (c *Cluster) EnsureProgram(ctx context.Context, p Program) error {
	if err := requireRootOnLinux("start " + p.Name); err != nil {
		return err
	}
	exe, err := c.builder.Program(ctx, p.GoPackage)
	if err != nil {
		return err
	}
	_, err = c.ensure(ctx, process{name: p.Name, exe: exe, args: p.Args, inputs: p.Inputs, built: true})
	return err
}

// LogTail returns the last lines that a component or program wrote.
func (c *Cluster) LogTail(name string) string { return c.logTail(name) }

// Command localcluster starts, repairs, inspects and removes the local cluster
// of package test/cluster.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/aad-pod-identity/aad-pod-identity/test/cluster"
	"github.com/aad-pod-identity/aad-pod-identity/test/cluster/image"
)

const usage = `Usage: localcluster [flags] <command>

Runs a real one-node Kubernetes cluster on this machine. Needs root on Linux.

  up              build what is missing, start or repair the cluster, wait until it is ready
  down            remove the cluster and everything it made on this machine
  status          show the processes and the node
  kubeconfig      print the path of the administrator's kubeconfig
  images [name…]  build images of webhook, mic and nmi (default: all three) from this tree and load them
  binaries        build kubectl, helm, kube-apiserver and etcd if needed and print their directory; needs no root
  all-binaries    the same with the programs of a node, which are Linux's
  base-binaries   build the programs of the cluster's own images, cert-manager's above all
  leftovers       list what the cluster has on this machine; exit 1 if there is anything

Flags:
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "localcluster:", err)
		}
		stop()
		os.Exit(1)
	}
}

// errLeftovers makes the command fail after the list was printed.
var errLeftovers = errors.New("the cluster has left something on this machine")

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	opts := cluster.Options{Out: stdout}
	var repository, tag string
	flags := flag.NewFlagSet("localcluster", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(stderr, usage)
		flags.PrintDefaults()
	}
	flags.StringVar(&opts.RunDir, "run-dir", "", "directory of the cluster's state (default $"+cluster.RunDirEnv+", else "+cluster.DefaultRunDir+")")
	flags.StringVar(&opts.NodeName, "node-name", "", "name of the node (default "+cluster.DefaultNodeName+")")
	flags.StringVar(&opts.ProviderID, "provider-id", "", "spec.providerID of the node (default: an instance of a scale set)")
	flags.BoolVar(&opts.WithoutCertManager, "without-cert-manager", false, "leave cert-manager out")
	flags.StringVar(&repository, "repository", image.DefaultRepository, "repository of the loaded images")
	flags.StringVar(&tag, "tag", "dev", "tag of the loaded images")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return flag.ErrHelp
	}
	command, rest := flags.Arg(0), flags.Args()[1:]
	if command != "images" && len(rest) > 0 {
		return fmt.Errorf("%s takes no arguments, got %q", command, rest)
	}
	if strings.HasSuffix(command, "binaries") {
		opts.Out = stderr // standard output is for the path
	}
	c, err := cluster.New(opts)
	if err != nil {
		return err
	}
	switch command {
	case "up":
		return c.Up(ctx)
	case "down":
		return c.Down(ctx)
	case "status":
		return c.Status(ctx)
	case "kubeconfig":
		fmt.Fprintln(stdout, c.Kubeconfig())
		return nil
	case "binaries", "all-binaries":
		build := c.Binaries
		if command == "all-binaries" {
			build = c.AllBinaries
		}
		dir, err := build(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintln(stdout, dir)
		return nil
	case "base-binaries":
		return c.CompileBaseImages(ctx)
	case "images":
		specs, err := selectImages(image.Product(repository, tag, ""), rest)
		if err != nil {
			return err
		}
		return c.LoadImages(ctx, specs...)
	case "leftovers":
		found, err := c.Leftovers(ctx)
		if err != nil {
			return err
		}
		for _, line := range found {
			fmt.Fprintln(stdout, line)
		}
		if len(found) > 0 {
			return errLeftovers
		}
		return nil
	default:
		return fmt.Errorf("unknown command %q; run localcluster -h", command)
	}
}

// selectImages keeps the images whose component is named; all if none is.
func selectImages(specs []image.Spec, names []string) ([]image.Spec, error) {
	if len(names) == 0 {
		return specs, nil
	}
	known := map[string]image.Spec{}
	var all []string
	for _, s := range specs {
		component := s.Name[strings.LastIndex(s.Name, "/")+1:]
		component, _, _ = strings.Cut(component, ":")
		known[component] = s
		all = append(all, component)
	}
	var selected []image.Spec
	for _, n := range names {
		s, ok := known[n]
		if !ok {
			return nil, fmt.Errorf("unknown image %q; known are %s", n, strings.Join(all, ", "))
		}
		selected = append(selected, s)
	}
	return selected, nil
}

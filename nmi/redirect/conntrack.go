package redirect

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// conntrackTimeout bounds the run of the conntrack command.
const conntrackTimeout = 10 * time.Second

// CutConnections deletes the kernel's entries of connections to the real service.
// A connection that a pod opened before the redirect was set goes on around it
// otherwise. Those to NMI are answered from another address and stay: in an upgrade
// the NMI before this one still has some. Failure is logged: the redirect of new
// connections does not depend on it.
func CutConnections(ctx context.Context, target Target) {
	ctx, cancel := context.WithTimeout(ctx, conntrackTimeout)
	defer cancel()
	log := klog.FromContext(ctx)
	var stderr bytes.Buffer
	family := "ipv4"
	if target.Metadata.Is6() {
		family = "ipv6"
	}
	cmd := exec.CommandContext(ctx, "conntrack", "-D", "-f", family, "-p", "tcp",
		"--orig-dst", target.Metadata.String(), "--reply-src", target.Metadata.String(), "--dport", strconv.Itoa(int(target.MetadataPort)))
	cmd.Stderr = &stderr
	err := cmd.Run()
	said := strings.TrimSpace(stderr.String())
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || !strings.Contains(said, "0 flow entries")) {
		log.Error(err, "Cannot cut connections that pods have to the instance metadata service", "output", said)
		return
	}
	log.Info("Cut connections that pods had to the instance metadata service", "output", said)
}

package main

import (
	"context"
	"net/netip"
	"time"

	"k8s.io/klog/v2"

	"github.com/aad-pod-identity/aad-pod-identity/internal/logkey"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
)

// removeLeftIPv6 removes the redirect of IPv6 that an earlier NMI of this node has left,
// whose --metadata-ip6 has been taken away since. It looks again each interval until two
// looks in a row have found nothing: in a rolling update the earlier NMI runs beside this
// one for a while, and puts back what it misses. Many nodes have no nat table of IPv6, and
// so no redirect in it, hence failures are no errors.
func removeLeftIPv6(ctx context.Context, open func() (redirect.IPTables, error), interval time.Duration) {
	log := klog.FromContext(ctx)
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for clean := 0; clean < 2; {
		removed, err := removeFrom(open, netip.Addr{})
		switch {
		case err != nil:
			clean++
			log.V(2).Info("Cannot look for a redirect of IPv6 that an earlier NMI has left", logkey.Reason, err.Error())
		case removed:
			clean = 0
			log.Info("Removed the redirect of IPv6 that an earlier NMI has left; no --metadata-ip6 is given any more")
		default:
			clean++
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

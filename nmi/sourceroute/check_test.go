package sourceroute

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	veth, bridge := device{name: "azv1", kind: "veth"}, device{name: "cni0", kind: "bridge"}
	own := route{device: 5, single: true}
	shared := route{device: 5}
	tests := map[string]struct {
		arrived     int
		route       route
		device      device
		result, why string
	}{
		"by the pod's own interface":                   {5, own, veth, ResultVerified, ""},
		"by that of a virtual machine":                 {5, own, device{name: "tap0", kind: "tun"}, ResultVerified, ""},
		"by another one":                               {6, own, veth, ResultRefused, "came in on interface 6"},
		"by the node's network card":                   {2, own, veth, ResultRefused, "azv1"},
		"on a bridge":                                  {5, shared, bridge, ResultUnverifiable, "not of this address alone"},
		"on a bridge, with a route of its own":         {5, own, bridge, ResultUnverifiable, "other pods may be behind cni0"},
		"by a port of a bridge":                        {5, own, device{name: "v", kind: "veth", port: true}, ResultUnverifiable, "other pods"},
		"for a bridge, by another interface":           {6, shared, bridge, ResultRefused, "cni0"},
		"through an interface of all pods, as by eBPF": {6, shared, device{name: "cilium_host", kind: "veth"}, ResultUnverifiable, "cilium_host"},
		"by the network card, which has further":       {5, own, device{name: "eth0"}, ResultUnverifiable, "other pods may be behind eth0"},
		"the kernel says nothing":                      {0, own, veth, ResultUnverifiable, "does not say"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			result, why := judge(tc.arrived, tc.route, tc.device)
			if result != tc.result || !strings.Contains(why, tc.why) || (why == "") != (result == ResultVerified) {
				t.Errorf("got %s, %q", result, why)
			}
		})
	}
}

func FuzzAnswersOfTheKernel(f *testing.F) {
	f.Add([]byte("\x02\x20\x00\x00\xfe\x00\x00\x01\x00\x00\x00\x00\x08\x00\x04\x00\x05\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = readRoute(data)
		_, _ = readDevice(data)
		_, _ = readPacketInfo(data)
	})
}

package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/aad-pod-identity/aad-pod-identity/internal/run"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/redirect"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/server"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/sourceroute"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/token"
	"github.com/aad-pod-identity/aad-pod-identity/nmi/tracing"
)

// Values of --operation-mode.
const (
	modeStandard = "standard"
	modeManaged  = "managed"
)

// options are the command line. Names and defaults of flags are those of the 1.8
// releases, unless said otherwise.
type options struct {
	run.CommonFlags

	kubeconfig             string // new; formerly the environment only
	node                   string
	listenAddress          string
	port                   string
	metadataIP             string
	metadataIP6            string // new
	metadataPort           string
	redirectSeconds        int
	forceNamespaced        bool
	micNamespace           string
	micServiceAccount      string // new
	createdAttempts        int
	assignedAttempts       int
	attemptSeconds         int
	scaleFeatures          bool
	blockInstance          bool
	metadataHeaderRequired bool
	operationMode          string
	allowKubenet           bool
	kubeletConfig          string
	setRetryAfter          bool
	conntrackDeletion      bool
	hostToken              bool     // new
	authorityHosts         []string // new
	cloudCAFile            string   // new

	// New, of the node side.
	handoverDir  string
	generation   int64 // of the DaemonSet's pod template, 0 if it is not known
	probeSocket  string
	limits       server.Limits
	daemonSet    string
	startupTaint string
	selfTest     string
	sourceCheck  string
	traces       string
	traceRatio   float64
	records      bool // with JSON logs
}

func newOptions() *options {
	return &options{CommonFlags: run.CommonFlags{ProbePort: "8080", PrometheusPort: "9090"}}
}

func (o *options) addFlags(fs *pflag.FlagSet) {
	o.AddFlags(fs)
	fs.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; default $KUBECONFIG, else the pod's service account")
	fs.StringVar(&o.node, "node", "", "name of this node")
	fs.StringVar(&o.listenAddress, "nmi-listen-address", "127.0.0.1", "IPv4 address of this node to listen on and redirect to, or its IPv4 and its IPv6 address separated by a comma; 127.0.0.1 is listened on as well")
	fs.StringVar(&o.port, "nmi-port", "2579", "port to listen on")
	fs.StringVar(&o.metadataIP, "metadata-ip", "169.254.169.254", "IPv4 address of the instance metadata service")
	fs.StringVar(&o.metadataIP6, "metadata-ip6", "", "IPv6 address of the instance metadata service, to be redirected too; empty for none")
	fs.StringVar(&o.metadataPort, "metadata-port", "80", "port of the instance metadata service")
	fs.IntVar(&o.redirectSeconds, "ipt-update-interval-sec", 60, "seconds between two looks at the iptables rules")
	fs.BoolVar(&o.forceNamespaced, "forceNamespaced", false, "confine every identity to pods of its namespace; also $FORCENAMESPACED")
	fs.StringVar(&o.micNamespace, "MICNamespace", "default", "namespace of MIC and of the uninstall marker")
	fs.StringVar(&o.micServiceAccount, "mic-service-account", "aad-pod-id-mic-service-account", "service account of MIC, whose pods get the node's own managed identity; empty for none")
	fs.IntVar(&o.createdAttempts, "retry-attempts-for-created", 16, "how many times --find-identity-retry-interval a request waits for an AzureAssignedIdentity")
	fs.IntVar(&o.assignedAttempts, "retry-attempts-for-assigned", 4, "how many more times it waits for that to be Assigned")
	fs.IntVar(&o.attemptSeconds, "find-identity-retry-interval", 5, "seconds; see --retry-attempts-for-created")
	fs.BoolVar(&o.scaleFeatures, "enableScaleFeatures", true, "watch only the AzureAssignedIdentities labelled with this node")
	fs.BoolVar(&o.blockInstance, "block-instance-metadata", false, "refuse /metadata/instance to pods")
	fs.BoolVar(&o.metadataHeaderRequired, "metadata-header-required", true, "refuse requests without the header Metadata: true")
	fs.StringVar(&o.operationMode, "operation-mode", modeStandard, "standard or managed")
	fs.BoolVar(&o.allowKubenet, "allow-network-plugin-kubenet", false, "start on kubenet, where pods with CAP_NET_RAW can take each other's address (CVE-2021-1677)")
	fs.StringVar(&o.kubeletConfig, "kubelet-config", "/etc/default/kubelet", "file with the kubelet's flags, searched for kubenet")
	fs.BoolVar(&o.setRetryAfter, "set-retry-after-header", false, "answer 503 with Retry-After, not 404, when a pod has no identity (yet)")
	fs.BoolVar(&o.conntrackDeletion, "enable-conntrack-deletion", false, "whenever the redirect had to be set, cut connections that pods have to the instance metadata service")
	fs.StringVar(&o.handoverDir, "handover-dir", "", "directory of the node in which the next NMI takes over the listening sockets of this one; empty for none")
	fs.StringVar(&o.probeSocket, "probe-socket", "", "unix socket, of this container alone, on which the probes are served as well; empty for none")
	fs.StringVar(&o.daemonSet, "daemonset", "", "namespace/name of NMI's DaemonSet: when that no longer selects this node, the redirect is removed at NMI's end")
	fs.StringVar(&o.selfTest, "self-test-service-account", "", "namespace/name of the service account of the self-test pods, which ask whether the redirect works; empty for none")
	fs.StringVar(&o.sourceCheck, "source-address-check", string(sourceroute.Auto), "check that a pod's connection came in by the route to its source address: auto, where the network tells that; on, refusing pods where it does not; off")
	fs.StringVar(&o.traces, "tracing-endpoint", "", "URL of an OpenTelemetry collector that traces are sent to, by OTLP over HTTP; empty for none")
	fs.Float64Var(&o.traceRatio, "tracing-sample-ratio", 1, "part of the requests that is traced, from 0 to 1")
	fs.StringVar(&o.startupTaint, "startup-taint", "", "key of a taint that is taken off this node once NMI is ready; empty for none")
	fs.IntVar(&o.limits.Connections, "max-connections", server.DefaultLimits.Connections, "connections of all pods together")
	fs.IntVar(&o.limits.ConnectionsPerPod, "max-connections-per-pod", server.DefaultLimits.ConnectionsPerPod, "connections of one pod, or fewer while many pods hold many; beyond, it gets 429")
	fs.IntVar(&o.limits.RequestsPerPod, "max-requests-per-pod", server.DefaultLimits.RequestsPerPod, "requests of one pod under way at a time; beyond, it gets 429")
	fs.BoolVar(&o.hostToken, "enable-host-token", true, "serve /host/token to processes of the node")
	fs.StringSliceVar(&o.authorityHosts, "allowed-authority-hosts", nil, "hosts, comma-separated, that credentials of service principals may be sent to besides the authorities of Azure's clouds")
	fs.StringVar(&o.cloudCAFile, "cloud-ca-file", "", "PEM file with CAs to trust, besides the system's, for Azure AD")
}

// parse reads command line and environment and checks everything before anything
// starts. Done is true when there is nothing to serve.
func (o *options) parse(args []string, env func(string) (string, bool)) (done bool, err error) {
	fs := pflag.NewFlagSet(component, pflag.ContinueOnError)
	o.addFlags(fs)
	if done, err := o.Parse(fs, component, args); done || err != nil {
		return done, err
	}
	if f := fs.Lookup("logging-format"); f != nil {
		o.records = f.Value.String() == "json"
	}
	if err := errors.Join(append(o.fromEnv(fs, env), o.validate()...)...); err != nil {
		return false, run.Usagef("%w", err)
	}
	return false, nil
}

func (o *options) fromEnv(fs *pflag.FlagSet, env func(string) (string, bool)) []error {
	if v, ok := env("KUBECONFIG"); ok && o.kubeconfig == "" {
		o.kubeconfig = v
	}
	if v, ok := env("FORCENAMESPACED"); ok && v != "" && !fs.Changed("forceNamespaced") {
		b, err := strconv.ParseBool(v)
		if err != nil {
			return []error{fmt.Errorf("FORCENAMESPACED=%q: must be true or false", v)}
		}
		o.forceNamespaced = b
	}
	if v, ok := env("POD_TEMPLATE_GENERATION"); ok && v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return []error{fmt.Errorf("POD_TEMPLATE_GENERATION=%q: must be a number", v)}
		}
		o.generation = n
	}
	return nil
}

// validate returns every mistake.
func (o *options) validate() []error {
	errs := o.Validate()
	bad := func(flag string, value any, rule string) {
		errs = append(errs, fmt.Errorf("--%s=%v: %s", flag, value, rule))
	}
	if o.node == "" {
		errs = append(errs, errors.New("--node: required, the name of this node"))
	}
	if ip, err := netip.ParseAddr(o.metadataIP); err != nil || !ip.Is4() {
		bad("metadata-ip", strconv.Quote(o.metadataIP), "must be an IPv4 address")
	}
	if ip, err := netip.ParseAddr(o.metadataIP6); o.metadataIP6 != "" && (err != nil || !ordinaryIPv6(ip)) {
		bad("metadata-ip6", strconv.Quote(o.metadataIP6), "must be an IPv6 address")
	}
	if _, _, err := o.listenAddresses(); err != nil {
		errs = append(errs, err)
	}
	for _, p := range []struct{ flag, value string }{{"nmi-port", o.port}, {"metadata-port", o.metadataPort}} {
		if err := run.ValidatePort(p.flag, p.value); err != nil {
			errs = append(errs, err)
		}
	}
	for _, n := range []struct {
		flag       string
		value, min int
	}{
		{"ipt-update-interval-sec", o.redirectSeconds, 1},
		{"find-identity-retry-interval", o.attemptSeconds, 1},
		{"retry-attempts-for-created", o.createdAttempts, 0},
		{"retry-attempts-for-assigned", o.assignedAttempts, 0},
	} {
		// An hour is more than any client waits, and far from overflow.
		if n.value < n.min || n.value > 3600 {
			bad(n.flag, n.value, fmt.Sprintf("must be from %d to 3600", n.min))
		}
	}
	for flag, value := range map[string]int{
		"max-connections": o.limits.Connections, "max-connections-per-pod": o.limits.ConnectionsPerPod, "max-requests-per-pod": o.limits.RequestsPerPod,
	} {
		if value < 1 || value > 1<<20 {
			bad(flag, value, "must be from 1 to 1048576")
		}
	}
	for flag, value := range map[string]string{"daemonset": o.daemonSet, "self-test-service-account": o.selfTest} {
		if namespace, name, _ := strings.Cut(value, "/"); value != "" && (namespace == "" || name == "" || strings.Contains(name, "/")) {
			bad(flag, strconv.Quote(value), "must be namespace/name")
		}
	}
	if !slices.Contains(sourceroute.Modes, sourceroute.Mode(o.sourceCheck)) {
		bad("source-address-check", strconv.Quote(o.sourceCheck), "must be auto, on or off")
	}
	if o.traces != "" {
		if _, err := tracing.ParseEndpoint(o.traces); err != nil {
			errs = append(errs, fmt.Errorf("--tracing-endpoint: %w", err))
		}
	}
	if !(o.traceRatio >= 0 && o.traceRatio <= 1) { // also not NaN
		bad("tracing-sample-ratio", o.traceRatio, "must be from 0 to 1")
	}
	if o.startupTaint != "" {
		if wrong := validation.IsQualifiedName(o.startupTaint); len(wrong) > 0 {
			bad("startup-taint", strconv.Quote(o.startupTaint), strings.Join(wrong, "; "))
		}
	}
	switch o.operationMode = strings.ToLower(o.operationMode); o.operationMode {
	case modeStandard:
	case modeManaged:
		if !o.forceNamespaced {
			bad("operation-mode", o.operationMode, "requires --forceNamespaced")
		}
	default:
		bad("operation-mode", strconv.Quote(o.operationMode), "must be standard or managed")
	}
	if _, err := token.NewAuthorities(o.authorityHosts); err != nil {
		errs = append(errs, fmt.Errorf("--allowed-authority-hosts: %w", err))
	}
	return errs
}

// listenAddresses are the node's addresses to listen on: one of IPv4, and one of IPv6 or
// an invalid one.
func (o *options) listenAddresses() (v4, v6 netip.Addr, err error) {
	bad := false
	for a := range strings.SplitSeq(o.listenAddress, ",") {
		ip, wrong := netip.ParseAddr(strings.TrimSpace(a))
		switch {
		case wrong == nil && ip.Is4() && !v4.IsValid():
			v4 = ip
		case wrong == nil && ordinaryIPv6(ip) && !ip.IsUnspecified() && !ip.IsLoopback() && !v6.IsValid():
			v6 = ip
		default:
			bad = true
		}
	}
	if bad || !v4.IsValid() {
		return v4, v6, fmt.Errorf("--nmi-listen-address=%q: must be an IPv4 address, or an IPv4 and an IPv6 address separated by a comma", o.listenAddress)
	}
	return v4, v6, nil
}

func ordinaryIPv6(ip netip.Addr) bool { return ip.Is6() && !ip.Is4In6() && ip.Zone() == "" }

// targets are the redirects that the options ask for: that of IPv4, and with an IPv6
// address of the service one of that. Listening on all addresses gives no address to
// redirect to but the loopback one. A node without an IPv6 address, on which pods may
// still have one, redirects to nowhere.
func (o *options) targets() ([]redirect.Target, error) {
	metadataPort, err := strconv.ParseUint(o.metadataPort, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("--metadata-port: %w", err)
	}
	port, err := strconv.ParseUint(o.port, 10, 16)
	if err != nil {
		return nil, fmt.Errorf("--nmi-port: %w", err)
	}
	v4, v6, err := o.listenAddresses()
	if err != nil {
		return nil, err
	}
	if v4.IsUnspecified() {
		v4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	if !v6.IsValid() {
		v6 = redirect.Discard
	}
	metadata, err := netip.ParseAddr(o.metadataIP)
	if err != nil {
		return nil, fmt.Errorf("--metadata-ip: %w", err)
	}
	targets := []redirect.Target{{Metadata: metadata, MetadataPort: uint16(metadataPort), NMI: netip.AddrPortFrom(v4, uint16(port))}}
	if o.metadataIP6 != "" {
		metadata, err := netip.ParseAddr(o.metadataIP6)
		if err != nil {
			return nil, fmt.Errorf("--metadata-ip6: %w", err)
		}
		targets = append(targets, redirect.Target{Metadata: metadata, MetadataPort: uint16(metadataPort), NMI: netip.AddrPortFrom(v6, uint16(port))})
	}
	return targets, nil
}

// listeners are the addresses and ports to listen on for pods and for processes of the
// node.
func (o *options) listeners() ([]string, error) {
	v4, v6, err := o.listenAddresses()
	if err != nil {
		return nil, err
	}
	all := []string{net.JoinHostPort(v4.String(), o.port)}
	if !v4.IsLoopback() && !v4.IsUnspecified() {
		all = append(all, net.JoinHostPort(loopback, o.port))
	}
	if v6.IsValid() && o.metadataIP6 != "" {
		all = append(all, net.JoinHostPort(v6.String(), o.port))
	}
	return all, nil
}

func (o *options) waiting() server.Waiting {
	if o.operationMode == modeManaged {
		return server.Waiting{} // nobody is about to assign anything
	}
	each := time.Duration(o.attemptSeconds) * time.Second
	return server.Waiting{
		Created:  time.Duration(o.createdAttempts) * each,
		Assigned: time.Duration(o.assignedAttempts) * each,
	}
}

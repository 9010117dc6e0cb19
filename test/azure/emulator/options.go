package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/spf13/pflag"

	"github.com/aad-pod-identity/aad-pod-identity/test/azure"
)

// options are the flags of the program.
type options struct {
	listen, httpListen, hosts, imds        []string
	publicURL, control, stateDir, seedFile string
	quiet                                  bool
}

func (o *options) addFlags(f *pflag.FlagSet) {
	f.StringSliceVar(&o.listen, "listen", []string{"127.0.0.1:8443"}, "addresses of ARM and AAD over HTTPS; the first one is named in environment.json and in tokens")
	f.StringSliceVar(&o.httpListen, "http-listen", nil, "addresses that serve the same over plain HTTP")
	f.StringSliceVar(&o.hosts, "host", nil, "further names or IP addresses of the serving certificate, such as management.azure.com")
	f.StringVar(&o.publicURL, "public-url", "", "URL under which clients reach the emulator, if it is not the first --listen address")
	f.StringArrayVar(&o.imds, "imds", nil, "listen=ADDRESS,resource=ID: serve the IMDS of the VM or scale set instance ID at ADDRESS; repeatable")
	f.StringVar(&o.control, "control", "127.0.0.1:8444", "address of the control API, which has no authentication")
	f.StringVar(&o.stateDir, "state-dir", "", "directory for ca.pem, environment.json and azure.json, and for the keys and registry that make a restart the same cloud; empty keeps nothing")
	f.StringVar(&o.seedFile, "seed", "", "JSON file with the initial tenant, settings, compute, identities, apps, roles and azureConfig")
	f.BoolVar(&o.quiet, "quiet", false, "no access log")
}

// seed is the file of --seed.
type seed struct {
	TenantID string         `json:"tenantID,omitempty"`
	Settings azure.Settings `json:"settings,omitzero"`
	azure.State
	// AzureConfig makes the emulator write azure.json.
	AzureConfig *azure.AzureConfig `json:"azureConfig,omitempty"`
}

func readSeed(path string) (seed, error) {
	var s seed
	if path == "" {
		return s, nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return s, fmt.Errorf("reading the seed: %w", err)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&s); err != nil {
		return s, fmt.Errorf("reading the seed %s: %w", path, err)
	}
	return s, nil
}

// endpoint is one value of --imds.
type endpoint struct{ listen, resource string }

// validate checks all flags at once, before anything starts.
func (o options) validate() ([]endpoint, error) {
	var errs []error
	address := func(flag, value string) {
		if _, _, err := net.SplitHostPort(value); err != nil {
			errs = append(errs, fmt.Errorf("--%s: %w", flag, err))
		}
	}
	if len(o.listen) == 0 {
		errs = append(errs, errors.New("--listen: at least one address is needed"))
	}
	for _, a := range o.listen {
		address("listen", a)
	}
	for _, a := range o.httpListen {
		address("http-listen", a)
	}
	address("control", o.control)
	if o.publicURL != "" && (!strings.HasPrefix(o.publicURL, "https://") || strings.HasSuffix(o.publicURL, "/")) {
		errs = append(errs, fmt.Errorf("--public-url: %q does not begin with https:// or ends in /", o.publicURL))
	}
	var endpoints []endpoint
	for _, value := range o.imds {
		e, err := parseIMDS(value)
		if err != nil {
			errs = append(errs, fmt.Errorf("--imds: %w", err))
			continue
		}
		address("imds", e.listen)
		endpoints = append(endpoints, e)
	}
	return endpoints, errors.Join(errs...)
}

func parseIMDS(value string) (endpoint, error) {
	var e endpoint
	for part := range strings.SplitSeq(value, ",") {
		name, v, _ := strings.Cut(part, "=")
		switch name {
		case "listen":
			e.listen = v
		case "resource":
			e.resource = v
		default:
			return e, fmt.Errorf("%q: unknown key %q, want listen=ADDRESS,resource=ID", value, name)
		}
	}
	if e.listen == "" || e.resource == "" {
		return e, fmt.Errorf("%q: want listen=ADDRESS,resource=ID", value)
	}
	return e, nil
}

package main

import "testing"

func TestCertificateOptions(t *testing.T) {
	self := []string{"--cert-mode=self", "--cert-secret=certs", "--namespace=ns", "--service=webhook", "--webhook-configuration=webhook"}
	checkOptions(t, map[string]optionsTest{
		"files, as before":                          {nil, nil},
		"certificates of its own":                   {self, nil},
		"files that are checked":                    {[]string{"--namespace=ns", "--service=webhook", "--webhook-configuration=webhook", "--pod-name=webhook-1"}, nil},
		"an unknown mode":                           {[]string{"--cert-mode=cert-manager"}, []string{`--cert-mode="cert-manager": must be files or self`}},
		"a Secret that is mounted":                  {[]string{"--cert-secret=certs"}, []string{`--cert-secret="certs": only with --cert-mode=self`}},
		"certificates of its own, but not for whom": {[]string{"--cert-mode=self"}, []string{"--cert-secret: required with --cert-mode=self", "--service: required", "--webhook-configuration: required"}},
		"a Service of no namespace":                 {[]string{"--service=webhook"}, []string{"--namespace: required with --service"}},
		"a pod of no namespace":                     {[]string{"--pod-name=webhook-1"}, []string{"--namespace: required with --pod-name"}},
		"a warning after the end":                   {[]string{"--cert-expiry-warning=-1h"}, []string{"--cert-expiry-warning=-1h0m0s: must not be negative"}},
		"no directory":                              {append(self, "--cert-dir="), []string{"--cert-dir: must not be empty"}},
	})
}

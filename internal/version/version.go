// Package version holds the build stamp of the binaries and the user agent they
// send to Azure.
package version

import "strings"

// Set at link time with -ldflags "-X …/internal/version.Version=v1.2.3".
var (
	// Version is the release, or "dev".
	Version = "dev"
	// Commit is the abbreviated source commit.
	Commit = "unknown"
	// Date is the build date, RFC 3339.
	Date = "unknown"
)

// String is what --version prints.
func String(component string) string {
	return component + " " + Version + " (commit " + Commit + ", built " + Date + ")"
}

// UserAgent identifies a component to Azure, in the form of the 1.8 releases:
// aad-pod-identity/<component>/<version>/<commit>/<date>, followed by a custom
// text if there is one.
func UserAgent(component, custom string) string {
	ua := "aad-pod-identity/" + strings.ToUpper(component) + "/" + Version + "/" + Commit + "/" + Date
	if custom = strings.TrimSpace(custom); custom != "" {
		ua += " " + custom
	}
	return ua
}

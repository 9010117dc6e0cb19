package image

import "path"

// DefaultRepository is where the chart looks for the product's images.
const DefaultRepository = "mcr.microsoft.com/oss/azure/aad-pod-identity"

// Product are the images of webhook, MIC and NMI as the chart names them: <repository>/<component>:<tag>.
// ldflags stamp the version into the binaries.
func Product(repository, tag, ldflags string) []Spec {
	name := func(component string) string { return path.Join(repository, component) + ":" + tag }
	return []Spec{
		{Name: name("webhook"), GoPackage: "./webhook", LDFlags: ldflags},
		{Name: name("mic"), GoPackage: "./mic", LDFlags: ldflags},
		// NMI runs as root with few capabilities. Debian's iptables writes to nf_tables; rules of iptables-legacy may be beside these.
		{Name: name("nmi"), GoPackage: "./nmi", LDFlags: ldflags, User: "0:0", DebianPackages: []string{"iptables", "conntrack"}},
	}
}

// Pause is the image of the process that holds a pod's namespaces.
func Pause(name string) Spec {
	return Spec{Name: name, GoPackage: "./test/cluster/pause"}
}

// CertManager are the images of cert-manager's three components as its chart names them: <repository>/cert-manager-<component>:<tag>.
func CertManager(repository, tag string) []Spec {
	const module = "test/cluster/binaries/certmanager"
	var specs []Spec
	for _, component := range []string{"controller", "cainjector", "webhook"} {
		specs = append(specs, Spec{
			Name:      path.Join(repository, "cert-manager-"+component) + ":" + tag,
			GoPackage: "./" + component, ModuleDir: module, Pinned: true,
		})
	}
	return specs
}
